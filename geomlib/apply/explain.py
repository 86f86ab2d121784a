"""What a model of molecules looks at, all parts at once: a page, tables, and the parts of a run's report."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.apply.attribution import Attribution, attribute, scale_words
from geomlib.apply.embedding_map import EmbeddingMap, embedding_map
from geomlib.apply.hidden_states import LayerStates, layer_states
from geomlib.apply.predict import Predictor
from geomlib.apply.probes import DEFAULT_PROPERTIES, Probe, described, probe_layers
from geomlib.apply.report.interpretability import (
    Coloring,
    attribution_section,
    map_plot,
    map_section,
    probe_section,
    surprise_section,
)
from geomlib.apply.report.page import write_page
from geomlib.apply.report.parts import Fact, Section
from geomlib.apply.surprise import Surprise, token_surprise
from geomlib.apply.vector_graphics import standalone
from geomlib.errors import ConfigError, DataError
from geomlib.files.committee import expand_committees
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.models.mist.net import MIST
from geomlib.nn.targets import Target

__all__ = ["PARTS", "Explanation", "explain", "explanation_sections", "write_explanation"]

PARTS = ("attribution", "surprise", "probes", "map")


@dataclass(slots=True)
class Explanation:
    """What came of `explain`; parts that were not asked for, or that a model does not have, are empty.

    Attributes:
        rows: how many molecules were given.
        method: of the attribution.
        attributions: target → contributions of the atoms of the first molecules.
        targets: the model's properties by name.
        surprises: of the tokens of the first molecules.
        probes: of the layers.
        map: of the embeddings.
        coloring: of the map.
        missing: sentences about what could not be made.
    """

    rows: int
    method: str
    attributions: dict[str, list[Attribution]] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    surprises: list[Surprise] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    map: EmbeddingMap | None = None
    coloring: Coloring | None = None
    missing: list[str] = field(default_factory=list)


def explain(
    model: Any,
    rows: Sequence[str],
    parts: Sequence[str] = PARTS,
    *,
    targets: Sequence[str] = (),
    method: str = "integrated",
    molecules: int = 12,
    properties: Mapping[str, NDArray[np.float64]] | None = None,
    coloring: Coloring | None = None,
    map_method: str = "pca",
    seed: int = 0,
) -> Explanation:
    """Attribution, surprise, probes and map of a model on molecules.

    A model of properties has attributions and no surprise, a language model the other way round; a part that does not
    apply is left out.

    Args:
        model: model file, checkpoint or committee; or a net.
        rows: SMILES.
        parts: of `PARTS`.
        targets: properties to attribute; the first one of the model if not given.
        method: of the attribution.
        molecules: how many, from the first on, have attributions and surprises.
        properties: name → value of each row, for the probes; RDKit descriptors if not given.
        coloring: of the map, with a value for each row; by MolLogP if not given.
        map_method: `pca` or `umap`.
        seed: of everything random.

    Raises:
        ConfigError: a part, target or method that there is not.
        MissingExtra: UMAP is not installed.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise ConfigError(f"part '{unknown[0]}': choose from {', '.join(PARTS)}")
    found = Explanation(len(rows), method)
    files = expand_committees([model]) if isinstance(model, str | os.PathLike) else [model]
    net = bare_net(load(files[0]) if isinstance(files[0], str | os.PathLike) else files[0])[0]
    language = isinstance(net, MIST)
    if "surprise" in parts and language:
        found.surprises = token_surprise(net, rows[:molecules])
    if "attribution" in parts and not language:
        predictor = Predictor([net, *files[1:]])
        found.targets = {target.name: target for target in predictor.targets}
        for name in targets or [predictor.targets[0].name]:
            found.attributions[name] = attribute(predictor, rows[:molecules], name, method)
    if {"probes", "map"} & set(parts):
        states = layer_states(net, rows)
        if "probes" in parts:
            _probe(found, states, rows, properties, seed)
        if "map" in parts:
            _map(found, states, rows, coloring, map_method, seed)
    bad = [(k, error) for k, error in enumerate(_errors(found)) if error is not None]
    if bad:
        found.missing.append(f"{len(bad)} molecules could not be used; row {bad[0][0]}: {bad[0][1]}")
    return found


def _errors(found: Explanation) -> list[str | None]:
    if found.surprises:
        return [row.error for row in found.surprises]
    return [row.error for rows in list(found.attributions.values())[:1] for row in rows]


def _probe(
    found: Explanation,
    states: LayerStates,
    rows: Sequence[str],
    properties: Mapping[str, NDArray[np.float64]] | None,
    seed: int,
) -> None:
    try:
        labels = described(rows, DEFAULT_PROPERTIES) if properties is None else properties
        found.probes = probe_layers(states, rows, labels, seed=seed)
    except DataError as error:
        found.missing.append(f"There are no probes of the layers: {error}.")


def _map(
    found: Explanation,
    states: LayerStates,
    rows: Sequence[str],
    coloring: Coloring | None,
    method: str,
    seed: int,
) -> None:
    try:
        found.map = embedding_map(states, rows, method, seed)
    except DataError as error:
        found.missing.append(f"There is no map of embeddings: {error}.")
        return
    places = found.map.places
    given = Coloring("MolLogP", described(rows, ["MolLogP"])["MolLogP"]) if coloring is None else coloring
    values = given.values
    chosen = [values[k] for k in places] if isinstance(values, list) else values[places]
    found.coloring = Coloring(given.name, chosen)


def explanation_sections(found: Explanation) -> list[Section]:
    """The parts as sections of a page."""
    sections = [
        attribution_section(rows, found.targets[name], found.method) for name, rows in found.attributions.items()
    ]
    if any(row.error is None for row in found.surprises):
        sections.append(surprise_section(found.surprises))
    if found.probes:
        sections.append(probe_section(found.probes))
    if found.map is not None:
        sections.append(map_section(found.map, found.coloring))
    return sections


def write_explanation(found: Explanation, output: str | os.PathLike[str], title: str) -> list[Path]:
    """Write `explain.html` and the numbers behind it: `atoms.csv`, `tokens.csv`, `probes.csv`, `map.csv`, `map.svg`.

    Args:
        found: of `explain`.
        output: folder; made if it is not there.
        title: of the page.

    Raises:
        ConfigError: there is nothing to write.
    """
    sections = explanation_sections(found)
    if not sections:
        raise ConfigError(f"nothing could be explained: {' '.join(found.missing) or 'the model has none of the parts'}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        write_page(folder / "explain.html", title, f"{found.rows:,} molecules", _facts(found), sections, found.missing)
    ]
    if found.attributions:
        rows = [
            [
                name,
                row.smiles,
                atom,
                f"{value:.9g}",
                f"{row.value:.9g}",
                f"{row.baseline:.9g}",
                scale_words(found.targets[name]),
            ]
            for name, attributions in found.attributions.items()
            for row in attributions
            for atom, value in enumerate(row.atoms.tolist())
        ]
        head = ["target", "smiles", "atom", "contribution", "value", "baseline", "scale"]
        written.append(_table(folder / "atoms.csv", head, rows))
    if found.surprises:
        rows = [
            [row.smiles, place, token, f"{value:.9g}"]
            for row in found.surprises
            for place, (token, value) in enumerate(zip(row.tokens, row.nats.tolist(), strict=True))
        ]
        written.append(_table(folder / "tokens.csv", ["smiles", "place", "token", "nats"], rows))
    if found.probes:
        rows = [
            [
                probe.name,
                probe.kind,
                layer.layer,
                *(f"{v:.6g}" for v in (layer.score.value, layer.score.low, layer.score.high, layer.control)),
            ]
            for probe in found.probes
            for layer in probe.layers
        ]
        written.append(
            _table(folder / "probes.csv", ["property", "kind", "layer", "score", "low", "high", "shuffled"], rows)
        )
    if found.map is not None:
        head = ["row", "smiles", "x", "y", *([found.coloring.name] if found.coloring else [])]
        values = found.coloring.values if found.coloring else [""] * len(found.map.rows)
        rows = [
            [
                place,
                text,
                f"{x:.9g}",
                f"{y:.9g}",
                *([value if isinstance(value, str) else f"{value:.9g}"] if found.coloring else []),
            ]
            for place, text, (x, y), value in zip(
                found.map.places.tolist(), found.map.rows, found.map.xy, values, strict=True
            )
        ]
        written.append(_table(folder / "map.csv", head, rows))
        drawing = folder / "map.svg"
        drawing.write_text(standalone(map_plot(found.map, found.coloring)), encoding="utf-8")
        written.append(drawing)
    return written


def _facts(found: Explanation) -> list[Fact]:
    facts = [Fact("molecules", f"{found.rows:,}")]
    good = [row for row in found.surprises if row.error is None]
    if good:
        nats = np.concatenate([row.nats for row in good])
        facts.append(Fact("surprise", f"{nats.mean():.2f}", "nats a token", f"{len(good):,} molecules"))
    for name, rows in found.attributions.items():
        number = sum(row.error is None for row in rows)
        facts.append(Fact("attributed", name, below=f"{number:,} molecules, {found.method}"))
    if found.probes:
        facts.append(Fact("layers probed", f"{len(found.probes[0].layers)}", below=f"{len(found.probes)} properties"))
    return facts


def _table(file: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        writer.writerows(rows)
    return file
