"""What a net makes of candidates that it was not trained on: threshold, calibration and how far off it is."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from geomlib.errors import DataError
from geomlib.models.shyre.statistics import Floats

__all__ = ["HeldOut", "Reliability", "best_jaccard", "jaccard_threshold", "platt", "reliability"]


@dataclass(frozen=True)
class HeldOut:
    """Answers of members about candidates that they were not trained on.

    Args:
        chance: mean probability of those members, not calibrated.
        maximal: whether the candidate is a maximal clique.
        label: whether it is a hyperedge.
        hyperedges: how many hyperedges there are, among the candidates or not.
    """

    chance: Float[Tensor, " candidates"]
    maximal: Bool[Tensor, " candidates"]
    label: Bool[Tensor, " candidates"]
    hyperedges: int


def best_jaccard(chance: Floats, label: NDArray[np.bool_], hyperedges: int, labelled: float = 1.0) -> float:
    """The largest Jaccard index that a threshold on the probabilities gives.

    Args:
        chance: of each candidate.
        label: whether it is a hyperedge.
        hyperedges: how many there are, among the candidates or not.
        labelled: share of the hyperedges that labels and count know, a random one; the index is then an estimate.
    """
    order = np.argsort(-chance, kind="stable")
    taken = np.arange(1, len(order) + 1)
    found = np.minimum(np.cumsum(label[order]) / labelled, taken)
    scores = found / (hyperedges / labelled + taken - found)
    return float(scores.max(initial=0.0))


def jaccard_threshold(jaccard: float) -> float:
    """Probability above which a candidate raises the expected Jaccard index J of a choice: J / (1 + J)."""
    return jaccard / (1.0 + jaccard) if math.isfinite(jaccard) else 0.5


def platt(chance: Floats, label: NDArray[np.bool_], ridge: float = 1.0, steps: int = 30) -> tuple[float, float]:
    """Scale a and shift b for which σ(a · logit p + b) has the lowest cross-entropy, held near 1 and 0 by a ridge.

    Args:
        chance: p of candidates that were not trained on.
        label: whether they are hyperedges.
        ridge: weight of ((a − 1)² + b²) / 2.
        steps: of Newton's method.
    """
    clipped = np.clip(chance, 1e-6, 1 - 1e-6)
    x = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(clipped))], axis=1)
    start = np.array([1.0, 0.0])
    found = start.copy()
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (p - label) + ridge * (found - start)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(2)
        change = np.linalg.solve(curvature, slope)
        found -= np.clip(change, -1.0, 1.0)
        if np.abs(change).max() < 1e-10:
            break
    return float(found[0]), float(found[1])


@dataclass(frozen=True)
class Reliability:
    """Probabilities beside frequencies, bin by bin.

    Args:
        edges: `[bins + 1]`, from 0 to 1.
        count: `[bins]`, candidates in each bin.
        chance: `[bins]`, their mean probability; NaN in an empty bin.
        frequency: `[bins]`, share of them that are hyperedges; NaN in an empty bin.
    """

    edges: Floats
    count: NDArray[np.int64]
    chance: Floats
    frequency: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: Σ over bins of count / total · |frequency − chance|; NaN without candidates."""
        total = int(self.count.sum())
        if total == 0:
            return math.nan
        filled = self.count > 0
        gap = np.abs(self.frequency[filled] - self.chance[filled])
        return float((self.count[filled] * gap).sum() / total)


def reliability(chance: Floats, label: NDArray[np.bool_], bins: int = 10) -> Reliability:
    """Compare probabilities with what happened, in bins of equal width.

    Args:
        chance: `[candidates]`, in [0, 1].
        label: `[candidates]`, whether each is a hyperedge.
        bins: number of bins; a probability on an edge belongs to the bin above, 1 to the last.

    Raises:
        DataError: arrays of different length, probabilities outside [0, 1], or no bins.

    Source: Guo, Pleiss, Sun, Weinberger, arXiv 1706.04599, eq. 3.
    """
    if bins < 1 or chance.shape != label.shape or not bool(((chance >= 0) & (chance <= 1)).all()):
        raise DataError(
            f"{len(chance)} probabilities, {len(label)} labels, {bins} bins: expected as many labels as probabilities, "
            "all in [0, 1], and at least 1 bin"
        )
    which = np.minimum((chance * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins).astype(np.int64)
    safe = np.where(count > 0, count, 1)
    mean, share = (
        np.where(count > 0, np.bincount(which, value, minlength=bins) / safe, np.nan)
        for value in (chance.astype(np.float64), label.astype(np.float64))
    )
    return Reliability(np.linspace(0.0, 1.0, bins + 1), count, mean, share)
