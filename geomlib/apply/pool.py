"""Choosing from a pool the structures whose labels would teach a committee most."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from geomlib.errors import ConfigError, DataError

__all__ = ["pair_fingerprint", "pick"]

_REACH = 5.0
_WIDTH = 0.25
_SHORTLIST = 5


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
