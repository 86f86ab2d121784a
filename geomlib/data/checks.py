"""What is wrong with a data set: every bad file and every bad row, not just the first."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from geomlib.data.cards import Card, file_sha256
from geomlib.data.elements import SYMBOLS
from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData
from geomlib.data.splits import parse_indices
from geomlib.data.stores import DESCRIBING_FIELDS, Store
from geomlib.errors import DataError, GeomlibError

__all__ = ["Finding", "check_card", "check_store", "summary"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or that a user should know.

    Args:
        severity: `error` or `warning`.
        place: file, frame.
        key: field or entry; empty if it is about the whole.
        message: what is wrong and what was expected.
    """

    severity: Literal["error", "warning"]
    place: str
    key: str
    message: str


def check_card(card: Card, progress: bool = False) -> Iterator[Finding]:
    """Bytes, checksums, counts, units, labels, duplicates and splits of a data set.

    Args:
        card: the data set.
        progress: show a progress bar.
    """
    for file in card.files:
        path = card.locate(file.path)
        if path is None:
            severity: Literal["error", "warning"] = "warning" if card.sample else "error"
            yield Finding(severity, file.path, "", "the file is not there; `geomlib data get` says how to get it")
        elif path.stat().st_size != file.bytes:
            yield Finding("error", str(path), "bytes", f"{path.stat().st_size} bytes, the card says {file.bytes}")
        elif (found := file_sha256(path)) != file.sha256:
            yield Finding("error", str(path), "sha256", f"checksum {found}, the card says {file.sha256}")
    try:
        store = card.open(partial=[*(entry["field"] for entry in card.fields.values()), "pos", "cell"])
    except GeomlibError as error:
        yield Finding("error", card.name, "", str(error))
        return
    expected = (card.sample or {}).get("graphs") if card.uses_sample else card.graphs
    if expected != len(store):
        yield Finding("error", card.name, "graphs", f"{len(store)} graphs, the card says {expected}")
    official: dict[str, Tensor] = {}
    for number, (name, chosen) in enumerate(card.named_splits.items()):
        parts: dict[str, Tensor] = {}
        for part, text in chosen.items():
            try:
                parts[part] = parse_indices(text, len(store), f"split '{name}'" if name else "split")
            except GeomlibError as error:
                yield Finding("error", card.name, part, str(error))
        yield from _overlaps(parts, store)
        official = parts if number == 0 else official
    yield from check_store(store, allowed=card.partial, parts=official, progress=progress)


def _overlaps(parts: Mapping[str, Tensor], store: Store) -> Iterator[Finding]:
    for first, second in combinations(parts, 2):
        for index in parts[first][torch.isin(parts[first], parts[second])].tolist():
            yield Finding("error", store.describe(index), "splits", f"is in '{first}' and in '{second}'")


def check_store(
    store: Store, allowed: tuple[str, ...] = (), parts: Mapping[str, Tensor] | None = None, progress: bool = False
) -> Iterator[Finding]:
    """Labels that are missing or not finite, shapes, ids that occur twice, and structures that occur twice.

    Args:
        store: opened so that gaps are NaN.
        allowed: labels that may be NaN.
        parts: positions by part of the split; a structure that is in two parts is an error.
        progress: show a progress bar.
    """
    part_of = {index: name for name, indices in (parts or {}).items() for index in indices.tolist()}
    seen: dict[bytes, int] = {}
    ids: dict[int, int] = {}
    for index in _watched(range(len(store)), progress):
        try:
            graph = store[index]
        except GeomlibError as error:
            yield Finding("error", store.describe(index), "", str(error))
            continue
        where = store.describe(index)
        try:
            _finite(graph).validate(("pos",) if "atomic_number" in graph else (), where=where)
        except DataError as error:
            yield Finding("error", where, "", str(error).removeprefix(f"{where}: "))
        yield from _not_finite(graph, where, allowed)
        if "sample_id" in graph and ids.setdefault(int(graph.sample_id), index) != index:
            first = store.describe(ids[int(graph.sample_id)])
            yield Finding("error", where, "sample_id", f"the id {int(graph.sample_id)} is also that of {first}")
        twin = seen.setdefault(_fingerprint(graph), index)
        if twin != index:
            other, here = part_of.get(twin), part_of.get(index)
            leak = other != here and other is not None and here is not None
            note = f"the same structure as {store.describe(twin)}" + (f", which is in '{other}'" if leak else "")
            key = "pos" if "pos" in graph else ""
            yield Finding("error" if leak else "warning", where, key, note)


def _not_finite(graph: GraphData, where: str, allowed: tuple[str, ...]) -> Iterator[Finding]:
    for name in sorted(graph.keys()):
        value = graph[name]
        if not value.is_floating_point():
            continue
        bad = value.isinf() if name in allowed else ~torch.isfinite(value)
        if bool(bad.any()):
            items = bad.reshape(len(value), -1).any(1).nonzero().flatten().tolist()
            level = FIELDS[name].level
            which = f" at {level}s {items}" if level != "graph" and len(items) < len(value) else ""
            yield Finding("error", where, name, f"missing, NaN or infinite{which}")


def _finite(graph: GraphData) -> GraphData:
    """A copy in which numbers that are not finite are zero; those are reported on their own."""
    values = {name: graph[name] for name in graph.keys()}  # noqa: SIM118 - not a mapping
    return GraphData(
        **{
            name: torch.nan_to_num(value, 0.0, 0.0, 0.0) if value.is_floating_point() else value
            for name, value in values.items()
        }
    )


def _fingerprint(graph: GraphData) -> bytes:
    digest = hashlib.sha256()
    atoms = ("atomic_number", "pos", "cell", "pbc", "charge", "spin_multiplicity")
    for name in atoms if "atomic_number" in graph else DESCRIBING_FIELDS:
        if name in graph:
            digest.update(graph[name].contiguous().numpy().tobytes())
    return digest.digest()


def _watched(values: range, progress: bool) -> Any:
    if not progress:
        return values
    from tqdm import tqdm

    return tqdm(values, desc="checking graphs", unit="graph", delay=1.0, leave=False)


def summary(store: Store) -> dict[str, Any]:
    """Counts, elements, fields and the spread of energies and forces, JSON-able."""
    elements: dict[str, int] = {}
    periodic: dict[str, int] = {}
    energies, force_squares, force_count = [], 0.0, 0
    sizes = []
    for graph in store:
        sizes.append(len(graph.smiles) if "smiles" in graph else graph.num_nodes)
        if "atomic_number" not in graph:
            continue
        numbers, counts = graph.atomic_number.unique(return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            elements[SYMBOLS[number]] = elements.get(SYMBOLS[number], 0) + count
        axes = "".join("T" if flag else "F" for flag in graph.pbc[0].tolist()) if "pbc" in graph else "FFF"
        periodic[axes] = periodic.get(axes, 0) + 1
        if "energy" in graph:
            energies.append(float(graph.energy) / graph.num_nodes)
        if "forces" in graph:
            finite = graph.forces[torch.isfinite(graph.forces)]
            force_squares += float(finite.square().sum())
            force_count += finite.numel()
    out: dict[str, Any] = {
        "graphs": len(store),
        "atoms": sum(sizes),
        "atoms_min": min(sizes),
        "atoms_max": max(sizes),
        "elements": dict(sorted(elements.items())),
        "periodic": periodic,
        "fields": {name: FIELDS[name].unit for name in store.fields},
        "partial": list(store.partial),
    }
    if energies:
        per_atom = torch.tensor(energies, dtype=torch.float64)
        per_atom = per_atom[torch.isfinite(per_atom)]
        out["energy_per_atom_mean"] = float(per_atom.mean())
        out["energy_per_atom_std"] = float(per_atom.std(correction=0))
    if force_count:
        out["force_rms"] = (force_squares / force_count) ** 0.5
    return out
