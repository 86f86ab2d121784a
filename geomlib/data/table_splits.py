"""Splits of molecules: by scaffold, by a column, by time; and a check that nothing leaks from one part into another."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.molecules import canonical_smiles, murcko_scaffold, parse_molecule, to_smiles
from geomlib.data.splits import PARTS, Split, checked_parts
from geomlib.data.stores import Store
from geomlib.data.tables import TableStore, read_table
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning

__all__ = ["CheckedSplit", "ColumnSplit", "ScaffoldSplit", "TimeSplit", "check_leaks", "find_leaks"]

_SHOWN = 3


class ScaffoldSplit(Split):
    """Molecules of one Bemis-Murcko scaffold stay together, and rare scaffolds are tested.

    Groups of equal scaffold (without chirality; molecules without rings are one group) are sorted by size and first
    row, largest and latest first. Each goes into train if it fits into its share, else into val if it fits, else into
    test. There is no chance in it. Of a mixture the first molecule counts.

    Args:
        train: fraction of the molecules.
        val: fraction; the rest is tested.

    Source: the split of MoleculeNet; ties are broken by the first row, the later one first.
    """

    def __init__(self, train: float = 0.8, val: float = 0.1) -> None:
        if not (train > 0 and val >= 0 and train + val <= 1):
            raise ConfigError(f"ScaffoldSplit: train {train} and val {val}; expected fractions that sum to at most 1")
        self.train, self.val = train, val

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`; each part ascending.

        Raises:
            DataError: a SMILES that is no molecule.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for index, graph in enumerate(store):
            groups[murcko_scaffold(parse_molecule(_texts(graph, store)[0], store.describe(index)))].append(index)
        limits = (self.train * len(store), (self.train + self.val) * len(store))
        parts: dict[str, list[int]] = {name: [] for name in PARTS}
        for rows in sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True):
            if len(parts["train"]) + len(rows) <= limits[0]:
                parts["train"] += rows
            elif len(parts["train"]) + len(parts["val"]) + len(rows) <= limits[1]:
                parts["val"] += rows
            else:
                parts["test"] += rows
        return checked_parts({name: _tensor(sorted(rows)) for name, rows in parts.items()}, store)


class ColumnSplit(Split):
    """Parts that a column names: `train`, `val` or `test`; rows where it is empty are left out.

    Args:
        column: name of the column.
        path: CSV file that holds it; the store's own table if not given. Its rows are those of the store's file, in
            order, unless it has a column `row` that says which (from 0).
    """

    def __init__(self, column: str = "split", path: str | None = None) -> None:
        self.column, self.path = column, path

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`.

        Raises:
            ConfigError: the store has no table, or the table no such column.
            FileFormatError: another word than train, val and test, or other rows than the store's.
        """
        parts: dict[str, list[int]] = {name: [] for name in PARTS}
        for index, word in enumerate(self._words(store)):
            if word not in (*PARTS, ""):
                where = store.describe(index) if self.path is None else f"{self.path}, for {store.describe(index)}"
                raise FileFormatError(f"{where}: column '{self.column}' holds '{word}'; expected {', '.join(PARTS)}")
            if word:
                parts[word].append(index)
        return checked_parts({name: _tensor(rows) for name, rows in parts.items()}, store)

    def _words(self, store: Store) -> list[str]:
        if self.path is None:
            return _table(store, "ColumnSplit").column(self.column)
        columns, lines = read_table(self.path)
        if self.column not in columns:
            raise ConfigError(f"{self.path}: has no column '{self.column}'; it has {', '.join(columns)}")
        words: dict[int, str] = {}
        for line in lines:
            number = line.cells.get("row", str(line.row))
            if line.problem or not number.isdigit():
                problem = line.problem or f"column 'row' holds '{number}', which is no number of a row"
                raise FileFormatError(f"{self.path}, row {line.row} (line {line.line}): {problem}")
            words[int(number)] = line.cells[self.column]
        rows = store.rows.tolist() if isinstance(store, TableStore) else list(range(len(store)))
        if missing := [row for row in rows if row not in words]:
            raise FileFormatError(
                f"{self.path}: does not say where row {missing[0]} belongs, nor {len(missing) - 1} more"
            )
        return [words[row] for row in rows]


class TimeSplit(Split):
    """The oldest molecules are learned from, the newest tested, as it is when a model is used.

    Args:
        column: of the table: numbers, or dates such as 2024-05-17.
        train: fraction, the oldest.
        val: fraction; the rest is tested. Rows of one time stay together, so parts may be a little smaller.
    """

    def __init__(self, column: str, train: float = 0.8, val: float = 0.1) -> None:
        if not (train > 0 and val >= 0 and train + val <= 1):
            raise ConfigError(f"TimeSplit: train {train} and val {val}; expected fractions that sum to at most 1")
        self.column, self.train, self.val = column, train, val

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`; each part ascending.

        Raises:
            ConfigError: the store has no table, or the table no such column.
            DataError: a cell that is no time.
        """
        words = _table(store, "TimeSplit").column(self.column)
        times = np.array([_time(word, store, index, self.column) for index, word in enumerate(words)])
        order = np.argsort(times, kind="stable")
        ends = [round(self.train * len(times)), round((self.train + self.val) * len(times))]
        for k, end in enumerate(ends):
            while 0 < end < len(order) and times[order[end - 1]] == times[order[end]]:
                end -= 1
            ends[k] = end
        cut = np.split(order, [ends[0], max(ends)])
        return checked_parts(
            {name: _tensor(sorted(rows.tolist())) for name, rows in zip(PARTS, cut, strict=True)}, store
        )


class CheckedSplit(Split):
    """Another split that is looked through for leaks; see `find_leaks`.

    Args:
        split: the other one.
        scaffolds: whether a scaffold on two sides counts.
        on_leak: `raise` or `warn`.
    """

    def __init__(self, split: Split, scaffolds: bool = False, on_leak: Literal["raise", "warn"] = "raise") -> None:
        if on_leak not in ("raise", "warn"):
            raise ConfigError(f"on_leak is '{on_leak}'; expected raise or warn")
        self.split, self.scaffolds, self.on_leak = split, scaffolds, on_leak

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`.

        Raises:
            DataError: there is a leak, and it is to be raised.
        """
        parts = self.split.indices(store)
        check_leaks(store, parts, scaffolds=self.scaffolds, on_leak=self.on_leak)
        return parts


def find_leaks(store: Store, parts: Mapping[str, Tensor], *, scaffolds: bool = False) -> list[str]:
    """What is wrong with a split, in sentences; nothing if all is well.

    Looked for are: a molecule or mixture (by canonical SMILES) in two parts, of mixtures whatever their fractions; with
    `scaffolds` a scaffold in two parts, that of molecules without rings not counted; and a binary target of which val
    or test hold one class alone.

    Args:
        store: of text.
        parts: positions by part.
        scaffolds: whether scaffolds count.

    Raises:
        DataError: a SMILES that is no molecule.
    """
    molecules: dict[str, dict[str, int]] = defaultdict(dict)
    frames: dict[str, dict[str, int]] = defaultdict(dict)
    for name, rows in parts.items():
        for index in rows.tolist():
            found = [parse_molecule(text, store.describe(index)) for text in _texts(store[index], store)]
            molecules[".".join(sorted(canonical_smiles(molecule) for molecule in found))].setdefault(name, index)
            if scaffolds and (frame := murcko_scaffold(found[0])):
                frames[frame].setdefault(name, index)
    words = [*_straddling("molecule", molecules, store), *_straddling("scaffold", frames, store)]
    return [*words, *_lone_classes(store, parts)]


def _straddling(what: str, places: Mapping[str, Mapping[str, int]], store: Store) -> Iterator[str]:
    shared = {text: where for text, where in places.items() if len(where) > 1}
    if not shared:
        return
    shown = "; ".join(
        f"{text} ({', '.join(f'{part}: {store.describe(index)}' for part, index in where.items())})"
        for text, where in list(shared.items())[:_SHOWN]
    )
    more = f"; and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
    yield f"{len(shared)} {what}{'s are' if len(shared) > 1 else ' is'} in two parts: {shown}{more}"


def _lone_classes(store: Store, parts: Mapping[str, Tensor]) -> Iterator[str]:
    if "target" not in store.fields:
        return
    labels = {name: torch.cat([store[int(index)].target for index in rows]) for name, rows in parts.items()}
    every = torch.cat(list(labels.values()))
    names = getattr(store, "targets", None) or [f"column {k}" for k in range(every.shape[1])]
    for k, target in enumerate(names):
        known = every[:, k][~every[:, k].isnan()]
        if not len(known) or not bool(((known == 0) | (known == 1)).all()) or len(known.unique()) < 2:
            continue
        for part in ("val", "test"):
            if part in labels and len((own := labels[part][:, k])[~own.isnan()].unique()) < 2:
                yield f"the {part} part has not both classes of '{target}', so no ROC-AUC can be told"


def check_leaks(
    store: Store, parts: Mapping[str, Tensor], *, scaffolds: bool = False, on_leak: Literal["raise", "warn"] = "warn"
) -> None:
    """Warn of what `find_leaks` finds, or raise.

    Raises:
        DataError: there is a leak, and it is to be raised.
    """
    if not (words := find_leaks(store, parts, scaffolds=scaffolds)):
        return
    if on_leak == "raise":
        raise DataError(f"the split leaks: {'. '.join(words)}")
    for sentence in words:
        warnings.warn(f"the split leaks: {sentence}", GeomlibWarning, stacklevel=2)


def _table(store: Store, split: str) -> TableStore:
    if not isinstance(store, TableStore):
        raise ConfigError(f"{split} reads the table of a TableStore, not of a {type(store).__name__}")
    return store


def _texts(graph: GraphData, store: Store) -> list[str]:
    if "smiles" not in store.fields:
        raise ConfigError(f"a split by molecules needs SMILES; the store has {list(store.fields)}")
    return to_smiles(graph)


def _time(word: str, store: Store, index: int, column: str) -> float:
    try:
        return float(word)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(word).timestamp()
    except ValueError:
        raise DataError(
            f"{store.describe(index)}: column '{column}' holds '{word}'; expected a number or a date such as 2024-05-17"
        ) from None


def _tensor(rows: list[int]) -> Int[Tensor, " graphs"]:
    return torch.tensor(rows, dtype=torch.int64)
