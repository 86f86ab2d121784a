"""Atomic orbitals: which shells an element has in a basis set, and matrices over them as blocks of equal size."""

import functools
import importlib.resources
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib.data.elements import SYMBOLS, atomic_numbers
from geomlib.errors import ConfigError, DataError, MissingExtra, UnknownElement

__all__ = ["OrbitalLayout", "known_basis_sets", "shells_of"]

_FROM_PYSCF = {1: (1, 2, 0)}
"""Degree → places that the components have in PySCF's order, listed in the order of spherical harmonics; the axis of
harmonics is turned so that (y, z, x) come first, in which only p shells differ."""


@functools.lru_cache(maxsize=1)
def _table() -> Mapping[str, Mapping[str, list[int]]]:
    text = importlib.resources.files("geomlib.data").joinpath("basis_shells.json").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, list[int]]] = json.loads(text)
    return table


def known_basis_sets() -> tuple[str, ...]:
    """Basis sets whose shells come with geomlib; others need PySCF."""
    return tuple(sorted(_table()))


@functools.lru_cache(maxsize=512)
def shells_of(basis: str, atomic_number: int) -> tuple[int, ...]:
    """Degree of each shell of an element, in the order of PySCF: by degree, then as the basis set has them.

    Args:
        basis: name, e.g. `"def2-svp"`.
        atomic_number: of the element.

    Raises:
        ConfigError: neither geomlib nor PySCF knows the basis set, or not for this element.
        MissingExtra: it does not come with geomlib and PySCF is not installed.
    """
    symbol = SYMBOLS[atomic_number]
    name = basis.lower()
    if name in _table():
        if symbol not in _table()[name]:
            raise ConfigError(f"basis set '{basis}' has no {symbol} here; it has {', '.join(_table()[name])}")
        return tuple(_table()[name][symbol])
    try:
        from pyscf import gto
        from pyscf.lib.exceptions import BasisNotFoundError
    except ImportError:
        known = ", ".join(known_basis_sets())
        raise MissingExtra("pyscf", "dft", f"basis set '{basis}' (geomlib itself knows {known})") from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Basis may be available in basis-set-exchange")
            shells = gto.basis.load(name, symbol)
    except (BasisNotFoundError, KeyError) as error:
        raise ConfigError(f"PySCF knows no basis set '{basis}' for {symbol}: {error}") from None
    return tuple(sorted(degree for degree, *rows in shells for _ in range(_contractions(rows))))


def _contractions(rows: Sequence[object]) -> int:
    numbers = [row for row in rows if isinstance(row, list)]
    return len(numbers[0]) - 1


@dataclass(frozen=True)
class OrbitalLayout:
    """Where each orbital of an element stands in a block that is the same for all elements.

    A block has the shells of all degrees one after the other, as many of each as the element with the most; an element
    with fewer takes the first ones. Inside, the components have the order of spherical harmonics. With def2-SVP and
    H, C, N, O, F a block has 14 places, of which hydrogen takes 0, 1 (s) and 3, 4, 5 (p).

    Args:
        basis: basis set.
        elements: chemical symbols.

    Raises:
        ConfigError: an unknown basis set or element.
    """

    basis: str
    elements: tuple[str, ...]

    def __post_init__(self) -> None:
        for number in atomic_numbers(self.elements):
            shells_of(self.basis, number)

    @functools.cached_property
    def shells(self) -> tuple[int, ...]:
        """Number of shells of each degree 0, 1, 2, … in a block."""
        lists = [shells_of(self.basis, number) for number in atomic_numbers(self.elements)]
        top = max(max(shells) for shells in lists)
        return tuple(max(shells.count(degree) for shells in lists) for degree in range(top + 1))

    @property
    def size(self) -> int:
        """Rows of a block."""
        return sum(count * (2 * degree + 1) for degree, count in enumerate(self.shells))

    @functools.cached_property
    def slots(self) -> Mapping[int, NDArray[np.int64]]:
        """Atomic number → place in the block of each orbital, in PySCF's order."""
        firsts, begin = [], 0
        for degree, count in enumerate(self.shells):
            firsts.append(begin)
            begin += count * (2 * degree + 1)
        found = {}
        for number in atomic_numbers(self.elements):
            taken = [0] * len(self.shells)
            places: list[int] = []
            for degree in shells_of(self.basis, number):
                start = firsts[degree] + taken[degree] * (2 * degree + 1)
                order = _FROM_PYSCF.get(degree, tuple(range(2 * degree + 1)))
                places += [start + order.index(component) for component in range(2 * degree + 1)]
                taken[degree] += 1
            found[number] = np.array(places, dtype=np.int64)
        return found

    def _slots(self, number: int) -> NDArray[np.int64]:
        try:
            return self.slots[number]
        except KeyError:
            raise UnknownElement(
                f"element {SYMBOLS[number]} is not among those of the layout, {', '.join(self.elements)}"
            ) from None

    def orbitals(self, atomic_number: Int[Tensor, " nodes"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Atom and place in its block of each orbital of a molecule, in PySCF's order.

        Raises:
            UnknownElement: an element that the layout does not have.
        """
        parts = [self._slots(int(number)) for number in atomic_number]
        atom = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        slot = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return torch.from_numpy(atom), torch.from_numpy(slot)

    def to_blocks(
        self, matrix: Float[Tensor, "n n"], atomic_number: Int[Tensor, " nodes"]
    ) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks of atoms, and of pairs i > j row by row; places that an element lacks are zero.

        Raises:
            DataError: a matrix of another size than the molecule has orbitals.
        """
        atom, slot = self.orbitals(atomic_number)
        if tuple(matrix.shape) != (len(atom), len(atom)):
            raise DataError(f"a matrix of shape {list(matrix.shape)} does not fit {len(atom)} orbitals of {self.basis}")
        nodes = len(atomic_number)
        place = atom * self.size + slot
        whole = matrix.new_zeros(nodes * self.size, nodes * self.size)
        whole[place.unsqueeze(1), place] = matrix
        blocks = whole.view(nodes, self.size, nodes, self.size).transpose(1, 2)
        i, j = torch.tril_indices(nodes, nodes, -1)
        return blocks[torch.arange(nodes), torch.arange(nodes)], blocks[i, j]

    def to_matrix(
        self,
        diagonal: Float[Tensor, "nodes b b"],
        pairs: Float[Tensor, "pairs b b"],
        atomic_number: Int[Tensor, " nodes"],
    ) -> Float[Tensor, "n n"]:
        """The symmetric matrix of blocks; diagonal blocks are symmetrised."""
        nodes = len(atomic_number)
        whole = diagonal.new_zeros(nodes, nodes, self.size, self.size)
        every = torch.arange(nodes)
        i, j = torch.tril_indices(nodes, nodes, -1)
        whole[every, every] = 0.5 * (diagonal + diagonal.transpose(1, 2))
        whole[i, j], whole[j, i] = pairs, pairs.transpose(1, 2)
        atom, slot = self.orbitals(atomic_number)
        place = atom * self.size + slot
        return whole.transpose(1, 2).reshape(nodes * self.size, -1)[place.unsqueeze(1), place]
