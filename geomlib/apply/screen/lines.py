"""Rows as CSV text, and back without loss, whatever is in the cells."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["cells_of", "lines_of", "long_cells"]

_LIMIT = 1 << 30
"""Characters of a cell that are read; by itself the module `csv` gives up beyond 131,072."""


class _Lines:
    """Takes lines that end in CR LF, which makes the writer put quotes around both, and keeps them with LF."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line[:-2])


def lines_of(rows: Iterable[Sequence[object]]) -> str:
    """CSV of rows, each with a line feed at its end."""
    taken = _Lines()
    csv.writer(taken).writerows(rows)
    return "\n".join([*taken.lines, ""])


def cells_of(text: str) -> list[list[str]]:
    """Rows of what `lines_of` wrote."""
    with long_cells():
        return list(csv.reader(io.StringIO(text, newline="")))


@contextmanager
def long_cells() -> Iterator[None]:
    """Let the module `csv` read cells of any length for a while."""
    before = csv.field_size_limit(_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)
