"""Does the spread of a committee tell its error? Correlation, calibration and coverage."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfinv
from scipy.stats import rankdata

__all__ = ["Calibration", "Correlation", "ForceUncertainty", "binned", "calibration", "correlation", "coverage"]

_ONE_SIGMA = 0.682689492137


@dataclass(frozen=True, slots=True)
class Correlation:
    """How well one number follows another.

    Attributes:
        spearman: rank correlation, 1 where the order is the same.
        pearson: correlation of the numbers themselves.
        count: pairs.
    """

    spearman: float
    pearson: float
    count: int


@dataclass(frozen=True, slots=True)
class ForceUncertainty:
    """Deviation and error of the forces of some structures.

    Attributes:
        deviation: model deviation f_i of the force on each atom [atoms, eV/Å].
        error: ⟨F_i⟩ − label [atoms 3, eV/Å].
        sizes: atoms of each structure, in the same order.
    """

    deviation: NDArray[np.float64]
    error: NDArray[np.float64]
    sizes: NDArray[np.int64]

    def halves(self) -> "tuple[ForceUncertainty, ForceUncertainty]":
        """The first half of the structures, and the second."""
        middle = len(self.sizes) // 2
        atoms = int(self.sizes[:middle].sum())
        return (
            ForceUncertainty(self.deviation[:atoms], self.error[:atoms], self.sizes[:middle]),
            ForceUncertainty(self.deviation[atoms:], self.error[atoms:], self.sizes[middle:]),
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """Model deviation of forces beside their true errors.

    Attributes:
        atoms: f_i and |⟨F_i⟩ − label| of each atom.
        frames: the largest of each, by structure.
        scale: √⟨(error / deviation)²⟩ over atoms: with Gaussian errors the most probable factor from deviation to
            error; 1 for an ideal committee, and above it for one that is too sure of itself.
        coverage: fraction of force components that lie within the deviation's 68.3 % interval.
    """

    atoms: Correlation
    frames: Correlation
    scale: float
    coverage: float


def correlation(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> Correlation:
    """Correlations of two series; NaN where one of them is constant or there are fewer than two pairs."""
    values = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    pearson = _pearson(*values)
    spearman = _pearson(*(rankdata(value) for value in values))
    return Correlation(spearman, pearson, len(values[0]))


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    a, b = first - first.mean(), second - second.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def calibration(forces: ForceUncertainty) -> Calibration:
    """Calibration of a committee; `scale` leaves out forces about which the members agree exactly."""
    size = np.linalg.norm(forces.error, axis=1)
    starts = np.cumsum(forces.sizes) - forces.sizes
    frames = correlation(np.maximum.reduceat(forces.deviation, starts), np.maximum.reduceat(size, starts))
    apart = forces.deviation > 0  # symmetry may fix a force: that of a lone atom is zero to all members
    ratio = size[apart] / forces.deviation[apart]
    scale = float(np.sqrt(np.mean(ratio**2))) if len(ratio) else float("nan")
    inside = float(coverage(forces, np.array([_ONE_SIGMA]))[0])
    return Calibration(correlation(forces.deviation, size), frames, scale, inside)


def coverage(forces: ForceUncertainty, expected: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.float64]:
    """Fraction of force components within the central intervals that should hold the fractions `expected`.

    A component's error is taken as Gaussian with the standard deviation scale·f_i/√3, the same in all directions.

    Args:
        forces: deviations and errors.
        expected: between 0 and 1.
        scale: factor from deviation to error.
    """
    error, sigma = np.abs(forces.error), np.repeat(scale * forces.deviation[:, None] / np.sqrt(3), 3, axis=1)
    reach = np.sort(np.divide(error, sigma, out=np.where(error > 0, np.inf, 0.0), where=sigma > 0).reshape(-1))
    return np.searchsorted(reach, np.sqrt(2) * erfinv(expected), side="right") / len(reach)


def binned(forces: ForceUncertainty, bins: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Root mean square deviation and error in bins of equally many atoms, from small to large deviations.

    Args:
        forces: deviations and errors.
        bins: at most; none holds fewer than ten atoms, unless there are fewer in all.
    """
    order = np.argsort(forces.deviation, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order) // 10)))
    square = (forces.error**2).sum(1)
    return (
        np.array([np.sqrt(np.mean(forces.deviation[part] ** 2)) for part in parts]),
        np.array([np.sqrt(square[part].mean()) for part in parts]),
    )
