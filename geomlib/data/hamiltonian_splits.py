"""The published splits of QH9 and of the Hamiltonians of MD17, index by index."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.data.splits import Split, checked_parts
from geomlib.data.stores import Store
from geomlib.errors import ConfigError

__all__ = ["MD17_SIZES", "MD17HamiltonianSplit", "QH9Split"]

_QH9 = ("stable-id", "stable-ood", "dynamic-geo", "dynamic-mol")
_GEOMETRIES = 100
"""Of each molecule in QH9Dynamic, one after the other."""

MD17_SIZES = {"water": (500, 500), "ethanol": (25000, 500), "malondialdehyde": (25000, 500), "uracil": (25000, 500)}
"""Molecule → frames for training and validation; the others test."""


class QH9Split(Split):
    """A split of QH9, with the indices and their order as its authors' code makes them.

    `stable-id` is a random one of the molecules of QH9Stable; `stable-ood` trains on those of up to 20 atoms, validates
    on 21 and 22, tests on larger ones; `dynamic-geo` divides the 100 geometries of each molecule of QH9Dynamic,
    `dynamic-mol` the molecules.

    Args:
        kind: which of them.

    Raises:
        ConfigError: another kind, or a store for `dynamic-…` whose graphs are not hundreds.

    Source: Yu et al., NeurIPS 2023 (arXiv 2306.09549), and their code. NumPy's `RandomState` and the shuffle of
        Python's `random` have kept their numbers over all versions. With 130,831 graphs `stable-id` has 104,664,
        13,083 and 13,084; the counts of `stable-ood` depend on the file.
    """

    def __init__(self, kind: str) -> None:
        if kind not in _QH9:
            raise ConfigError(f"QH9Split knows no kind '{kind}'; it knows {', '.join(_QH9)}")
        self.kind = kind

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        if self.kind == "stable-ood":
            sizes = store.sizes
            parts = (sizes <= 20, (sizes >= 21) & (sizes <= 22), sizes >= 23)
            return checked_parts(_named([part.nonzero().squeeze(1) for part in parts]), store)
        count = _records(store)
        if self.kind == "stable-id":
            found = np.split(np.random.RandomState(seed=43).permutation(count), _tenths(count))
        else:
            found = self._dynamic(count)
        return checked_parts(_named([_positions(torch.from_numpy(part), store) for part in found]), store)

    def _dynamic(self, graphs: int) -> list[np.ndarray]:
        if graphs == 0 or graphs % _GEOMETRIES:
            raise ConfigError(
                f"QH9Split '{self.kind}': {graphs} graphs; expected {_GEOMETRIES} geometries of each molecule"
            )
        molecules = graphs // _GEOMETRIES
        if self.kind == "dynamic-geo":
            orders = [
                begin + np.random.RandomState(seed=begin + _GEOMETRIES - 1).permutation(_GEOMETRIES)
                for begin in range(0, graphs, _GEOMETRIES)
            ]
            pieces = [np.split(order, _tenths(_GEOMETRIES)) for order in orders]
            return [np.concatenate([piece[part] for piece in pieces]) for part in range(3)]
        shuffled = list(range(molecules))
        random.Random(43).shuffle(shuffled)
        owner = np.arange(graphs) // _GEOMETRIES
        return [np.flatnonzero(np.isin(owner, part)) for part in np.split(np.array(shuffled), _tenths(molecules))]


def _records(store: Store) -> int:
    """How many molecules the database has that a store is, or that its file was made from."""
    found = store.records if isinstance(store, HamiltonianStore) else None
    return len(store) if found is None else found[1]


def _positions(numbers: Tensor, store: Store) -> Tensor:
    """Where the records with these numbers stand in the store; those that its file lacks are left out."""
    found = store.records if isinstance(store, HamiltonianStore) else None
    if found is None:
        return numbers
    place = torch.full((found[1],), -1, dtype=torch.int64)
    place[found[0]] = torch.arange(len(store))
    return place[numbers][place[numbers] >= 0]


def _named(parts: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("train", "val", "test"), parts, strict=True))


def _tenths(count: int) -> list[int]:
    """Where eight tenths and nine tenths end, each rounded down for itself."""
    train = int(count * 0.8)
    return [train, train + int(count * 0.1)]


class MD17HamiltonianSplit(Split):
    """The split of the Hamiltonians of MD17 that QHNet and its followers use, index by index.

    Args:
        molecule: water, ethanol, malondialdehyde or uracil; 500 frames of water train, 25,000 of the others, 500
            validate, the rest tests.
        seed: of the drawing.

    Raises:
        ConfigError: another molecule, or a store with too few frames.

    Source: Yu et al., ICML 2023 (arXiv 2306.04922), and their code: a permutation of all frames with seed 42.
    """

    def __init__(self, molecule: str, seed: int = 42) -> None:
        if molecule not in MD17_SIZES:
            raise ConfigError(f"MD17HamiltonianSplit knows no '{molecule}'; it knows {', '.join(MD17_SIZES)}")
        self.molecule, self.seed = molecule, seed

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        train, val = MD17_SIZES[self.molecule]
        count = _records(store)
        if count < train + val:
            raise ConfigError(
                f"MD17HamiltonianSplit of {self.molecule}: {count} graphs are fewer than the {train + val} that "
                "train and validate"
            )
        order = torch.from_numpy(np.random.RandomState(seed=self.seed).permutation(count))
        parts = order.split([train, val, count - train - val])
        return checked_parts(_named([_positions(part, store) for part in parts]), store)
