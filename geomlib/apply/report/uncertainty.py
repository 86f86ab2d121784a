"""The part of a report about what a committee knows of its own errors."""

import numpy as np

from geomlib.apply.calibration import Calibration, ForceUncertainty, binned, calibration, coverage
from geomlib.apply.report.parts import Fact, Section, facts, figure_card, note, number
from geomlib.apply.vector_graphics import MUTED, SERIES, figure, plain_log_axis, to_svg

__all__ = ["calibration_plot", "coverage_plot", "uncertainty_section"]


def uncertainty_section(forces: ForceUncertainty) -> Section:
    """Correlation, calibration and coverage of a committee's model deviation of forces."""
    found = calibration(forces)
    if not (np.isfinite(found.scale) and found.scale > 0):
        return Section(
            "uncertainty",
            "Uncertainty",
            note(["The members agree exactly, or make no error: there is nothing to compare."]),
        )
    rows = [
        Fact("Spearman, atoms", f"{found.atoms.spearman:.2f}", below=f"{found.atoms.count:,} forces"),
        Fact("Spearman, structures", f"{found.frames.spearman:.2f}", below="largest deviation and error of each"),
        Fact("Pearson, atoms", f"{found.atoms.pearson:.2f}"),
        Fact("error / deviation", number(found.scale), below="root mean square; 1 is ideal"),
        Fact("within one σ", f"{100 * found.coverage:.0f}", "%", "of the components; 68 % is ideal"),
    ]
    cards = [
        figure_card(
            calibration_plot(forces, found),
            "Model deviation of the force on an atom against its true error: atoms as points, the root mean square of "
            "bins with equally many atoms as circles. On the line the committee knows its error; above it, it is too "
            "sure of itself.",
        )
    ]
    if len(forces.sizes) > 1:
        cards.append(
            figure_card(
                coverage_plot(forces),
                "How many force components lie within the interval that should hold so many of them, if errors are "
                "Gaussian with the deviation as their width. Scaled: deviations of the second half of the structures, "
                "times the ratio of error and deviation in the first half.",
            )
        )
    return Section("uncertainty", "Uncertainty", facts(rows) + f'<div class="grid spaced">{"".join(cards)}</div>')


def calibration_plot(forces: ForceUncertainty, found: Calibration, points: int = 3000) -> str:
    """True error against model deviation, both logarithmic, with bins and the ideal line.

    Args:
        forces: deviations and errors.
        found: their calibration.
        points: atoms to draw at most.
    """
    deviation, error = forces.deviation, np.linalg.norm(forces.error, axis=1)
    seen = (deviation > 0) & (error > 0)
    deviation, error = deviation[seen], error[seen]
    chosen = np.linspace(0, len(deviation) - 1, min(len(deviation), points)).astype(int)
    spread, size = binned(forces)
    with figure(4.3, 3.9) as (drawing, (axes,)):
        axes.scatter(deviation[chosen], error[chosen], s=5, color=SERIES[0], alpha=0.25, linewidths=0)
        limits = _limits(deviation), _limits(error)
        axes.set(xlim=limits[0], ylim=limits[1])
        ends = [min(low for low, _ in limits), max(high for _, high in limits)]
        axes.plot(ends, ends, color=MUTED, linewidth=1.0, zorder=1, scalex=False, scaley=False)
        axes.plot(spread, size, color=SERIES[1], marker="o", markersize=4, linewidth=1.2)
        plain_log_axis(axes, "both")
        axes.set(xlabel="model deviation [eV/Å]", ylabel="true force error [eV/Å]")
        axes.set_title(f"forces, Spearman {found.atoms.spearman:.2f}")
        return to_svg(drawing, "calibration", "True force error against model deviation, with bins and the ideal line")


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Of a logarithmic axis, without the smallest few of a thousand values, which scatter far."""
    return float(np.quantile(values, 0.002)) / 1.3, float(values.max()) * 1.3


def coverage_plot(forces: ForceUncertainty) -> str:
    """Observed against expected coverage, as the deviations are and after scaling them."""
    expected = np.linspace(0.0, 0.99, 100)
    first, second = forces.halves()
    scale = calibration(first).scale
    with figure(4.3, 3.9) as (drawing, (axes,)):
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1.0, zorder=1)
        axes.plot(100 * expected, 100 * coverage(forces, expected), color=SERIES[0], label="as it is")
        if np.isfinite(scale):
            scaled = 100 * coverage(second, expected, scale)
            axes.plot(100 * expected, scaled, color=SERIES[1], label=f"scaled by {scale:.3g}")
        axes.set(xlabel="expected [%]", ylabel="observed [%]", xlim=(0, 100), ylim=(0, 100), aspect="equal")
        axes.set_title("force components within an interval")
        axes.legend(loc="upper left")
        return to_svg(drawing, "coverage", "Observed against expected coverage of force errors by the deviation")
