"""The figures of a report."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from geomlib.apply.evaluate import Errors
from geomlib.apply.rdf import RadialDistribution
from geomlib.apply.run_folder import QUANTITIES, Comparison, Curve
from geomlib.apply.vector_graphics import INK, MUTED, SERIES, density_or_points, figure, plain_log_axis, to_svg

__all__ = [
    "deviation_plot",
    "element_plot",
    "energy_plot",
    "learning_curve",
    "parity_plot",
    "radial_plot",
    "temperature_plot",
]

_AXES = {
    "energy": ("energy − mean label", "meV/atom", 1e3),
    "forces": ("force component", "eV/Å", 1.0),
    "stress": ("stress component", "GPa", QUANTITIES["stress"][0]),
    "virial": ("virial component per atom", "eV/atom", 1.0),
}
"""Quantity → how the axes of its parity plot are called, their unit, and the factor from internal units."""


def parity_plot(comparison: Comparison) -> str:
    """Prediction against label, and the histogram of their differences."""
    words, unit, factor = _AXES[comparison.name]
    label, prediction = comparison.label.reshape(-1) * factor, comparison.prediction.reshape(-1) * factor
    shift = label.mean() if comparison.name == "energy" else 0.0
    label, prediction = label - shift, prediction - shift
    with figure(7.4, 3.3, columns=2) as (drawing, (left, right)):
        limits = _padded(np.concatenate([label, prediction]))
        left.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
        density_or_points(left, label, prediction, limits)
        left.set(xlim=limits, ylim=limits, xlabel=f"label [{unit}]", ylabel=f"prediction [{unit}]", aspect="equal")
        left.set_title(words)
        scale, error_unit = QUANTITIES[comparison.name]
        error = (comparison.prediction - comparison.label).reshape(-1) * scale
        # the tails stay countable in the outermost bins
        reach = float(np.quantile(np.abs(error), 0.995)) or 1.0
        bins = 2 * int(np.clip(np.sqrt(len(error)), 8, 30)) + 1
        right.hist(np.clip(error, -reach, reach), bins=bins, range=(-reach, reach), color=SERIES[0], alpha=0.8)
        mean = float(error.mean()) if abs(error.mean()) > 1e-3 * error.std() else 0.0
        right.axvline(mean, color=SERIES[1], linewidth=1.2)
        right.set(xlabel=f"prediction − label [{error_unit}]", ylabel="count", xlim=(-reach, reach))
        right.set_title(f"errors, mean {f'{mean:+.2g}' if mean else '0'} {error_unit}")
        return to_svg(
            drawing,
            f"parity-{comparison.name}",
            f"Predicted against true {comparison.name} of {len(label)} numbers, and the histogram of the errors",
        )


def _padded(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def learning_curve(title: str, unit: str, curves: Mapping[str, Curve], factor: float = 1.0) -> str:
    """Logged numbers against optimizer steps, both logarithmic.

    Args:
        title: what is logged.
        unit: of the ordinate.
        curves: name in the legend → its course.
        factor: from the logged unit to `unit`.
    """
    with figure(4.3, 2.9) as (drawing, (axes,)):
        plotted = []
        for index, (name, curve) in enumerate(curves.items()):
            positive = (curve.value > 0) & np.isfinite(curve.value)
            marker = "o" if positive.sum() < 60 else None
            values = factor * curve.value[positive]
            axes.plot(curve.step[positive], values, color=SERIES[index], label=name, marker=marker, markersize=2.5)
            plotted.append(values)
        every = np.concatenate(plotted)
        if every.min() < 1e-4 * every.max():  # a learning rate that ends at nothing would flatten all before it
            axes.set_ylim(bottom=1e-4 * every.max())
        plain_log_axis(axes, "both")
        axes.set(xlabel="optimizer step", ylabel=unit or title)
        axes.set_title(title)
        if len(curves) > 1:
            axes.legend()
        return to_svg(drawing, f"curve-{title}", f"{title} against optimizer steps: {', '.join(curves)}")


def element_plot(errors: Mapping[str, Errors]) -> str:
    """Force errors by element beside the spread of the labels."""
    with figure(7.4, 2.5) as (drawing, (axes,)):
        place = np.arange(len(errors))
        rows = list(errors.values())
        axes.bar(place - 0.2, [row.mae for row in rows], 0.38, color=SERIES[0], label="MAE")
        axes.bar(place + 0.2, [row.rmse for row in rows], 0.38, color=SERIES[1], label="RMSE")
        axes.set_xticks(place, list(errors))
        axes.set(ylabel=f"force error [{rows[0].unit}]", xlim=(-0.7, max(len(errors), 4) - 0.3))
        axes.grid(visible=False, axis="x")
        axes.legend()
        return to_svg(drawing, "elements", f"Force errors by element: {', '.join(errors)}")


def temperature_plot(time_ps: NDArray[np.float64], temperature: NDArray[np.float64], name: str) -> str:
    """Temperature against time, with the mean of the second half."""
    with figure(4.3, 2.7) as (drawing, (axes,)):
        axes.plot(time_ps, temperature, color=SERIES[0], linewidth=1.0)
        half = len(temperature) // 2
        mean = float(temperature[half:].mean())
        axes.hlines(mean, time_ps[half], time_ps[-1], color=SERIES[1], linewidth=1.4)
        axes.set(xlabel="time [ps]", ylabel="temperature [K]")
        axes.set_title(f"temperature, second half {mean:.0f} K")
        return to_svg(drawing, f"temperature-{name}", f"Temperature against time, {mean:.0f} K in the second half")


def energy_plot(
    time_ps: NDArray[np.float64], energy: NDArray[np.float64], name: str, title: str, slope: float | None
) -> str:
    """Energy per atom against time, with a straight line through it where it should stay constant.

    Args:
        time_ps: [ps].
        energy: per atom, from its start [meV].
        name: of the simulation.
        title: what the energy is.
        slope: of the line [meV/atom/ps]; None draws none.
    """
    with figure(4.3, 2.7) as (drawing, (axes,)):
        axes.plot(time_ps, energy, color=SERIES[0], linewidth=1.0)
        if slope is not None:
            middle, level = time_ps.mean(), energy.mean()
            axes.plot(time_ps[[0, -1]], level + slope * (time_ps[[0, -1]] - middle), color=SERIES[1], linewidth=1.4)
            title = f"{title}, drift {slope:+.2g} meV/atom/ps"
        axes.set(xlabel="time [ps]", ylabel="change [meV/atom]")
        axes.set_title(title)
        return to_svg(drawing, f"energy-{name}", f"{title}, against time")


def deviation_plot(
    time_ps: NDArray[np.float64], largest: NDArray[np.float64], mean: NDArray[np.float64], name: str
) -> str:
    """Model deviation of forces against time: of the atom with the largest, and the mean over atoms [eV/Å]."""
    with figure(4.3, 2.7) as (drawing, (axes,)):
        axes.plot(time_ps, largest, color=SERIES[0], linewidth=1.0, label="largest")
        axes.plot(time_ps, mean, color=SERIES[1], linewidth=1.0, label="mean")
        axes.set(xlabel="time [ps]", ylabel="deviation [eV/Å]", ylim=(0, None))
        axes.set_title(f"model deviation of forces, at most {largest.max():.2g} eV/Å")
        axes.legend()
        return to_svg(drawing, f"deviation-{name}", "Model deviation of forces against time")


def radial_plot(found: RadialDistribution, name: str) -> str:
    """Radial distribution of one pair of elements."""
    with figure(3.3, 2.3) as (drawing, (axes,)):
        axes.plot(found.r, found.values, color=SERIES[0], linewidth=1.2)
        axes.fill_between(found.r, found.values, color=SERIES[0], alpha=0.15, linewidth=0)
        if found.periodic:
            axes.axhline(1.0, color=MUTED, linewidth=0.7)
        axes.set(
            xlabel="r [Å]", ylabel="g(r)" if found.periodic else "neighbours per Å", xlim=(0, None), ylim=(0, None)
        )
        pair = "–".join(found.pair)
        axes.set_title(pair, color=INK)
        return to_svg(drawing, f"rdf-{name}-{pair}", f"Radial distribution function of the pair {pair}")
