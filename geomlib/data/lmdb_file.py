"""Values of LMDB files by position."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geomlib.data.plain_pickle import read_plain
from geomlib.errors import FileFormatError, MissingExtra

__all__ = ["LmdbReader"]


class LmdbReader:
    """Records 0, 1, 2, … of an LMDB file, whose keys are big-endian numbers of four bytes or decimal digits.

    Args:
        path: file, or folder with `data.mdb`.

    Raises:
        FileFormatError: no LMDB file, a truncated one, or one with other keys.
        MissingExtra: the package lmdb is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as environment, environment.begin() as transaction:
            entries = environment.stat()["entries"]
            length = transaction.get(b"length")
            self._digits = transaction.get(_key(0, digits=False)) is None
            known = transaction.get(_key(0, self._digits)) is not None
        if length is not None:
            found = read_plain(length)
            if not isinstance(found, int) or not 0 <= found <= entries:
                raise FileFormatError(f"{path}: its 'length' is {found!r} and it has {entries} entries")
            entries = found
        if entries and not known:
            raise FileFormatError(f"{path}: has no record 0 by either kind of key; expected those of QH9 or PubChemQH")
        self._length = entries

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The file for one look at it: an environment must not be shared by processes nor opened twice in one."""
        try:
            import lmdb
        except ImportError:
            raise MissingExtra("lmdb", "lmdb", f"reading {self.path}") from None
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        try:
            options = {"readonly": True, "lock": False, "readahead": False, "create": False}
            with lmdb.open(str(self.path), subdir=self.path.is_dir(), **options) as environment:
                pages, size = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
                if pages * size > file.stat().st_size:  # to read beyond the end of a mapped file ends the process
                    raise FileFormatError(
                        f"{self.path}: is cut off, it says {pages} pages of {size} bytes; copy it again"
                    )
                yield environment
        except lmdb.Error as error:
            raise FileFormatError(f"{self.path}: is no LMDB file or is damaged ({error})") from None

    def __len__(self) -> int:
        return self._length

    def get(self, position: int, most: int | None = None) -> bytes:
        """The value of a record, or its first bytes.

        Args:
            position: from 0.
            most: number of bytes.

        Raises:
            FileFormatError: there is no such record.
        """
        with self._open() as environment, environment.begin(buffers=True) as transaction:
            value = transaction.get(_key(position, self._digits))
            if value is None:
                raise FileFormatError("it is missing")
            return bytes(value[:most])


def _key(position: int, digits: bool) -> bytes:
    return str(position).encode() if digits else position.to_bytes(4, "big")
