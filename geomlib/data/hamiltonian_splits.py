"""The published splits of QH9 and of the Hamiltonians of MD17, index by index."""

import random

import numpy as np
import torch
from torch import Tensor

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
        if self.kind == "stable-id":
            order = np.random.RandomState(seed=43).permutation(len(store))
            found = np.split(order, _tenths(len(store)))
        elif self.kind == "stable-ood":
            sizes = store.sizes.numpy()
            parts = (sizes <= 20, (sizes >= 21) & (sizes <= 22), sizes >= 23)
            found = [np.flatnonzero(part) for part in parts]
        else:
            found = self._dynamic(len(store))
        names = ("train", "val", "test")
        return checked_parts({name: torch.from_numpy(part) for name, part in zip(names, found, strict=True)}, store)

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
        if len(store) < train + val:
            raise ConfigError(
                f"MD17HamiltonianSplit of {self.molecule}: {len(store)} graphs are fewer than the {train + val} that "
                "train and validate"
            )
        order = torch.from_numpy(np.random.RandomState(seed=self.seed).permutation(len(store)))
        parts = order.split([train, val, len(store) - train - val])
        return checked_parts(dict(zip(("train", "val", "test"), parts, strict=True)), store)
