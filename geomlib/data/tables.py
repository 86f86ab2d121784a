"""`TableStore`: rows of a CSV file as molecules or mixtures with properties."""

import csv
import gzip
import hashlib
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.molecules import from_smiles, parse_molecule
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning, nearest

__all__ = ["TableRow", "TableStore", "read_table"]

_MISSING = frozenset({"", "nan", "na", "n/a", "none", "null"})
"""What stands, in any case, for a label that was not measured."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table.

    Attributes:
        row: its number, from 0, header not counted.
        line: line of the file on which it ends, from 1.
        cells: column → text.
        problem: what is wrong with it as a line of a table; empty if nothing is.
    """

    row: int
    line: int
    cells: dict[str, str]
    problem: str = ""


def read_table(path: str | Path, delimiter: str = ",") -> tuple[list[str], Iterator[TableRow]]:
    """Columns and rows of a CSV file, which may be packed with gzip; rows are read as they are asked for.

    Raises:
        FileFormatError: the file is missing or can't be read, has no header, or names a column twice.
    """
    lines = _lines(Path(path), delimiter)
    header = next(lines, None)
    if header is None:
        raise FileFormatError(f"{path}: is empty; expected a first line with the names of the columns")
    columns = [name.strip() for name in header[1]]
    if double := sorted({name for name in columns if columns.count(name) > 1}):
        raise FileFormatError(f"{path}: names the columns {double} twice")
    return columns, _rows(columns, lines)


def _lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line of the file, cells); bytes that are no UTF-8 become surrogates."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                yield reader.line_num, cells
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileFormatError(f"{path}: can't be read: {reason}") from None
    except csv.Error as error:
        raise FileFormatError(f"{path}: is no CSV file: {error}") from None


def _rows(columns: Sequence[str], lines: Iterator[tuple[int, list[str]]]) -> Iterator[TableRow]:
    row = 0
    for line, cells in lines:
        if not cells:  # a blank line is no row
            continue
        problem = ""
        if len(cells) != len(columns):
            problem = f"has {len(cells)} cells, the header {len(columns)}"
        elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
            problem = "is not written in UTF-8"
        named = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
        yield TableRow(row, line, named, problem)
        row += 1


class TableStore(Store):
    """Molecules, or mixtures, with properties: the rows of a CSV file.

    A graph holds the text of its SMILES, and `mole_fraction`, `temperature` and `target` where there are columns for
    them; a net's spec builds atoms, bonds or tokens of it. A label that is not there (an empty cell, `nan`, `NA`) is
    NaN.

    A row without molecule, with a SMILES that is none, a label that is no number, or mole fractions that don't sum to
    1 is bad. Every message names file and row, which is counted from 0.

    Args:
        path: CSV file, `.gz` if it is packed.
        smiles: column of the SMILES; of a mixture one for each component, where an empty cell is a component that is
            not there.
        targets: columns of the properties; `null` for those that the net names.
        fractions: columns of the mole fractions of a mixture, one for each component, or for all but the last, which
            makes up the rest.
        temperature: column of the temperature [K].
        errors: `raise` at the first bad row, or `skip` bad rows with a warning; `skipped` lists them.
        check: whether RDKit reads every SMILES beforehand (17 000 a second); else a net complains when it gets there.
        delimiter: what stands between cells.

    Attributes:
        columns: names of all columns of the file.
        rows: row of each graph in the file.
        skipped: (where, why) of each bad row.

    Raises:
        FileFormatError: the file can't be read.
        ConfigError: a column that the file does not have.
        DataError: a bad row, or no row that could be used.
    """

    partial: tuple[str, ...] = ("target",)

    def __init__(
        self,
        path: str,
        smiles: str | list[str] = "smiles",
        targets: list[str] | str | None = None,
        fractions: list[str] | None = None,
        temperature: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        check: bool = True,
        delimiter: str = ",",
    ) -> None:
        self.path, self.delimiter = Path(path), delimiter
        self.smiles_columns = [smiles] if isinstance(smiles, str) else list(smiles)
        self.fraction_columns = list(fractions or ())
        self.temperature_column = temperature
        self.targets = (targets,) if isinstance(targets, str) else None if targets is None else tuple(targets)
        self.errors, self.check = errors, check
        if errors not in ("raise", "skip"):
            raise ConfigError(f"errors is '{errors}'; expected raise or skip")
        components = len(self.smiles_columns)
        if not components or (components > 1 and len(self.fraction_columns) not in (components - 1, components)):
            raise ConfigError(
                f"{path}: {components} columns of SMILES and {len(self.fraction_columns)} of mole fractions; expected "
                "a fraction for each component, or for all but the last"
            )
        self._read()

    # ---------------------------------------------------------------- reading

    def _read(self) -> None:
        columns, lines = read_table(self.path, self.delimiter)
        self.columns = tuple(columns)
        optional = [self.temperature_column] if self.temperature_column else []
        for name in [*self.smiles_columns, *self.fraction_columns, *(self.targets or ()), *optional]:
            self._require(name, columns)
        self._molecules: list[tuple[str, ...]] = []
        self._fractions: list[list[float]] = []
        self.skipped: list[tuple[str, str]] = []
        labels, temperatures, rows, ends = list[list[float]](), list[float](), list[int](), list[int]()
        for line in lines:
            try:
                if line.problem:
                    raise DataError(line.problem)
                molecules, shares = self._components(line.cells)
                known = [_number(line.cells, name) for name in self.targets or ()]
                kelvin = _number(line.cells, self.temperature_column) if self.temperature_column else 0.0
                if math.isnan(kelvin):
                    raise DataError(f"has no temperature in column '{self.temperature_column}'")
                if self.temperature_column and kelvin <= 0:
                    raise DataError(f"has the temperature {kelvin:g} K in column '{self.temperature_column}'")
            except DataError as error:
                self._bad(line, str(error))
                continue
            self._molecules.append(molecules)
            self._fractions.append(shares)
            labels.append(known)
            temperatures.append(kelvin)
            rows.append(line.row)
            ends.append(line.line)
        if not rows:
            first = f"; the first: {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise DataError(f"{self.path}: no row can be used{first}")
        self.rows, self._ends = torch.tensor(rows), ends
        self._labels = torch.tensor(labels, dtype=torch.float64).reshape(len(rows), -1)
        self._temperatures = torch.tensor(temperatures, dtype=torch.float64)
        self._name_fields()
        if self.skipped:
            warnings.warn(
                f"{len(self.skipped)} of {len(self.skipped) + len(rows)} rows are left out; the first: "
                f"{self.skipped[0][0]}: {self.skipped[0][1]}",
                GeomlibWarning,
                stacklevel=4,
            )

    def _require(self, name: str, columns: Sequence[str], why: str = "") -> None:
        if name not in columns:
            raise ConfigError(
                f"{self.path}: has no column '{name}'{nearest(name, columns)}{why}; it has {', '.join(columns)}"
            )

    def _components(self, cells: dict[str, str]) -> tuple[tuple[str, ...], list[float]]:
        """SMILES and mole fractions of the components that are there."""
        texts = [cells[name] for name in self.smiles_columns]
        shares = [_number(cells, name) for name in self.fraction_columns]
        if len(texts) > 1 and len(shares) < len(texts):
            shares.append(1.0 - math.fsum(share for share in shares if not math.isnan(share)))
        present = [k for k, text in enumerate(texts) if text]
        for k, share in enumerate(shares):
            if not texts[k] and abs(share) > 1e-9:  # NaN is not
                raise DataError(f"has a mole fraction {share:g}, but no molecule in column '{self.smiles_columns[k]}'")
            if texts[k] and math.isnan(share):
                raise DataError(f"has no mole fraction of the molecule in column '{self.smiles_columns[k]}'")
        if not present:
            raise DataError(f"has no SMILES in column '{self.smiles_columns[0]}'")
        molecules, shares = tuple(texts[k] for k in present), [shares[k] for k in present] if shares else []
        if self.check:
            for text in molecules:
                parse_molecule(text)
        if shares:
            from_smiles(molecules, shares)  # complains of fractions that are none
        return molecules, shares

    def _bad(self, line: TableRow, problem: str) -> None:
        where = f"{self.path}, row {line.row} (line {line.line})"
        if self.errors == "raise":
            raise DataError(f"{where}: {problem}; errors='skip' leaves such rows out")
        self.skipped.append((where, problem))

    def _name_fields(self) -> None:
        self.fields = (
            "component_graph",
            *(("mole_fraction",) if self.fraction_columns else ()),
            *(("temperature",) if self.temperature_column else ()),
            "smiles",
            "character_component",
            *(("target",) if self.targets else ()),
        )

    def read_targets(self, names: Sequence[str]) -> None:
        """Read the labels of `names` from the columns of the same names; for a store that was told no targets.

        Raises:
            ConfigError: the file has no such column.
            DataError: a label is no number.
        """
        columns, lines = read_table(self.path, self.delimiter)
        for name in names:
            self._require(name, columns, ", which the net has as a target")
        kept = {row: index for index, row in enumerate(self.rows.tolist())}
        labels = torch.full((len(self), len(names)), math.nan, dtype=torch.float64)
        for line in lines:
            if line.row in kept:
                try:
                    values = [_number(line.cells, name) for name in names]
                except DataError as error:
                    raise DataError(f"{self.path}, row {line.row} (line {line.line}): {error}") from None
                labels[kept[line.row]] = torch.tensor(values, dtype=torch.float64)
        self.targets, self._labels = tuple(names), labels
        self._name_fields()

    def column(self, name: str) -> list[str]:
        """Text of a column, for each graph.

        Raises:
            ConfigError: there is no such column.
        """
        columns, lines = read_table(self.path, self.delimiter)
        self._require(name, columns)
        kept = set(self.rows.tolist())
        return [line.cells[name] for line in lines if line.row in kept]

    def smiles_of(self, index: int) -> tuple[str, ...]:
        """SMILES of each component of a graph."""
        return self._molecules[self._position(index)]

    # ---------------------------------------------------------------- the store

    def __len__(self) -> int:
        return len(self._molecules)

    def __getitem__(self, index: int) -> GraphData:
        k = self._position(index)
        return from_smiles(
            self._molecules[k],
            mole_fraction=self._fractions[k] if self.fraction_columns else None,
            temperature=float(self._temperatures[k]) if self.temperature_column else None,
            **({"target": self._labels[k : k + 1].clone()} if self.targets else {}),
        )

    @property
    def labels(self) -> Tensor:
        """Labels [graphs, targets]; NaN where there is none."""
        return self._labels

    def describe(self, index: int) -> str:
        """See `Store`."""
        k = self._position(index)
        return f"{self.path}, row {int(self.rows[k])} (line {self._ends[k]})"

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """Number of characters of each graph."""
        return torch.tensor([sum(map(len, texts)) for texts in self._molecules])

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        digest = hashlib.sha256(repr(self.fields).encode())
        for texts, shares in zip(self._molecules, self._fractions, strict=True):
            digest.update(f"{texts} {shares}\n".encode())
        digest.update(self._labels.numpy().tobytes())
        digest.update(self._temperatures.numpy().tobytes())
        return digest.hexdigest()


def _number(cells: dict[str, str], name: str) -> float:
    """Number in a column, NaN where there is none.

    Raises:
        DataError: something else stands there, or infinity.
    """
    text = cells[name]
    if text.lower() in _MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise DataError(f"column '{name}' holds '{text}', which is no number")
    return value
