"""Choosing from a pool the structures whose labels would teach a committee most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from geomlib.apply.ase import Calculator
from geomlib.apply.committee import model_deviation
from geomlib.apply.selection import unlabelled
from geomlib.errors import ConfigError, DataError

__all__ = ["Choice", "choose", "pair_fingerprint", "pick"]

_REACH = 5.0
_WIDTH = 0.25
_SHORTLIST = 5
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen from a pool.

    Attributes:
        frames: structures without labels, in the order of the pool; `info` has the columns of the model deviation and
            `pool_index`, the array `force_deviation` the deviation of each atom [eV/Å].
        deviation: the largest model deviation of a force of each structure of the pool [eV/Å].
        candidates: how many were between the limits.
    """

    frames: list[Atoms]
    deviation: NDArray[np.float64]
    candidates: int


def choose(
    committee: Calculator,
    pool: Sequence[Atoms],
    count: int,
    *,
    between: tuple[float, float] | None = None,
    diverse: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """The structures of a pool about which a committee disagrees most.

    Args:
        committee: of two or more models.
        pool: candidates.
        count: how many to choose.
        between: only those whose largest deviation of a force is between these two [eV/Å].
        diverse: see `pick`.
        progress: called with the number of structures done and their total.

    Raises:
        ConfigError: one model instead of a committee, or arguments out of range.
        DataError: fewer than `count` structures come into question.
        UnknownElement: a structure has an element that the committee does not know.
    """
    if between is not None and not 0 <= between[0] < between[1]:
        raise ConfigError(
            f"between {between[0]} and {between[1]} eV/Å: expected 0 or more, and the second above the first"
        )
    deviations = []
    for start in range(0, len(pool), _CHUNK):
        deviations += [model_deviation(row) for row in committee.evaluate(pool[start : start + _CHUNK])]
        if progress is not None:
            progress(len(deviations), len(pool))
    largest = np.array([float(row.forces.max()) for row in deviations])
    low, high = between or (0.0, np.inf)
    inside = np.flatnonzero((largest >= low) & (largest <= high))
    chosen = inside[pick([pool[k] for k in inside.tolist()], largest[inside], count, diverse=diverse)]
    frames = [unlabelled(pool[k], deviations[k], pool_index=k) for k in chosen.tolist()]
    return Choice(frames, largest, len(inside))


def pick(
    pool: Sequence[Atoms], deviation: NDArray[np.float64], count: int, *, diverse: bool = False
) -> NDArray[np.int64]:
    """Positions of the structures to label, in the order of the pool.

    Args:
        pool: candidates.
        deviation: the largest model deviation of a force of each [eV/Å].
        count: how many to choose.
        diverse: instead of the `count` largest deviations, take from five times as many the most different ones:
            begin with the largest deviation, then always add the structure that is farthest, by its distances between
            atoms, from all that were chosen.

    Raises:
        ConfigError: a count below one.
        DataError: the pool holds fewer than `count`.
    """
    if count < 1:
        raise ConfigError(f"{count} structures are to be chosen; expected at least 1")
    if count > len(pool):
        raise DataError(f"{count} structures are to be chosen, but only {len(pool)} come into question")
    order = np.argsort(-deviation, kind="stable")
    if not diverse:
        return np.sort(order[:count])
    shortlist = order[: _SHORTLIST * count]
    elements = sorted({number for index in shortlist for number in pool[index].numbers.tolist()})
    prints = np.stack([pair_fingerprint(pool[index], elements) for index in shortlist])
    chosen = [0]
    nearest = np.linalg.norm(prints - prints[0], axis=1)
    while len(chosen) < count:
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(prints - prints[chosen[-1]], axis=1))
    return np.sort(shortlist[chosen])


def pair_fingerprint(atoms: Atoms, elements: Sequence[int]) -> NDArray[np.float64]:
    """Distances between atoms up to 5 Å as a smooth histogram for each pair of elements, per atom.

    It does not change when the structure is moved, turned or its atoms are numbered anew.

    Args:
        atoms: the structure.
        elements: atomic numbers, sorted; all of the structure's are among them.
    """
    centres = np.arange(_WIDTH, _REACH, _WIDTH)
    first, second, length = neighbor_list("ijd", atoms, _REACH)
    position = np.searchsorted(elements, atoms.numbers)
    pair = position[first] * len(elements) + position[second]
    weight = np.cos(0.5 * np.pi * length / _REACH)[:, None] * np.exp(-0.5 * ((length[:, None] - centres) / _WIDTH) ** 2)
    histogram = np.zeros((len(elements) ** 2, len(centres)))
    np.add.at(histogram, pair, weight)
    return histogram.reshape(-1) / len(atoms)
