"""Arrays in files: `.npy` mapped into memory and `.npz` read whole, never a pickle, sizes checked first."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from geomlib.errors import DataError, FileFormatError
from geomlib.memory import require_memory

__all__ = ["ArrayWriter", "map_array", "read_archive"]


def map_array(path: Path) -> NDArray[Any]:
    """Map a `.npy` file into memory, read-only.

    Raises:
        FileFormatError: missing, truncated, not a `.npy` file, or holding Python objects.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileFormatError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"{path}: not a whole .npy file ({_short(error)}); copy or make it again") from None


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a `.npz` file.

    Shapes are compared with the sizes in the archive, and their sum with the memory that is free, before anything is
    allocated.

    Raises:
        FileFormatError: missing, truncated, not a `.npz` file, or holding Python objects.
        DataError: larger than the memory that is free.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            total = 0
            for name in members:
                with archive.open(name) as stream:
                    shape, dtype = _header(stream)
                    expected = stream.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
                if dtype.hasobject:
                    raise FileFormatError(f"{path}: '{name}' holds Python objects, which are never read")
                if expected != archive.getinfo(name).file_size:
                    raise FileFormatError(f"{path}: '{name}' says shape {shape}, which its size does not match")
                total += expected
        require_memory(total, f"{path}", "write it as a folder, which is mapped and not read")
        with np.load(path, allow_pickle=False) as arrays:
            return {name.removesuffix(".npy"): arrays[name.removesuffix(".npy")] for name in members}
    except FileNotFoundError:
        raise FileFormatError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise FileFormatError(f"{path}: not a whole .npz file ({_short(error)}); copy or make it again") from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


class ArrayWriter:
    """Write a `.npy` file row by row, without knowing how many rows will come.

    Args:
        path: file to make.
        dtype: of the file.
        item_shape: shape of one row.
    """

    def __init__(self, path: Path, dtype: DTypeLike, item_shape: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.item_shape = item_shape
        self.rows = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()
        self._header_bytes = self._file.tell()

    def _write_header(self) -> None:
        description = np.lib.format.dtype_to_descr(self.dtype)
        shape = (self.rows, *self.item_shape)
        # numpy pads the header so that the first axis can grow in place
        header = {"descr": description, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows, `[n, *item_shape]`.

        Raises:
            DataError: integers that the dtype of the file can't hold.
        """
        stored = np.ascontiguousarray(rows, dtype=self.dtype)
        if self.dtype.kind in "iu" and not np.array_equal(stored, rows):
            raise DataError(f"{self.path.name}: a value of {rows.min()}…{rows.max()} does not fit {self.dtype}")
        self._file.write(stored.tobytes())
        self.rows += len(stored)

    def abandon(self) -> None:
        """Close the file without finishing it."""
        self._file.close()

    def close(self) -> None:
        """Write the final shape and close the file."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self._header_bytes:
            raise DataError(f"{self.path}: {self.rows} rows are more than the file's header can hold")
        self._file.close()
