"""Which molecules are best by several objectives: Pareto fronts, desirability, and picks that differ."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomlib.errors import ConfigError

if TYPE_CHECKING:
    from rdkit.DataStructs import ExplicitBitVect

__all__ = ["Objective", "desirability", "pareto_fronts", "parse_objective", "pick_diverse", "ranks"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is wanted of a column.

    Args:
        column: its name.
        direction: `max`, `min`, or `in` for an interval, outside of which less distance is better.
        low: for `max` where desirability starts, for `min` where it is full, for `in` the lower end of the interval.
        high: for `max` where it is full, for `min` where it is none, for `in` the upper end. Without them the smallest
            and the largest value that occur.
        weight: of its desirability.

    Raises:
        ConfigError: an unknown direction, an interval of no width, or a weight that is not positive.
    """

    column: str
    direction: str
    low: float | None = None
    high: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        problem = ""
        if self.direction not in ("max", "min", "in"):
            problem = f"direction '{self.direction}', expected max, min or in"
        elif self.direction == "in" and (self.low is None or self.high is None):
            problem = "'in' needs both ends of its interval"
        elif self.low is not None and self.high is not None and not self.low < self.high:
            problem = f"{self.low} is not below {self.high}"
        elif not 0 < self.weight < math.inf:
            problem = f"weight {self.weight}, expected a positive number"
        if problem:
            raise ConfigError(f"objective '{self.column}': {problem}")

    def cost(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values [n] as numbers of which the smaller is the better."""
        if self.direction == "max":
            return -values
        if self.direction == "min":
            return values
        assert self.low is not None and self.high is not None
        return np.maximum(np.maximum(self.low - values, values - self.high), 0.0)

    def desirability(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Desirability [n] of values [n], from 0 to 1."""
        if not len(values):
            return values
        if self.direction == "in":
            assert self.low is not None and self.high is not None
            return np.clip(1.0 - self.cost(values) / (self.high - self.low), 0.0, 1.0)
        low = float(values.min()) if self.low is None else self.low
        high = float(values.max()) if self.high is None else self.high
        if not low < high:
            return np.ones_like(values)
        share = np.clip((values - low) / (high - low), 0.0, 1.0)
        return share if self.direction == "max" else 1.0 - share


def parse_objective(text: str) -> Objective:
    """An objective from `max NAME`, `min NAME LOW HIGH`, `in NAME LOW HIGH`, each with `weight W` after it if wanted.

    Raises:
        ConfigError: anything else.
    """
    words = text.split()
    weight = 1.0
    try:
        if len(words) > 2 and words[-2] == "weight":
            weight = float(words[-1])
            words = words[:-2]
        if len(words) == 2:
            return Objective(words[1], words[0], weight=weight)
        if len(words) == 4:
            return Objective(words[1], words[0], float(words[2]), float(words[3]), weight)
    except ValueError:
        pass
    raise ConfigError(f"objective '{text}': expected 'max NAME', 'min NAME LOW HIGH' or 'in NAME LOW HIGH'")


def desirability(objectives: Sequence[Objective], columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Weighted geometric mean [n] of the desirabilities of the objectives.

    Args:
        objectives: what is wanted.
        columns: values [n] of each.

    Source: Derringer and Suich, 10.1080/00224065.1980.11980968.
    """
    total = sum(row.weight for row in objectives)
    product = np.ones(len(columns[0]))
    for row, values in zip(objectives, columns, strict=True):
        product *= row.desirability(values) ** (row.weight / total)
    return product


def pareto_fronts(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Front of each point, from 1: no point of a front is dominated once the fronts before it are taken away.

    A point dominates another one if it is nowhere worse and somewhere better. Equal points share a front.

    Args:
        costs: [points, objectives], the smaller the better; finite.

    Source: efficient non-dominated sorting with binary search, Zhang et al., 10.1109/TEVC.2014.2308305.
    """
    count, width = costs.shape
    unique, back = np.unique(costs, axis=0, return_inverse=True)  # in lexicographic order
    front_of = np.zeros(len(unique), dtype=np.int64)
    if width == 1:
        front_of[:] = np.arange(1, len(unique) + 1)
        return front_of[back.reshape(count)]
    if width == 2:
        # of a front the last point has the smallest second cost; over the fronts these grow
        lowest: list[float] = []
        for index, second in enumerate(unique[:, 1].tolist()):
            place = bisect_right(lowest, second)
            front_of[index] = place + 1
            lowest[place : place + 1] = [second]
        return front_of[back.reshape(count)]
    fronts: list[_Front] = []
    for index, point in enumerate(unique):
        low, high = 0, len(fronts)
        while low < high:
            middle = (low + high) // 2
            if fronts[middle].dominates(point):
                low = middle + 1
            else:
                high = middle
        if low == len(fronts):
            fronts.append(_Front(width))
        fronts[low].add(point)
        front_of[index] = low + 1
    return front_of[back.reshape(count)]


class _Front:
    """Points of a front in an array that grows."""

    def __init__(self, width: int) -> None:
        self._points, self._count = np.empty((16, width)), 0

    def add(self, point: NDArray[np.float64]) -> None:
        if self._count == len(self._points):
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
        self._points[self._count] = point
        self._count += 1

    def dominates(self, point: NDArray[np.float64]) -> bool:
        """Whether one of the points does; all points are different and come in lexicographic order."""
        return bool((self._points[: self._count] <= point).all(axis=1).any())


def ranks(fronts: NDArray[np.int64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Ranks from 1: by front, within it by falling desirability, then in the order of the rows."""
    order = np.lexsort((np.arange(len(fronts)), -wanted, fronts))
    place = np.empty(len(fronts), dtype=np.int64)
    place[order] = np.arange(1, len(fronts) + 1)
    return place


def pick_diverse(bits: "Sequence[ExplicitBitVect]", count: int, first: int = 0) -> list[int]:
    """Molecules that differ most from one another: each next one is the farthest from all before it.

    Args:
        bits: fingerprints of the candidates.
        count: how many to pick at most.
        first: where to begin.

    Source: MaxMin of RDKit, Sayle's lazy variant, with Tanimoto distances.
    """
    from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

    if not bits or not count:
        return []
    picker = MaxMinPicker()
    return list(picker.LazyBitVectorPick(bits, len(bits), min(count, len(bits)), firstPicks=[first], seed=0))
