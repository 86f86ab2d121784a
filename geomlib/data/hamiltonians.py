"""Kohn-Sham matrices of molecules as a store: HDF5 files with one group per molecule."""

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
from geomlib.errors import DataError, FileFormatError

__all__ = ["HamiltonianStore", "triangle_to_square"]

_MATRICES = {"hamiltonian": "fock", "initial_hamiltonian": "fock_init", "overlap": "overlap"}
"""Field → dataset of a group."""


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


class HamiltonianStore(Store):
    """Frames of molecules with Kohn-Sham matrices in PySCF's order of orbitals.

    A file has one group per molecule with `Z` [N], `pos` [F, N, 3, Å] and, as lower triangles row after row,
    `fock`, `fock_init` and `overlap` [F, n(n+1)/2, Hartree]; its attribute `basis` names the basis set. Everything is
    checked against the basis set when the file is opened; matrices are read frame by frame.

    Args:
        path: HDF5 file.
        fields: matrices to read, of hamiltonian, initial_hamiltonian and overlap.

    Raises:
        FileFormatError: not such a file, or a group in it whose sizes don't agree; says which.
    """

    def __init__(self, path: str, fields: Sequence[str] = ("hamiltonian", "initial_hamiltonian", "overlap")) -> None:
        self.path = Path(path)
        for name in fields:
            if name not in _MATRICES:
                raise DataError(f"HamiltonianStore has no field '{name}'; it has {', '.join(_MATRICES)}")
        self.matrices = tuple(fields)
        self.fields = ("pos", "atomic_number", *self.matrices)
        try:
            self._file = h5py.File(self.path, "r")
        except FileNotFoundError:
            raise FileFormatError(f"{self.path}: there is no such file") from None
        except OSError as error:
            raise FileFormatError(f"{self.path}: is no HDF5 file ({error})") from None
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
        if not self._frames:
            raise FileFormatError(f"{self.path}: holds no molecules")

    def _check(self, name: str, group: Any) -> int:
        where = f"{self.path}, group {name}"
        wanted = ["Z", "pos", *(_MATRICES[field] for field in self.matrices)]
        if missing := [key for key in wanted if key not in group]:
            raise FileFormatError(f"{where}: lacks '{missing[0]}'; it has {', '.join(group)}")
        numbers = group["Z"][()]
        if numbers.ndim != 1 or numbers.min() < 1 or numbers.max() >= len(SYMBOLS):
            raise FileFormatError(f"{where}: 'Z' holds {numbers.min()}…{numbers.max()}; expected atomic numbers")
        orbitals = sum(2 * degree + 1 for number in numbers for degree in shells_of(self.basis, int(number)))
        frames = group["pos"].shape[0]
        shapes: Mapping[str, tuple[int, ...]] = {
            "pos": (frames, len(numbers), 3),
            **{_MATRICES[field]: (frames, orbitals * (orbitals + 1) // 2) for field in self.matrices},
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
        group, size = self._file[name], self._orbitals[name]
        values: dict[str, Tensor] = {
            "pos": torch.from_numpy(group["pos"][frame].astype(np.float64)),
            "atomic_number": torch.from_numpy(group["Z"][()].astype(np.int64)),
        }
        for field in self.matrices:
            square = triangle_to_square(group[_MATRICES[field]][frame].astype(np.float64), size)
            values[field] = torch.from_numpy(square.reshape(-1))
        return GraphData(**values)

    def describe(self, index: int) -> str:
        """See `Store`."""
        name, frame = self._frames[self._position(index)]
        return f"{self.path}, group {name}, frame {frame}"

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return torch.tensor([len(self._file[name]["Z"]) for name, _ in self._frames], dtype=torch.int64)
