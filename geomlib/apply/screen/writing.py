"""Results of a screening as CSV, plain or gzipped, or as Parquet; equal rows give equal bytes."""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from geomlib.apply.screen.lines import cells_of, lines_of
from geomlib.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    import pyarrow

__all__ = ["RowWriter", "check_output", "writing"]

_GROUP = 16384


class RowWriter(Protocol):
    """Takes rows of text."""

    def rows(self, rows: Sequence[Sequence[str]], /) -> None:
        """Take some."""

    def text(self, text: str, /) -> None:
        """Take rows as `lines_of` wrote them."""


class _Csv:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def rows(self, rows: Sequence[Sequence[str]], /) -> None:
        self._stream.write(lines_of(rows))

    def text(self, text: str, /) -> None:
        self._stream.write(text)


def check_output(path: Path) -> None:
    """See before the work whether its result can be written.

    Raises:
        ConfigError: another kind of file.
        MissingExtra: Parquet without pyarrow.
    """
    name = path.name.lower()
    if not name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ConfigError(f"{path}: expected a name that ends in .csv, .csv.gz or .parquet")
    if name.endswith(".parquet"):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtra("pyarrow", "parquet", f"writing {path}") from None


@contextmanager
def writing(path: Path, columns: Sequence[str], types: Sequence[str]) -> Iterator[RowWriter]:
    """A writer of rows; the file is there, in whole, when the context ends well.

    Args:
        path: `.csv`, `.csv.gz` or `.parquet`.
        columns: head.
        types: of Parquet columns, in Arrow's words; text that does not fit becomes a column of text.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        if path.name.lower().endswith(".parquet"):
            with _parquet(part, columns, types) as writer:
                yield writer
        else:
            with _text(part) as stream:
                rows = _Csv(stream)
                rows.rows([columns])
                yield rows
        with part.open("rb") as stream_of_bytes:
            os.fsync(stream_of_bytes.fileno())
        part.replace(path)


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    if not path.name.lower().endswith(".gz"):
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    # neither name nor time goes into the file
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as stream,
    ):
        yield stream


@contextmanager
def _parquet(path: Path, columns: Sequence[str], types: Sequence[str]) -> Iterator[RowWriter]:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, _type(kind)) for name, kind in zip(columns, types, strict=True)])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as file:
        rows = _Groups(file, schema)
        yield rows
        rows.flush()


def _type(name: str) -> "pyarrow.DataType":
    import pyarrow

    try:
        kind = pyarrow.type_for_alias(name)
    except ValueError:
        return pyarrow.string()
    plain = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
    return kind if plain else pyarrow.string()


class _Groups:
    """Collects rows into row groups."""

    def __init__(self, file: "pyarrow.parquet.ParquetWriter", schema: "pyarrow.Schema") -> None:
        self._file, self._schema = file, schema
        self._rows: list[Sequence[str]] = []

    def rows(self, rows: Sequence[Sequence[str]], /) -> None:
        for row in rows:
            self._rows.append(row)
            if len(self._rows) == _GROUP:
                self.flush()

    def text(self, text: str, /) -> None:
        self.rows(cells_of(text))

    def flush(self) -> None:
        """Write what is collected."""
        import pyarrow

        if not self._rows:
            return
        arrays = []
        for cells, kind in zip(zip(*self._rows, strict=True), self._schema.types, strict=True):
            values: Sequence[str | bool | None] = [cell if cell != "" else None for cell in cells]
            if pyarrow.types.is_string(kind):
                values = cells
            elif pyarrow.types.is_boolean(kind):
                values = [None if cell == "" else cell == "True" for cell in cells]
                arrays.append(pyarrow.array(values, kind))
                continue
            arrays.append(pyarrow.array(values, pyarrow.string()).cast(kind))
        self._file.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._rows = []
