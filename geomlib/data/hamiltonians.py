"""Kohn-Sham matrices of molecules as a store: HDF5 files with one group per molecule."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib.data.elements import SYMBOLS
from geomlib.data.graph import GraphData
from geomlib.data.orbitals import shells_of
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = ["MATRIX_FIELDS", "HamiltonianStore", "checked_molecule", "closest_atoms", "triangle_to_square"]

MATRIX_FIELDS = {"hamiltonian": "fock", "initial_hamiltonian": "fock_init", "overlap": "overlap"}
"""Field → dataset of a group."""

_TOO_CLOSE = 0.1
"""Atoms that are nearer than this coincide [Å]; no molecule has such, and the overlap of their orbitals is singular."""

_ASYMMETRY = 1e-5
"""Difference between a matrix and its transpose that integrals on a grid may leave [Hartree]."""


def triangle_to_square(triangle: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Symmetric matrix from its lower triangle, row after row.

    Raises:
        DataError: another number of entries.
    """
    if triangle.shape != (size * (size + 1) // 2,):
        raise DataError(f"a triangle of {len(triangle)} entries is not that of a matrix over {size} orbitals")
    square = np.zeros((size, size))
    rows, columns = np.tril_indices(size)
    square[rows, columns] = triangle
    square[columns, rows] = triangle
    return square


def closest_atoms(pos: NDArray[np.float64]) -> str:
    """Which atoms coincide and how far they are apart, in words; empty if none do.

    Args:
        pos: [atoms, 3, Å].
    """
    if len(pos) < 2:
        return ""
    distances = np.linalg.norm(pos[:, None] - pos, axis=2) + 10.0 * np.eye(len(pos))
    if distances.min() >= _TOO_CLOSE:
        return ""
    i, j = sorted(int(place) for place in np.unravel_index(distances.argmin(), distances.shape))
    return f"atoms {i} and {j} are {distances.min():.3f} Å apart"


def checked_molecule(
    numbers: NDArray[Any],
    pos: NDArray[np.float64],
    matrices: Mapping[str, NDArray[Any]],
    basis: str,
    where: str,
    charge: int = 0,
) -> GraphData:
    """A molecule with its matrices.

    Args:
        numbers: atomic numbers [atoms].
        pos: [atoms, 3, Å].
        matrices: field → entries, n² of them for n orbitals, in PySCF's order.
        basis: basis set.
        where: file and record, for messages.
        charge: of the molecule.

    Raises:
        DataError: sizes that don't fit the orbitals, an element that the basis set lacks, an open shell, atoms that
            coincide, numbers that are not finite, or a matrix that is not symmetric.
    """
    z = np.asarray(numbers).astype(np.int64).reshape(-1)
    if len(z) == 0 or z.min() < 1 or z.max() >= len(SYMBOLS):
        raise DataError(f"{where}: its atomic numbers are {z.min()}…{z.max()}" if len(z) else f"{where}: has no atoms")
    try:
        orbitals = sum(2 * degree + 1 for number in z for degree in shells_of(basis, int(number)))
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from None
    electrons = int(z.sum()) - charge
    if electrons < 2 or electrons % 2:
        raise DataError(f"{where}: {electrons} electrons make no closed shell; the models know closed shells only")
    if pos.shape != (len(z), 3) or not np.isfinite(pos).all():
        raise DataError(f"{where}: its positions are not 3 finite numbers for each of {len(z)} atoms")
    if words := closest_atoms(pos):
        raise DataError(f"{where}: {words}")
    values = {"pos": torch.from_numpy(pos.astype(np.float64)), "atomic_number": torch.from_numpy(z)}
    for name, matrix in matrices.items():
        if matrix.size != orbitals**2:
            raise DataError(
                f"{where}: its {name} has {matrix.size} numbers, expected {orbitals}² for {len(z)} atoms in {basis}"
            )
        square = matrix.reshape(orbitals, orbitals).astype(np.float64)
        if not np.isfinite(square).all():
            raise DataError(f"{where}: its {name} holds numbers that are not finite")
        if (difference := float(np.abs(square - square.T).max())) > _ASYMMETRY:
            raise DataError(f"{where}: its {name} is not symmetric (entries differ by up to {difference:.1e})")
        values[name] = torch.from_numpy(square.reshape(-1))
    return GraphData(**values)


class HamiltonianStore(Store):
    """Frames of molecules with Kohn-Sham matrices in PySCF's order of orbitals.

    A file has one group per molecule with `Z` [N], `pos` [F, N, 3, Å] and, as lower triangles row after row,
    `fock`, `fock_init` and `overlap` [F, n(n+1)/2, Hartree]; its attribute `basis` names the basis set, `xc` the
    functional, and `charge` of a group the charge of its molecule. Sizes, elements and electrons are checked when the
    file is opened, numbers frame by frame as they are read.

    Args:
        path: HDF5 file.
        fields: matrices to read, of hamiltonian, initial_hamiltonian and overlap.

    Raises:
        FileFormatError: not such a file, or a group in it whose sizes don't agree; says which.
        DataError: a frame with numbers that are not finite, or atoms that coincide, when it is read.
    """

    def __init__(self, path: str, fields: Sequence[str] = ("hamiltonian", "initial_hamiltonian", "overlap")) -> None:
        self.path = Path(path)
        for name in fields:
            if name not in MATRIX_FIELDS:
                raise DataError(f"HamiltonianStore has no field '{name}'; it has {', '.join(MATRIX_FIELDS)}")
        self.matrices = tuple(fields)
        self.fields = ("pos", "atomic_number", *self.matrices)
        self._opened: h5py.File | None = None
        self._pid = -1
        attributes = self._file.attrs
        self.basis = str(attributes.get("basis", ""))
        self.functional = str(attributes.get("xc", ""))
        if not self.basis:
            raise FileFormatError(f"{self.path}: the attribute 'basis' is missing, which names the basis set")
        self._frames: list[tuple[str, int]] = []
        self._orbitals: dict[str, int] = {}
        for name, group in self._file.items():
            frames = self._check(name, group)
            self._frames += [(name, frame) for frame in range(frames)]
        self._charged = any(int(group.attrs.get("charge", 0)) for group in self._file.values())
        if self._charged:
            self.fields = (*self.fields, "charge")
        if not self._frames:
            raise FileFormatError(f"{self.path}: holds no molecules")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    @property
    def _file(self) -> h5py.File:
        if self._opened is None or self._pid != os.getpid():  # an open file must not be shared by processes
            try:
                self._opened, self._pid = h5py.File(self.path, "r"), os.getpid()
            except FileNotFoundError:
                raise FileFormatError(
                    f"{self.path}: there is no such file; docs/howto/hamiltonians.md says where such files come from"
                ) from None
            except OSError as error:
                raise FileFormatError(f"{self.path}: is no HDF5 file ({error})") from None
        return self._opened

    def _check(self, name: str, group: Any) -> int:
        where = f"{self.path}, group {name}"
        wanted = ["Z", "pos", *(MATRIX_FIELDS[field] for field in self.matrices)]
        if missing := [key for key in wanted if key not in group]:
            raise FileFormatError(f"{where}: lacks '{missing[0]}'; it has {', '.join(group)}")
        numbers = group["Z"][()]
        if numbers.ndim != 1 or numbers.min() < 1 or numbers.max() >= len(SYMBOLS):
            raise FileFormatError(f"{where}: 'Z' holds {numbers.min()}…{numbers.max()}; expected atomic numbers")
        try:
            orbitals = sum(2 * degree + 1 for number in numbers for degree in shells_of(self.basis, int(number)))
        except ConfigError as error:
            raise FileFormatError(f"{where}: {error}") from None
        electrons = int(numbers.sum()) - int(group.attrs.get("charge", 0))
        if electrons < 2 or electrons % 2:
            raise FileFormatError(f"{where}: {electrons} electrons make no closed shell; expected one")
        frames = group["pos"].shape[0]
        shapes: Mapping[str, tuple[int, ...]] = {
            "pos": (frames, len(numbers), 3),
            **{MATRIX_FIELDS[field]: (frames, orbitals * (orbitals + 1) // 2) for field in self.matrices},
        }
        for key, shape in shapes.items():
            if group[key].shape != shape:
                raise FileFormatError(
                    f"{where}: '{key}' has shape {list(group[key].shape)}, expected {list(shape)} for "
                    f"{len(numbers)} atoms with {orbitals} orbitals in {self.basis}"
                )
        self._orbitals[name] = orbitals
        return int(frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> GraphData:
        name, frame = self._frames[self._position(index)]
        group, size, where = self._file[name], self._orbitals[name], self.describe(index)
        matrices = {}
        try:
            for field in self.matrices:
                triangle = group[MATRIX_FIELDS[field]][frame].astype(np.float64)
                matrices[field] = triangle_to_square(triangle, size)
            numbers, pos = group["Z"][()], group["pos"][frame].astype(np.float64)
        except (OSError, KeyError) as error:
            raise DataError(f"{where} can't be read: {' '.join(str(error).split())}") from None
        charge = int(group.attrs.get("charge", 0))
        graph = checked_molecule(numbers, pos, matrices, self.basis, where, charge)
        if self._charged:
            graph.charge = torch.tensor([charge])
        return graph

    @property
    def records(self) -> tuple[Int[Tensor, " graphs"], int] | None:
        """Number in the database that the file was made from of each graph, and how many that has; None if from none.

        A file may lack records, which could not be read; splits of the database then still name the same molecules.
        """
        count = self._file.attrs.get("records")
        if count is None:
            return None
        return torch.tensor([int(name) for name, _ in self._frames], dtype=torch.int64), int(count)

    def describe(self, index: int) -> str:
        """See `Store`."""
        name, frame = self._frames[self._position(index)]
        return f"{self.path}, group {name}, frame {frame}"

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return torch.tensor([len(self._file[name]["Z"]) for name, _ in self._frames], dtype=torch.int64)
