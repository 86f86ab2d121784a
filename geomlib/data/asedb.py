"""ASE databases as a store."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from ase import Atoms
from ase.db import connect

from geomlib.data.extxyz import AtomsStore
from geomlib.errors import FileFormatError

__all__ = ["AseDbStore"]


class AseDbStore(AtomsStore):
    """One ASE database (`.db`, `.json`), read whole.

    Labels are looked for in the calculator's results, the key-value pairs and the data of each row.

    Args:
        path: the file.
        keys: field → key in the database.
        units: field → unit in the database; by default ASE's, which are geomlib's.
        fields: labels to read; every row must have all.
        partial: labels among them that may be missing in some rows; NaN in the graph.
        selection: of rows, in ASE's language, e.g. `"natoms<50,converged=True"`; empty takes all.

    Raises:
        FileFormatError: the file is missing or not an ASE database.
        DataError: a label is missing or not finite; the message names row and key.
    """

    def __init__(
        self,
        path: str | Path,
        keys: dict[str, str] | None = None,
        units: dict[str, str] | None = None,
        fields: Sequence[str] = ("energy", "forces"),
        partial: Sequence[str] = (),
        selection: str = "",
    ) -> None:
        self.path = Path(path)
        super().__init__(_rows(self.path, selection), str(path), keys, units, fields, partial)

    @staticmethod
    def first_row(path: Path) -> Atoms:
        """The first structure of a database.

        Raises:
            FileFormatError: it can't be read, or is empty.
        """
        for atoms, _ in _rows(path, ""):
            return atoms
        raise FileFormatError(f"{path}: holds no structures")


def _rows(path: Path, selection: str) -> Iterator[tuple[Atoms, str]]:
    """Structures and where each comes from."""
    if not path.is_file():
        raise FileFormatError(f"{path}: there is no such file")
    try:
        for row in connect(path).select(selection or None, sort="id"):
            atoms = row.toatoms()
            atoms.info.update({**row.key_value_pairs, **row.data})
            yield atoms, f"{path}, row {row.id}"
    except (sqlite3.Error, json.JSONDecodeError, KeyError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"{path}: can't be read as an ASE database ({reason[:160]})") from None
