"""Published databases of Kohn-Sham matrices as stores: QH9, PubChemQH and the Hamiltonians of MD17.

Nothing in them is executed: values of LMDB files, which are pickles, go through `geomlib.data.plain_pickle`. Records
are read one by one and checked; what is wrong with one is said with its number.
"""

import os
import sqlite3
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.hamiltonians import checked_molecule
from geomlib.data.lmdb_file import LmdbReader
from geomlib.data.orbitals import shells_of
from geomlib.data.plain_pickle import Call, read_plain, to_array, value_of_key
from geomlib.data.stores import Store
from geomlib.errors import DataError, FileFormatError, GeomlibError

__all__ = ["MD17HamiltonianStore", "PubChemQHStore", "QH9Store", "RecordStore"]

_BOHR_PER_ANGSTROM = 1.8897259886
"""As in QH9's code, which wrote the positions; the last digits are not those of CODATA."""

_CLOSEST = (0.5, 1.7)
"""Between these lies the shortest distance of a molecule of light atoms [Å]; in Bohr it is beyond."""


class RecordStore(Store):
    """Molecules with Kohn-Sham matrices, read one by one from a database.

    Args:
        path: file.
        fields: matrices to read.
        basis: basis set of the matrices.
        functional: what they were made with, in PySCF's words.

    Raises:
        FileFormatError: no such file or another kind of file.
        DataError: when a record is read that is damaged, holds other sizes than its atoms have orbitals, an element
            that the basis set lacks, an odd number of electrons or atoms that coincide; says which record.
    """

    known: tuple[str, ...] = ("hamiltonian",)

    def __init__(self, path: str, fields: Sequence[str], basis: str, functional: str) -> None:
        self.path, self.basis, self.functional = Path(path), basis, functional
        for name in fields:
            if name not in self.known:
                raise DataError(f"{type(self).__name__} has no field '{name}'; it has {', '.join(self.known)}")
        if not self.path.exists():
            raise FileFormatError(f"{path}: there is no such file; docs/howto/hamiltonians.md says where to get it")
        self.matrices = tuple(fields)
        self.fields = ("pos", "atomic_number", *self.matrices)

    @abstractmethod
    def _read(self, position: int) -> dict[str, NDArray[Any]]:
        """`Z`, `pos` [Å] and the matrices of a record, by field, in PySCF's order of orbitals."""

    def __getitem__(self, index: int) -> GraphData:
        position = self._position(index)
        where = self.describe(position)
        try:
            found = self._read(position)
        except (GeomlibError, ValueError, TypeError, LookupError, AttributeError, sqlite3.Error) as error:
            raise DataError(f"{where} can't be read: {' '.join(str(error).split()) or type(error).__name__}") from None
        matrices = {name: found[name] for name in self.matrices}
        return checked_molecule(found["Z"], found["pos"], matrices, self.basis, where)

    def describe(self, index: int) -> str:
        """See `Store`."""
        return f"{self.path}, record {self._position(index)}"


class _Sqlite:
    """A connection of this process to an SQLite file, read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if self._connection is None or self._pid != os.getpid():  # an open file must not be shared by processes
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self._connection, self._pid = sqlite3.connect(uri, uri=True, check_same_thread=False), os.getpid()
        return self._connection.execute(query, values).fetchall()


class QH9Store(RecordStore):
    """QH9 (B3LYP/def2-SVP; H, C, N, O, F): the SQLite files of its authors, and LMDB copies of them.

    `QH9Stable.db` has positions in Å, `QH9Dynamic_300k.db` and `QH9Dynamic_100k.db` in Bohr; which of both a file is
    is seen from its columns. Copies in LMDB that were made for SPHNet also hold the matrix of the initial density
    (`initial_hamiltonian`); for the others `scripts/convert_hamiltonians.py` computes it.

    Args:
        path: `.db` file, LMDB folder or LMDB file.
        fields: `hamiltonian`, and `initial_hamiltonian` if the file has it.
        pos_unit: `"Å"` or `"Bohr"`, where it is not that of the published files.
        functional: in PySCF's words; by default `b3lyp5` for stable geometries and `b3lyp` for dynamic ones, which
            were computed before and after PySCF changed the meaning of `b3lyp`.

    Raises:
        FileFormatError: no such file, or a table that is not QH9's.
        MissingExtra: an LMDB file, and the package lmdb is not installed.

    Source: Yu et al., NeurIPS 2023 (arXiv 2306.09549).
    """

    known = ("hamiltonian", "initial_hamiltonian")

    def __init__(
        self,
        path: str,
        fields: Sequence[str] = ("hamiltonian",),
        pos_unit: str | None = None,
        functional: str | None = None,
    ) -> None:
        super().__init__(path, fields, "def2-svp", "")
        if pos_unit not in (None, "Å", "Bohr"):
            raise DataError(f"pos_unit is '{pos_unit}'; expected Å or Bohr")
        self._lmdb: LmdbReader | None = None
        self._ids: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._numbers: list[int] | None = None
        if self.path.is_dir() or not _is_sqlite(self.path):
            self._lmdb = LmdbReader(self.path)
            dynamic = len(self._lmdb) > 0 and _has_key(self._lmdb.get(0), "geo_id")
        else:
            dynamic = self._open_table()
        self.pos_unit = pos_unit or ("Bohr" if dynamic else "Å")
        self.functional = functional or ("b3lyp" if dynamic else "b3lyp5")

    def _open_table(self) -> bool:
        if "initial_hamiltonian" in self.matrices:
            raise DataError(
                f"{self.path} has no initial_hamiltonian; scripts/convert_hamiltonians.py makes a file with it"
            )
        self._sqlite = _Sqlite(self.path)
        try:
            columns = {str(row[1]) for row in self._sqlite.rows("pragma table_info(data)")}
            if missing := {"N", "Z", "pos", "Ham"} - columns:
                raise FileFormatError(
                    f"{self.path}: its table 'data' lacks {', '.join(sorted(missing))}; expected QH9's columns"
                )
            rows = self._sqlite.rows("select rowid, N from data order by rowid")
        except sqlite3.Error as error:
            raise FileFormatError(f"{self.path}: can't be read as an SQLite file of QH9 ({error})") from None
        self._ids = np.array([row[0] for row in rows], dtype=np.int64)
        self._numbers = [row[1] if isinstance(row[1], int) else 0 for row in rows]
        return "geo_id" in columns

    def __len__(self) -> int:
        return len(self._ids) if self._lmdb is None else len(self._lmdb)

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        if self._numbers is None:
            assert self._lmdb is not None
            found = []
            for position in range(len(self)):
                try:
                    found.append(int(value_of_key(self._lmdb.get(position, 4096), "num_nodes")))
                except (FileFormatError, ValueError) as error:
                    raise DataError(f"{self.describe(position)} can't be read: {error}") from None
            self._numbers = found
        return torch.tensor(self._numbers, dtype=torch.int64)

    def _read(self, position: int) -> dict[str, NDArray[Any]]:
        if self._lmdb is None:
            query = "select N, Z, pos, Ham from data where rowid = ?"
            rows = self._sqlite.rows(query, int(self._ids[position]))
            if not rows:
                raise FileFormatError("its row has gone")
            row = dict(zip(("num_nodes", "atoms", "pos", "Ham"), rows[0], strict=True))
        else:
            row = read_plain(self._lmdb.get(position))
            if not isinstance(row, dict):
                raise FileFormatError(f"holds a {_kind(row)}, expected QH9's dictionary; see PubChemQHStore")
        keys = {"Z": ("atoms", "<i4"), "pos": ("pos", "<f8"), "hamiltonian": ("Ham", "<f8")}
        keys["initial_hamiltonian"] = ("Ham_init", "<f8")
        found: dict[str, NDArray[Any]] = {}
        for name in ("Z", "pos", *self.matrices):
            key, dtype = keys[name]
            if row.get(key) is None:
                raise FileFormatError(f"has no '{key}'")
            try:
                found[name] = to_array(row[key], dtype)
            except FileFormatError as error:
                raise FileFormatError(f"its '{key}' {error}") from None
        if row.get("num_nodes") != len(found["Z"]):
            raise FileFormatError(f"says {row.get('num_nodes')} atoms and has {len(found['Z'])} atomic numbers")
        if self.pos_unit == "Bohr":
            found["pos"] = found["pos"] / _BOHR_PER_ANGSTROM
        found["pos"] = _coordinates(found["pos"], len(found["Z"]))
        _check_unit(found["pos"], self.pos_unit)
        return found


class PubChemQHStore(RecordStore):
    """PubChemQH (B3LYP/def2-TZVP, 40 to 100 atoms): LMDB files whose values are PyTorch Geometric's `Data` objects.

    The objects are not made: their tensors are read from the pickles.

    Args:
        path: LMDB file or folder.
        fields: of `hamiltonian`, `initial_hamiltonian` and `overlap`; the last one not every copy has.
        basis: basis set.
        functional: in PySCF's words.

    Raises:
        FileFormatError: no such file, or another kind of file.
        MissingExtra: the package lmdb is not installed.

    Source: Luo et al. 2025 (arXiv 2502.01171); the format as read by microsoft/SPHNet. Not seen by geomlib's tests,
        which write such files themselves.
    """

    known = ("hamiltonian", "initial_hamiltonian", "overlap")

    def __init__(
        self,
        path: str,
        fields: Sequence[str] = ("hamiltonian", "initial_hamiltonian"),
        basis: str = "def2-tzvp",
        functional: str = "b3lyp5",
    ) -> None:
        super().__init__(path, fields, basis, functional)
        self._lmdb = LmdbReader(self.path)
        self._numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self._lmdb)

    def _read(self, position: int) -> dict[str, NDArray[Any]]:
        row = _fields_of_data(read_plain(self._lmdb.get(position)))
        keys = {"Z": "atomic_numbers", "pos": "pos", "hamiltonian": "fock", "initial_hamiltonian": "init_fock"}
        keys["overlap"] = "s1e"
        found: dict[str, NDArray[Any]] = {}
        for name in ("Z", "pos", *self.matrices):
            if row.get(keys[name]) is None:
                raise FileFormatError(f"has no '{keys[name]}'; it has {', '.join(map(str, row))}")
            try:
                found[name] = to_array(row[keys[name]], "<i8" if name == "Z" else "<f8").reshape(-1)
            except FileFormatError as error:
                raise FileFormatError(f"its '{keys[name]}' {error}") from None
        found["pos"] = _coordinates(found["pos"], len(found["Z"]))
        return found


class MD17HamiltonianStore(RecordStore):
    """The Hamiltonians of MD17 (PBE/def2-SVP): ASE databases, one molecule each, made with SchNOrb.

    Their orbitals have another order inside p and d shells (z, x, y and z², xz, yz, x²−y², xy), which becomes PySCF's
    here; the overlap in the file is turned with the matrix, so that `scripts/convert_hamiltonians.py` can compare it
    with PySCF's.

    Args:
        path: `schnorb_hamiltonian_<molecule>.db`.
        fields: of `hamiltonian` and `overlap`.

    Raises:
        FileFormatError: no such file, or no ASE database.

    Source: Schütt et al., Nat. Commun. 10, 5024 (2019).
    """

    known = ("hamiltonian", "overlap")

    def __init__(self, path: str, fields: Sequence[str] = ("hamiltonian", "overlap")) -> None:
        super().__init__(path, fields, "def2-svp", "pbe")
        self._sqlite = _Sqlite(self.path)
        try:
            rows = self._sqlite.rows("select id, natoms from systems order by id")
        except sqlite3.Error as error:
            raise FileFormatError(f"{path}: can't be read as an ASE database ({error})") from None
        self._ids = [int(row[0]) for row in rows]
        self._numbers = [int(row[1]) for row in rows]
        self._database: Any = None
        self._pid = -1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_database": None}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return torch.tensor(self._numbers, dtype=torch.int64)

    def _read(self, position: int) -> dict[str, NDArray[Any]]:
        from ase.db import connect

        if self._database is None or self._pid != os.getpid():
            self._database, self._pid = connect(str(self.path), type="db", use_lock_file=False), os.getpid()
        try:
            row = self._database.get(id=self._ids[position])
            data = row.data
        except (AssertionError, OverflowError) as error:  # how ASE's decoder fails
            raise FileFormatError(f"is damaged ({' '.join(str(error).split()) or type(error).__name__})") from None
        numbers = np.asarray(row.numbers, dtype=np.int64)
        found: dict[str, NDArray[Any]] = {"Z": numbers, "pos": np.asarray(row.positions, dtype=np.float64)}
        order = _from_orca(numbers, self.basis)
        for name in self.matrices:
            if name not in data:
                raise FileFormatError(f"has no '{name}' among its data; it has {', '.join(sorted(data))}")
            matrix = np.asarray(data[name], dtype=np.float64)
            if matrix.shape != (len(order), len(order)):
                raise FileFormatError(
                    f"its '{name}' has shape {list(matrix.shape)}, expected {len(order)} orbitals of {self.basis}"
                )
            found[name] = matrix[np.ix_(order, order)]
        return found


_ORCA = {0: (0,), 1: (1, 2, 0), 2: (4, 2, 0, 1, 3)}
"""Degree → where the components of PySCF's order stand in that of ORCA, m = 0, 1, −1, 2, −2."""


def _from_orca(numbers: NDArray[np.int64], basis: str) -> NDArray[np.int64]:
    """Place in ORCA's order of each orbital in PySCF's."""
    order: list[int] = []
    for number in numbers:
        for degree in shells_of(basis, int(number)):
            begin = len(order)
            order += [begin + place for place in _ORCA[degree]]
    return np.array(order, dtype=np.int64)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def _has_key(data: bytes, key: str) -> bool:
    try:
        row = read_plain(data)
    except FileFormatError:
        return False  # said when the record is read
    return isinstance(row, dict) and key in row


def _coordinates(values: NDArray[Any], atoms: int) -> NDArray[np.float64]:
    if values.size != 3 * atoms:
        raise FileFormatError(f"its 'pos' has {values.size} numbers, expected 3 for each of {atoms} atoms")
    return values.reshape(atoms, 3).astype(np.float64)


def _check_unit(pos: NDArray[np.float64], unit: str) -> None:
    if len(pos) < 2:
        return
    distances = np.linalg.norm(pos[:, None] - pos, axis=2) + 1e9 * np.eye(len(pos))
    low, high = _CLOSEST
    if not low < distances.min() < high:
        raise FileFormatError(f"its closest atoms are {distances.min():.3f} Å apart if positions are in {unit}")


def _fields_of_data(value: object) -> dict[Any, Any]:
    """Attributes of an object of PyTorch Geometric, of a dictionary, or of what older versions wrote."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Call) and isinstance(value.state, dict):
        inner = value.state.get("_store")
        mapping = inner.state.get("_mapping") if isinstance(inner, Call) and isinstance(inner.state, dict) else None
        return mapping if isinstance(mapping, dict) else value.state
    raise FileFormatError(f"holds a {_kind(value)}, expected an object with attributes")


def _kind(value: object) -> str:
    return "call that is not made" if isinstance(value, Call) else type(value).__name__
