"""Systems in deepmd-kit's formats (`set.*` folders, mixed types, HDF5) as a store.

Source: deepmd-kit, doc/data/system.md and doc/data/data-conv.md. Differs: padding atoms of mixed-type systems are
dropped instead of carried along, and every array is checked against the number of atoms when the store is opened.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib.data.arrays import map_array
from geomlib.data.elements import atomic_numbers
from geomlib.data.fields import FIELDS, field
from geomlib.data.graph import GraphData
from geomlib.data.stores import Store
from geomlib.errors import DataError, FileFormatError, GeomlibWarning, UnknownElement
from geomlib.units import conversion_factor

__all__ = ["DeepmdStore"]

_FILES = {
    "pos": "coord",
    "cell": "box",
    "energy": "energy",
    "forces": "force",
    "virial": "virial",
    "stress": "virial",
    "atom_energy": "atom_ener",
    "hessian": "hessian",
    "frame_parameters": "fparam",
    "atom_parameters": "aparam",
}
"""Field → name of the array; stress is made of the virial."""


class _Source:
    """A tree of text and arrays: a folder, or a group of an HDF5 file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_hdf5 = "#" in path
        self._file: h5py.File | None = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _group(self) -> h5py.Group:
        name, group = self.path.split("#", 1)
        if self._file is None or self._pid != os.getpid():  # an open file must not be shared by processes
            self._file, self._pid = h5py.File(name, "r"), os.getpid()
        return self._file[group or "/"]

    def has(self, name: str) -> bool:
        return name in self._group() if self.is_hdf5 else (Path(self.path) / name).exists()

    def words(self, name: str) -> list[str]:
        if self.is_hdf5:
            values = np.asarray(self._group()[name][()]).reshape(-1).tolist()
            text = " ".join(value.decode() if isinstance(value, bytes) else str(value) for value in values)
        else:
            text = (Path(self.path) / name).read_text(encoding="utf-8")
        return text.split()

    def sets(self) -> list[str]:
        names = self._group() if self.is_hdf5 else (entry.name for entry in Path(self.path).iterdir())
        return sorted(name for name in names if name.startswith("set."))

    def arrays(self, folder: str) -> list[str]:
        names = self._group()[folder] if self.is_hdf5 else (f.name for f in (Path(self.path) / folder).glob("*.npy"))
        return sorted(name.removesuffix(".npy") for name in names)

    def array(self, folder: str, name: str) -> Any:
        if not self.is_hdf5:
            return map_array(Path(self.path) / folder / f"{name}.npy")
        group = self._group()[folder]
        return group[f"{name}.npy" if f"{name}.npy" in group else name]

    def place(self, folder: str, name: str) -> str:
        return f"{self.path}/{folder}/{name}.npy"


class _Set:
    """The frames of one `set.*` folder of a system."""

    def __init__(self, source: _Source, folder: str, types: NDArray[np.int64], numbers: list[int] | None) -> None:
        self.source, self.folder = source, folder
        self.names = source.arrays(folder)
        self._arrays: dict[str, Any] = {}
        if "coord" not in self.names:
            raise DataError(f"{source.path}/{folder}: coord.npy is missing; it has {self.names}")
        coord = self.array("coord")
        self.frames, self.padded = int(coord.shape[0]), len(types)
        self.periodic = not source.has("nopbc")
        if self.periodic and "box" not in self.names:
            raise DataError(f"{source.path}/{folder}: box.npy is missing; a system without a cell has a file 'nopbc'")
        mixed = "real_atom_types" in self.names
        self.types = np.asarray(self.array("real_atom_types")) if mixed else np.broadcast_to(types, (1, len(types)))
        self._check_shapes(mixed)
        bound = len(numbers) if numbers is not None else 0
        if self.types.size and (int(self.types.max()) >= bound or int(self.types.min()) < (-1 if mixed else 0)):
            raise DataError(
                f"{source.path}/{folder}: atom types {int(self.types.min())}…{int(self.types.max())}, "
                f"but the type map has {bound} elements"
            )
        self.numbers = np.array([*(numbers or []), 0], dtype=np.int64)  # −1 picks the last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}

    def array(self, name: str) -> Any:
        if self.source.is_hdf5:
            return self.source.array(self.folder, name)
        if name not in self._arrays:
            self._arrays[name] = self.source.array(self.folder, name)
        return self._arrays[name]

    def _check_shapes(self, mixed: bool) -> None:
        atoms = self.padded
        widths = {"coord": 3 * atoms, "force": 3 * atoms, "box": 9, "virial": 9, "energy": 1, "atom_ener": atoms,
                  "hessian": 9 * atoms * atoms, "real_atom_types": atoms, "charge_spin": 2}  # fmt: skip
        for name in (*widths, "fparam", "aparam"):
            if name not in self.names:
                continue
            shape = self.array(name).shape
            width = int(np.prod(shape[1:]))
            wanted = widths.get(name, width if name == "fparam" or width % max(atoms, 1) == 0 else -1)
            if len(shape) == 0 or shape[0] != self.frames or width != wanted:
                raise DataError(
                    f"{self.source.place(self.folder, name)}: shape {list(shape)}, expected "
                    f"[{self.frames}, {wanted if wanted >= 0 else f'a multiple of {atoms}'}] "
                    f"({self.frames} frames in coord.npy, {atoms} atoms in type.raw)"
                )

    def keep(self, frame: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Atomic numbers of the real atoms of a frame, and which atoms those are."""
        types = self.types[frame if len(self.types) > 1 or self.frames == 1 else 0]
        real = types >= 0
        return self.numbers[types[real]], real


class DeepmdStore(Store):
    """All frames of one or more deepmd-kit systems, in the order given; sets of a system in the order of their names.

    Files are mapped, and read when a frame is asked for.

    Args:
        systems: a folder with `type.raw`; a folder above such folders, or a pattern such as `"data/water_*"`; an HDF5
            file (all groups with `type.raw`) or one group of it, `"file.hdf5#/group"`; or a list of these.
        fields: labels to read; every frame must have all. `stress` is made of the virial and the cell.
        partial: labels among them that may be missing in some systems; NaN in the graph.
        units: field → unit in the files; by default deepmd-kit's: Å, eV, eV/Å, and eV for the virial −∂E/∂strain.
        type_map: elements, for systems without `type_map.raw`.

    Raises:
        FileFormatError: a file is missing, truncated or not an array.
        DataError: arrays disagree in shape, a label is missing, or types have no element.
    """

    def __init__(
        self,
        systems: str | Path | list[str],
        fields: Sequence[str] = ("energy", "forces"),
        partial: Sequence[str] = (),
        units: dict[str, str] | None = None,
        type_map: list[str] | None = None,
    ) -> None:
        self.partial = tuple(partial)
        self.labels = tuple(dict.fromkeys(name for name in (*fields, *partial) if name not in ("pos", "cell")))
        for name in self.labels:
            field(name)
            if name not in _FILES and name not in ("charge", "spin_multiplicity"):
                raise DataError(f"deepmd-kit's format has no array for the field '{name}'; it has {sorted(_FILES)}")
        self._factors = {
            name: conversion_factor(unit, FIELDS[name].unit)
            for name, unit in (units or {}).items()
            if field(name).unit not in ("card", "")
        }
        roots = [systems] if isinstance(systems, str | Path) else list(systems)
        paths = list(dict.fromkeys(path for root in roots for path in _find_systems(str(root))))
        self._sets = [part for path in paths for part in _open_system(path, type_map)]
        self._ends = np.cumsum([part.frames for part in self._sets])
        if not len(self._ends) or self._ends[-1] == 0:
            raise DataError(f"{systems}: the systems hold no frames")
        self._check_labels()
        having = ["charge_spin" in part.names for part in self._sets]
        self._charge_spin = all(having)
        if any(having) and not self._charge_spin:
            warnings.warn(
                f"{sum(having)} of {len(having)} sets have charge_spin.npy; it is left out. Give it to all or to none",
                GeomlibWarning,
                stacklevel=2,
            )
        extra = ("charge", "spin_multiplicity") if self._charge_spin else ()
        self.fields = tuple(dict.fromkeys(("pos", "atomic_number", "cell", "pbc", *self.labels, *extra)))

    @staticmethod
    def labels_of(systems: str) -> list[str]:
        """The fields among energy, forces and virial that the first system at or below a path has."""
        source = _Source(next(_find_systems(systems)))
        arrays = source.arrays(source.sets()[0]) if source.sets() else []
        return [name for name in ("energy", "forces", "virial") if _FILES[name] in arrays]

    def _check_labels(self) -> None:
        for part in self._sets:
            for name in self.labels:
                array = _FILES.get(name, "charge_spin")
                if array not in part.names and name not in self.partial:
                    raise DataError(
                        f"{part.source.place(part.folder, array)} is missing for the field '{name}'; the arrays there "
                        f"are {part.names}. Leave the field out, or allow gaps by listing it as partial"
                    )
                if name == "stress" and not part.periodic and name not in self.partial:
                    raise DataError(f"{part.source.path}: has no cell (nopbc), so no stress; read 'virial' instead")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[_Set, int]:
        position = self._position(index)
        which = int(np.searchsorted(self._ends, position, side="right"))
        return self._sets[which], position - (int(self._ends[which - 1]) if which else 0)

    def describe(self, index: int) -> str:
        """See `Store`."""
        part, frame = self._find(index)
        return f"{part.source.path}/{part.folder}, frame {frame}"

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        counts = [np.broadcast_to((part.types >= 0).sum(1), (part.frames,)).astype(np.int64) for part in self._sets]
        return torch.from_numpy(np.concatenate(counts))

    def __getitem__(self, index: int) -> GraphData:
        part, frame = self._find(index)
        numbers, real = part.keep(frame)
        if not len(numbers):
            raise DataError(f"{self.describe(index)}: all atoms are padding")
        graph = GraphData(
            pos=self._read(part, frame, "pos", real),
            atomic_number=torch.from_numpy(numbers),
            cell=self._read(part, frame, "cell", real) if part.periodic else torch.zeros(1, 3, 3, dtype=torch.float64),
            pbc=torch.full((1, 3), part.periodic),
        )
        for name in self.labels:
            if name not in ("charge", "spin_multiplicity"):
                graph[name] = self._read(part, frame, name, real)
        if self._charge_spin:
            charge, spin = np.asarray(part.array("charge_spin")[frame]).reshape(-1).tolist()
            graph.charge, graph.spin_multiplicity = torch.tensor([int(charge)]), torch.tensor([int(spin)])
        return graph

    def _read(self, part: _Set, frame: int, name: str, real: NDArray[np.bool_]) -> Tensor:
        row, atoms = FIELDS[name], int(real.sum())
        items = atoms if row.level == "node" else 1
        array = _FILES[name]
        if array not in part.names or (name == "stress" and not part.periodic):
            return torch.full((items, *(width or 1 for width in row.shape)), torch.nan, dtype=torch.float64)
        values = np.array(part.array(array)[frame], dtype=np.float64).reshape(-1)
        if name == "hessian":
            values = values.reshape(part.padded, 3, part.padded, 3).swapaxes(1, 2)[real][:, real]
        elif row.level == "node":
            values = values.reshape(part.padded, *(width or -1 for width in row.shape))[real]
        else:
            values = values.reshape(1, *(width or -1 for width in row.shape))
        if name not in self.partial and not np.isfinite(values).all():
            raise DataError(
                f"{part.source.place(part.folder, array)}, frame {frame}: '{array}' is NaN or infinite; "
                "mend or remove that frame"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(values)) * self._factors.get(name, 1.0)
        if name == "stress":
            volume = torch.linalg.det(self._read(part, frame, "cell", real)).abs()
            # `units` of the stress are those of the virial in the file
            tensor = -tensor / volume.view(1, 1, 1)
        return tensor


def _find_systems(root: str) -> Iterator[str]:
    """Paths of all systems at or below `root`, by name."""
    name, _, group = root.partition("#")
    if Path(name).is_file():
        if not h5py.is_hdf5(name):
            raise FileFormatError(f"{name}: not an HDF5 file, nor a folder of systems")
        with h5py.File(name, "r") as file:
            if (group or "/") not in file:
                raise FileFormatError(f"{name}: there is no group '{group}'; it has {sorted(file)}")
            found: list[str] = []
            top = file[group or "/"]
            if "type.raw" in top:
                found.append(top.name)
            top.visititems(lambda _, item: found.append(item.name) if _is_system(item) else None)
        systems = [f"{name}#{entry}" for entry in sorted(found)]
    elif Path(root, "type.raw").is_file():
        systems = [root]
    else:
        tops = sorted(glob(root)) if has_magic(root) else [root]  # noqa: PTH207 - the pattern may be absolute
        systems = []
        for top in tops:
            if top != root and Path(top).is_file() and h5py.is_hdf5(top):
                systems += _find_systems(top)
            else:
                systems += sorted(str(file.parent) for file in Path(top).rglob("type.raw"))
    if not systems:
        raise FileFormatError(
            f"{root}: there is no deepmd-kit system (a folder or group with 'type.raw') at or below it"
        )
    yield from systems


def _is_system(item: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(item, h5py.Group) and "type.raw" in item


def _open_system(path: str, type_map: list[str] | None) -> list[_Set]:
    source = _Source(path)
    try:
        types = np.array([int(word) for word in source.words("type.raw")], dtype=np.int64)
    except ValueError as error:
        raise FileFormatError(f"{path}/type.raw: expected one whole number an atom ({error})") from None
    elements = source.words("type_map.raw") if source.has("type_map.raw") else type_map
    if elements is None:
        raise DataError(f"{path}: has no type_map.raw; name the elements with type_map, e.g. ['O', 'H']")
    try:
        numbers = atomic_numbers(elements)
    except UnknownElement as error:
        raise UnknownElement(f"{path}/type_map.raw: {error}") from None
    folders = source.sets()
    if not folders:
        raise FileFormatError(f"{path}: has no set.* folder")
    return [_Set(source, folder, types, numbers) for folder in folders]
