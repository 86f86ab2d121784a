"""The cache format: one array a field with the rows of all graphs, and offsets; mapped, shared and without pickle."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib import __version__
from geomlib.data.arrays import ArrayWriter, map_array, read_archive
from geomlib.data.fields import FIELDS, field
from geomlib.data.graph import GraphData, assemble
from geomlib.data.stores import DESCRIBING_FIELDS, Store
from geomlib.errors import DataError, FileFormatError, NewerFile, UnitError
from geomlib.units import conversion_factor

__all__ = ["FlatStore"]

_FORMAT = "geomlib-flat"
_SCHEMA = 1
_HEADER = "header.json"
_COMPACT = {"atomic_number": "uint8", "edge_index": "int32", "line_index": "int32", "edge_shift": "int16"}
"""Dtype in the file where it is narrower than in memory and still exact; a value that does not fit is refused."""

_THEORY = ("basis", "functional")
"""Entries of the header that say what Kohn-Sham matrices were made with; left out where nothing is said."""


class FlatStore(Store):
    """Graphs in a folder of memory-mapped `.npy` files with a JSON header, or in one `.npz` file.

    Rows of all graphs stand one after the other; `<level>_offset` says where each graph begins. Index fields are stored
    one row an item. `batch` gathers the rows of many graphs at once. The functional and basis set of Kohn-Sham matrices
    stand in the header, where all that were written have the same.

    Args:
        path: folder or `.npz` file that `FlatStore.write` made.
        fields: labels that are wanted; None takes all. What describes the graph always comes along.

    Raises:
        FileFormatError: the file is damaged or of another kind.
        NewerFile: it was written by a newer geomlib.
        DataError: a field that is wanted is not there.
        UnitError: a unit is missing or of the wrong dimension.
    """

    def __init__(self, path: str | Path, fields: Sequence[str] | None = None) -> None:
        self.path = Path(path)
        self._arrays: dict[str, NDArray[Any]] = read_archive(self.path) if self.path.is_file() else {}
        self.header = self._read_header()
        stored = self.header["fields"]
        for name in fields or ():
            if name not in stored:
                field(name)
                raise DataError(f"{self.path}: field '{name}' is not stored; it has {sorted(stored)}")
        wanted = set(stored if fields is None else [*fields, *DESCRIBING_FIELDS])
        self.fields = tuple(name for name in stored if name in wanted)
        self.partial = tuple(name for name in self.header.get("partial", ()) if name in wanted)
        self.basis, self.functional = (str(self.header.get(name, "")) for name in _THEORY)
        self._factors = {name: self._factor(name) for name in self.fields}
        self._check_arrays()

    def _read_header(self) -> dict[str, Any]:
        try:
            if self._arrays:
                text = self._arrays.pop("header").tobytes().decode()
            else:
                text = (self.path / _HEADER).read_text(encoding="utf-8")
            header = json.loads(text)
            if header["format"] != _FORMAT:
                raise FileFormatError(f"{self.path}: format is '{header['format']}', expected '{_FORMAT}'")
            if header["schema"] > _SCHEMA:
                raise NewerFile(
                    f"{self.path}: schema {header['schema']} was written by geomlib {header.get('geomlib', '?')}; "
                    f"this is {__version__}, which reads up to schema {_SCHEMA}: upgrade geomlib"
                )
            for name in header["fields"]:
                field(name)
        except (FileNotFoundError, NotADirectoryError):
            raise FileFormatError(f"{self.path}: no flat store is there; FlatStore.write makes one") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{self.path}: not the header of a flat store ({error!r})") from None
        return header

    def _factor(self, name: str) -> float:
        unit, internal = self.header["fields"][name].get("unit"), FIELDS[name].unit
        if unit is None:
            raise UnitError(f"{self.path}: field '{name}' has no unit; expected one such as '{internal}'")
        return 1.0 if internal in ("card", "") or unit == internal else conversion_factor(unit, internal)

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            self._arrays[name] = map_array(self.path / f"{name}.npy")
        return self._arrays[name]

    def _check_arrays(self) -> None:
        try:
            rows = {"graph": int(self.header["graphs"])}
            for level in sorted({FIELDS[name].level for name in self.fields} - {"graph"}):
                offset = self._array(f"{level}_offset")
                increasing = (
                    offset.ndim == 1 and len(offset) == rows["graph"] + 1 and bool((np.diff(offset) >= 0).all())
                )
                if not increasing or int(offset[0]) != 0:
                    raise FileFormatError(f"{self.path}: '{level}_offset' is not {rows['graph'] + 1} ascending numbers")
                rows[level] = int(offset[-1])
            for name in self.fields:
                array, row = self._array(name), FIELDS[name]
                shape = array.shape[1:]
                fits = len(shape) == len(row.shape) and all(
                    want is None or got == want for got, want in zip(shape, row.shape, strict=True)
                )
                if not fits or len(array) != rows[row.level] or array.dtype.hasobject:
                    raise FileFormatError(
                        f"{self.path}: '{name}' has shape {list(array.shape)} of {array.dtype}, expected "
                        f"{[rows[row.level], *row.shape]} of {row.dtype}"
                    )
        except KeyError as error:
            raise FileFormatError(f"{self.path}: array or header entry {error} is missing") from None

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if not self.path.is_file():  # a mapped array would be pickled as a copy
            state["_arrays"] = {}
        return state

    def __len__(self) -> int:
        return int(self.header["graphs"])

    def describe(self, index: int) -> str:
        """See `Store`."""
        return f"{self.path}, graph {self._position(index)}"

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        level = "character" if "smiles" in self.fields else "node"
        return torch.from_numpy(np.diff(self._array(f"{level}_offset")).astype(np.int64))

    @property
    def content_hash(self) -> str:
        """See `Store`; taken from the header."""
        return f"{self.header['content_hash']}-{'-'.join(self.fields)}"

    def _tensor(self, name: str, rows: NDArray[Any]) -> Tensor:
        row = FIELDS[name]
        # a copy in any case: the file is read-only
        value = torch.from_numpy(np.array(rows)).to(row.torch_dtype())
        if self._factors[name] != 1.0:
            value = value * self._factors[name]
        return value.T.contiguous() if row.item_axis else value

    def __getitem__(self, index: int) -> GraphData:
        position = self._position(index)
        values = {}
        for name in self.fields:
            level = FIELDS[name].level
            begin, end = position, position + 1
            if level != "graph":
                offset = self._array(f"{level}_offset")
                begin, end = int(offset[position]), int(offset[position + 1])
            values[name] = self._tensor(name, self._array(name)[begin:end])
        return GraphData(**values)

    def batch(self, indices: Sequence[int]) -> GraphData:
        """See `Store`: one gather a field, no graph objects."""
        if not len(indices):
            raise DataError("can't batch an empty list of graphs")
        positions = np.asarray(indices, dtype=np.int64)
        if positions.min() < 0 or positions.max() >= len(self):
            raise IndexError(f"graphs {positions.min()}…{positions.max()} of a store of {len(self)}")
        rows: dict[str, NDArray[np.int64]] = {"graph": positions}
        counts: dict[str, Tensor] = {"graph": torch.ones(len(positions), dtype=torch.int64)}
        values, sizes = {}, {}
        for name in self.fields:
            level = FIELDS[name].level
            if level not in rows:
                rows[level], counts[level] = _ragged_rows(self._array(f"{level}_offset"), positions)
            values[name] = self._tensor(name, self._array(name)[rows[level]])
            sizes[name] = counts[level]
        return assemble(values, sizes)

    @classmethod
    def write(
        cls,
        store: Store,
        path: str | Path,
        *,
        dtypes: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Self:
        """Write all graphs of a store and open the result.

        The target appears only when it is complete.

        Args:
            store: where the graphs come from.
            path: a name ending in `.npz` for one compressed file, else a folder.
            dtypes: field → dtype in the file, e.g. `{"forces": "float32"}`; by default nothing is lost.
            units: units of fields whose unit the field table leaves to the card.
            overwrite: replace what is there.
            progress: show a progress bar.

        Raises:
            DataError: the target exists, the store is empty, or the graphs differ in width.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists; remove it or pass overwrite=True")
        if not len(store):
            raise DataError(f"{path}: there are no graphs to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            header = _write_folder(store, partial, dict(dtypes or {}), dict(units or {}), progress)
            if path.suffix == ".npz":
                arrays = {file.stem: map_array(file) for file in sorted(partial.glob("*.npy"))}
                arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
                target = partial / "archive.npz"
                np.savez_compressed(target, allow_pickle=False, **arrays)
                target.replace(path)
            else:
                (partial / _HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
                if overwrite and path.exists():
                    shutil.rmtree(path)
                if path.exists():
                    raise DataError(f"{path}: another process has written it in the meantime")
                partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(path)


def _ragged_rows(offset: NDArray[Any], positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
    """Rows of the graphs at `positions`, one after the other, and how many each has."""
    begins = offset[positions].astype(np.int64)
    counts = offset[positions + 1].astype(np.int64) - begins
    ends = counts.cumsum()
    rows = np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1])
    return rows, torch.from_numpy(counts)


def _write_folder(
    store: Store, folder: Path, dtypes: dict[str, str], units: dict[str, str], progress: bool
) -> dict[str, Any]:
    """Write the arrays of `store` into `folder`; return the header."""
    writers: dict[str, ArrayWriter] = {}
    try:
        offsets = _write_rows(store, folder, dtypes, writers, progress)
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()
    for level, running in offsets.items():
        if level != "graph":
            np.save(folder / f"{level}_offset.npy", np.array(running, dtype=np.int64), allow_pickle=False)
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.npy")):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    entries = {}
    for name, writer in writers.items():
        unit = FIELDS[name].unit if FIELDS[name].unit != "card" else units.get(name, "1")
        entries[name] = {"dtype": str(writer.dtype), "shape": [writer.rows, *writer.item_shape], "unit": unit}
    said = {name: {getattr(member, name) for member in store.members} for name in _THEORY}
    return {
        "format": _FORMAT,
        "schema": _SCHEMA,
        "geomlib": __version__,
        "graphs": len(store),
        "fields": entries,
        "partial": list(store.partial),
        "content_hash": digest.hexdigest(),
        **{name: values.pop() for name, values in said.items() if len(values) == 1 and "" not in values},
    }


def _write_rows(
    store: Store, folder: Path, dtypes: dict[str, str], writers: dict[str, ArrayWriter], progress: bool
) -> dict[str, list[int]]:
    """Append the rows of every graph, opening `writers` as fields come up; return the offsets of each level."""
    names = [name for name in store.fields if name != "sample_id"]
    offsets: dict[str, list[int]] = {}
    for index, graph in enumerate(_watched(store, progress)):
        seen: dict[str, int] = {}
        for name in names:
            row = field(name)
            value = graph[name].detach().numpy()
            rows = value.T if row.item_axis else value
            if name not in writers:
                dtype = dtypes.get(name, _COMPACT.get(name, str(rows.dtype)))
                writers[name] = ArrayWriter(folder / f"{name}.npy", dtype, rows.shape[1:])
            if rows.shape[1:] != writers[name].item_shape:
                raise DataError(
                    f"{store.describe(index)}: '{name}' has items of shape {list(rows.shape[1:])}, the graphs before "
                    f"it {list(writers[name].item_shape)}; a flat store needs one width"
                )
            if seen.setdefault(row.level, len(rows)) != len(rows):
                raise DataError(
                    f"{store.describe(index)}: '{name}' has {len(rows)} {row.level}s, not {seen[row.level]}"
                )
            writers[name].append(rows)
        for level, count in seen.items():
            running = offsets.setdefault(level, [0])
            running.append(running[-1] + count)
    return offsets


def _watched(store: Store, progress: bool) -> Any:
    if not progress:
        return store
    from tqdm import tqdm

    return tqdm(store, total=len(store), desc="writing graphs", unit="graph", delay=1.0)
