"""Molecules from files, chunk by chunk in constant memory: CSV, SMILES and SD files, Parquet, plain or gzipped.

Every line or record becomes a row, whatever is in it: what can't be used carries the reason with it.
"""

import csv
import gzip
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from geomlib.apply.screen.lines import long_cells
from geomlib.errors import ConfigError, DataError, MissingExtra, nearest

if TYPE_CHECKING:
    import pyarrow.parquet

__all__ = ["Chunk", "InputRow", "MoleculeFile", "fingerprint", "readable"]

_LONGEST = 1 << 20
"""Bytes of a line that are kept."""
_JOINED = 20
"""Lines that a cell in quotes may go over."""
_KINDS = {".csv": "csv", ".tsv": "csv", ".txt": "smi", ".smi": "smi", ".smiles": "smi", ".sdf": "sdf", ".sd": "sdf"}
_KINDS |= {".parquet": "parquet", ".pq": "parquet"}


class InputRow(NamedTuple):
    """A row as it was read.

    Args:
        cells: text of every column.
        problem: why it can't be used, or empty.
        block: of an SD file, the mol block; its SMILES is not known yet.
    """

    cells: tuple[str, ...]
    problem: str = ""
    block: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows, in few objects: they go to other processes.

    Args:
        index: of the chunk, from 0.
        first: number of its first row, from 1.
        cells: of every row.
        problems: place of a row in the chunk → why it can't be used.
        blocks: place of a row of an SD file → its mol block.
    """

    index: int
    first: int
    cells: list[tuple[str, ...]]
    problems: dict[int, str]
    blocks: dict[int, str]

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True)
class MoleculeFile:
    """A file of molecules whose columns are known.

    CSV files have a head; a column in quotes may go over several lines. SMILES files have a SMILES and a name on a
    line. SD files have the columns `smiles`, `name`, and one for each property that occurs.

    Args:
        path: `.csv`, `.tsv`, `.smi`, `.sdf` or `.parquet`, the first four also with `.gz`.
        smiles: column of the SMILES; if not given, the one that is called so, whatever the case.

    Attributes:
        columns: names, as they are in the file.
        smiles_index: which of them is the SMILES.
        types: of the columns of a Parquet file, in Arrow's words; otherwise empty.

    Raises:
        ConfigError: no file, another kind of file, or no such column.
        DataError: a head that can't be used.
        MissingExtra: Parquet without pyarrow.
    """

    path: Path
    smiles: str | None = None
    columns: tuple[str, ...] = field(init=False)
    smiles_index: int = field(init=False)
    types: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.path.is_file():
            raise ConfigError(f"{self.path}: no such file")
        columns = getattr(self, f"_{self.kind}_columns")()
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise DataError(f"{self.path}: the column '{repeated[0]}' occurs twice in the head")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "smiles_index", self._find(self.smiles))

    def _find(self, wanted: str | None) -> int:
        if wanted is not None and wanted in self.columns:
            return self.columns.index(wanted)
        lower = [name.strip().lower() for name in self.columns]
        name = (wanted or "smiles").lower()
        if name in lower:
            return lower.index(name)
        if wanted is None:
            holding = [index for index, name in enumerate(lower) if "smiles" in name]
            if len(holding) == 1:
                return holding[0]
        shown = ", ".join(self.columns[:8]) + (", …" if len(self.columns) > 8 else "")
        hint = nearest(name, self.columns)
        raise ConfigError(f"{self.path}: no column '{wanted or 'smiles'}'{hint}; it has {shown}. Name it with --smiles")

    @property
    def kind(self) -> str:
        """`csv`, `smi`, `sdf` or `parquet`."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        if suffixes and suffixes[-1] == ".gz":
            suffixes.pop()
        kind = _KINDS.get(suffixes[-1]) if suffixes else None
        if kind is None:
            raise ConfigError(f"{self.path}: expected a name that ends in {', '.join(_KINDS)}, or in .gz after it")
        return kind

    def rows(self) -> Iterator[InputRow]:
        """All rows, one at a time.

        Raises:
            DataError: a gzipped file that ends too early or is damaged.
        """
        try:
            yield from getattr(self, f"_{self.kind}_rows")()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self.path}: damaged or cut off ({error})") from None

    def chunks(self, size: int) -> Iterator[Chunk]:
        """All rows in chunks.

        Args:
            size: rows of a chunk; the last one may have fewer.
        """
        rows = self.rows()
        for index in itertools.count():
            chunk = Chunk(index, index * size + 1, [], {}, {})
            for place, (cells, problem, block) in enumerate(itertools.islice(rows, size)):
                chunk.cells.append(cells)
                if problem:
                    chunk.problems[place] = problem
                if block:
                    chunk.blocks[place] = block
            if not chunk.cells:
                return
            yield chunk

    # ---------------------------------------------------------------- lines

    def _open(self) -> IO[bytes]:
        if self.path.suffix.lower() == ".gz":
            return cast(IO[bytes], gzip.open(self.path, "rb"))
        return self.path.open("rb")

    def _lines(self) -> Iterator[str]:
        """Lines without their ends; bytes that are not UTF-8 as lone surrogates, long lines cut."""
        with self._open() as stream:
            first = True
            while line := stream.readline(_LONGEST):
                rest = line
                while not rest.endswith(b"\n") and (rest := stream.readline(_LONGEST)):
                    pass
                if first:
                    line, first = line.removeprefix(b"\xef\xbb\xbf"), False
                yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")

    # ---------------------------------------------------------------- CSV

    def _delimiter(self, head: str) -> str:
        if ".tsv" in [suffix.lower() for suffix in self.path.suffixes]:
            return "\t"
        return next((mark for mark in (",", "\t", ";") if mark in head), ",")

    def _csv_columns(self) -> tuple[str, ...]:
        head = next(self._lines(), None)
        if head is None or not head.strip():
            raise DataError(f"{self.path}: expected the names of the columns in the first line, it is empty")
        return tuple(readable(cell) for cell in next(csv.reader([head], delimiter=self._delimiter(head))))

    def _csv_rows(self) -> Iterator[InputRow]:
        lines = self._lines()
        mark = self._delimiter(next(lines, ""))
        waiting: list[str] = []
        width = len(self.columns)
        while True:
            line = waiting.pop(0) if waiting else next(lines, None)
            if line is None:
                return
            if '"' not in line:
                yield self._row(line.split(mark), width, mark) if line else InputRow(("",) * width, "empty row")
                continue
            cells, used = None, 0
            text = line
            for used in range(_JOINED):
                cells = _quoted(text, mark)
                if cells is not None:
                    break
                if used == len(waiting):
                    more = next(lines, None)
                    if more is None:
                        break
                    waiting.append(more)
                text += "\n" + waiting[used]
            if cells is not None and (len(cells) == width or used == 0):
                del waiting[:used]
                yield self._row(cells, width, mark)
            else:
                yield InputRow((line, *("",) * (width - 1)), "unreadable: quotes that do not match")

    @staticmethod
    def _row(cells: list[str], width: int, mark: str) -> InputRow:
        if len(cells) == width:
            return InputRow(tuple(cells))
        problem = f"unreadable: {len(cells)} cells where the head has {width}"
        if len(cells) > width:
            cells = [*cells[: width - 1], mark.join(cells[width - 1 :])]
        return InputRow((*cells, *("",) * (width - len(cells))), problem)

    # ---------------------------------------------------------------- SMILES files

    def _smi_columns(self) -> tuple[str, ...]:
        return ("smiles", "name")

    def _smi_rows(self) -> Iterator[InputRow]:
        for number, line in enumerate(self._lines()):
            parts = line.split(maxsplit=1)
            if not parts:
                yield InputRow(("", ""), "empty row")
            elif number or parts[0].lower() != "smiles":
                yield InputRow((parts[0], parts[1].rstrip() if len(parts) > 1 else ""))

    # ---------------------------------------------------------------- SD files

    def _sdf_columns(self) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for line in self._lines():
            if line.startswith(">") and (name := _tag(line)):
                names[readable(name)] = None
        return ("smiles", "name", *(name for name in names if name not in ("smiles", "name")))

    def _sdf_rows(self) -> Iterator[InputRow]:
        record: list[str] = []
        for line in self._lines():
            if line.startswith("$$$$"):
                yield self._record(record)
                record = []
            else:
                record.append(line)
        if any(line.strip() for line in record):
            yield self._record(record)

    def _record(self, lines: list[str]) -> InputRow:
        end = next((k for k, line in enumerate(lines) if line.startswith("M  END")), len(lines) - 1) + 1
        values = {"name": lines[0].strip() if lines else ""}
        name = ""
        for line in lines[end:]:
            if line.startswith(">"):
                name = readable(_tag(line))
            elif not line.strip():
                name = ""
            elif name and name not in ("smiles", "name"):
                values[name] = f"{values[name]}\n{line}" if name in values else line
        cells = tuple(values.get(column, "") for column in self.columns)
        if not any(line.strip() for line in lines):
            return InputRow(cells, "empty row")
        return InputRow(cells, block="\n".join(lines[:end]) + "\n")

    # ---------------------------------------------------------------- Parquet

    def _parquet(self) -> "pyarrow.parquet.ParquetFile":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingExtra("pyarrow", "parquet", f"reading {self.path}") from None
        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{self.path}: no Parquet file ({str(error).splitlines()[0]})") from None

    def _parquet_columns(self) -> tuple[str, ...]:
        with self._parquet() as file:
            object.__setattr__(self, "types", tuple(str(kind) for kind in file.schema_arrow.types))
            return tuple(file.schema_arrow.names)

    def _parquet_rows(self) -> Iterator[InputRow]:
        with self._parquet() as file:
            for batch in file.iter_batches(batch_size=2048):
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    row = tuple("" if cell is None else str(cell) for cell in cells)
                    yield InputRow(row, "" if any(row) else "empty row")


def _quoted(text: str, mark: str) -> list[str] | None:
    """Cells of one record; None if a quote is not closed."""
    try:
        with long_cells():
            rows = list(csv.reader([f"{line}\n" for line in text.split("\n")], delimiter=mark, strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _tag(line: str) -> str:
    start, end = line.find("<"), line.rfind(">")
    return line[start + 1 : end] if 0 <= start < end else ""


def readable(text: str) -> str:
    r"""Text that UTF-8 can hold: bytes that were none are written as `\xff`."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def fingerprint(path: str | os.PathLike[str]) -> dict[str, object]:
    """What tells a file from another one without reading all of it: size, time, its first and last bytes."""
    file = Path(path)
    state = file.stat()
    digest = hashlib.sha256()
    if file.is_file():
        with file.open("rb") as stream:
            digest.update(stream.read(_LONGEST))
            if state.st_size > _LONGEST:
                stream.seek(-_LONGEST, os.SEEK_END)
                digest.update(stream.read())
    return {"bytes": state.st_size, "changed": state.st_mtime_ns, "sha256": digest.hexdigest()}
