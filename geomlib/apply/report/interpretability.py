"""The parts of a report that say what a model of molecules looks at: atoms, tokens, layers, and a map of embeddings."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from geomlib.apply.attribution import Attribution, scale_words
from geomlib.apply.embedding_map import EmbeddingMap
from geomlib.apply.molecule_drawing import color_of, draw_atoms
from geomlib.apply.probes import Probe
from geomlib.apply.report.parts import Section, figure_card, number, table
from geomlib.apply.surprise import Surprise
from geomlib.apply.vector_graphics import MUTED, SERIES, figure, hover_titles, to_svg
from geomlib.nn.targets import Target

__all__ = ["Coloring", "attribution_section", "map_plot", "map_section", "probe_section", "surprise_section"]

_HOVERED = 2000
"""Points that have a text under the pointer; each adds a hundred bytes."""

_METHODS = {
    "integrated": "Integrated gradients: the contributions sum to the prediction minus that of the same molecule with "
    "nothing known of it",
    "gradient": "Gradient × input at the molecule itself, which is local and sums to nothing in particular",
    "occlusion": "Occlusion: how far the prediction falls when the atom alone is hidden",
}


@dataclass(frozen=True, slots=True)
class Coloring:
    """What the points of a map are coloured by.

    Attributes:
        name: of the property or column.
        values: of the molecules of the map: numbers (NaN where unknown), or words.
    """

    name: str
    values: NDArray[np.float64] | list[str]


def attribution_section(rows: Sequence[Attribution], target: Target, method: str) -> Section:
    """Molecules with the contribution of each atom to the prediction."""
    good = [row for row in rows if row.error is None]
    limit = max((float(np.abs(row.atoms).max(initial=0.0)) for row in good), default=0.0)
    unit = scale_words(target)
    words = f"{_METHODS[method]}. Contributions to {target.name}" + (f", {unit}." if unit else ".")
    if method == "integrated":
        gaps = [abs(row.gap) / max(row.size, 1e-12) for row in good]
        words += f" What the integral misses is at most {100 * max(gaps, default=0.0):.2g} % of all magnitudes."
    cards = []
    for row in good:
        drawn = draw_atoms(row.smiles, row.atoms, limit, title=f"Contributions of the atoms of {row.smiles}")
        known = f"<span>baseline {number(row.baseline)}</span>" if math.isfinite(row.baseline) else ""
        head = f'<div class="value"><b>{number(row.value)}</b>{known}</div>'
        text = _tokens(row.tokens, row.token_values, limit) if row.tokens else f"<span>{escape(row.smiles)}</span>"
        cards.append(
            f'<figure class="card"><div class="paper">{drawn}</div><figcaption>{head}'
            f'<p class="tokens">{text}</p></figcaption></figure>'
        )
    body = _scale(-limit, limit, unit) + f'<div class="grid small">{"".join(cards)}</div>'
    return Section(
        f"attribution-{_slug(target.name)}", f"Atoms: {target.name}", f'{body}<p class="caption">{escape(words)}</p>'
    )


def surprise_section(rows: Sequence[Surprise]) -> Section:
    """Molecules with the surprise of each token, the most surprising ones first."""
    good = sorted((row for row in rows if row.error is None), key=lambda row: -row.mean)
    every = np.concatenate([row.nats for row in good]) if good else np.zeros(1)
    limit = max(3.0, float(np.quantile(every, 0.99)))
    top = max((float(row.atoms.max(initial=0.0)) for row in good), default=1.0)
    cards = []
    for row in good:
        drawn = draw_atoms(row.smiles, row.atoms, top, title=f"Surprise on the atoms of {row.smiles}")
        worst = int(row.nats.argmax())
        head = (
            f'<div class="value"><b>{row.mean:.2f} nats a token</b>'
            f"<span>most: {escape(row.tokens[worst])} {row.nats[worst]:.1f}</span></div>"
        )
        cards.append(
            f'<figure class="card"><div class="paper">{drawn}</div><figcaption>{head}'
            f'<p class="tokens">{_tokens(row.tokens, row.nats, limit)}</p></figcaption></figure>'
        )
    words = (
        "Surprise is −ln p of a token when it alone is hidden from the language model; 0 is certain. On the atoms that "
        "of all their tokens is summed. Most surprising molecules first."
    )
    body = _scale(0.0, limit, "nats") + f'<div class="grid small">{"".join(cards)}</div>'
    return Section("surprise", "Surprise of tokens", f'{body}<p class="caption">{words}</p>')


def _tokens(tokens: Sequence[str], values: Sequence[float] | NDArray[np.float64], limit: float) -> str:
    """The text with its tokens on their colours, their numbers under the pointer."""
    spans = []
    for token, value in zip(tokens, values, strict=True):
        red, green, blue = (round(255 * part) for part in color_of(math.copysign(limit, value), limit))
        depth = 0.75 * min(1.0, abs(float(value)) / limit) ** 0.8 if limit > 0 else 0.0
        style = f"background:rgba({red},{green},{blue},{depth:.2f})"
        spans.append(f'<span style="{style}" title="{escape(token)}: {value:.3g}">{escape(token)}</span>')
    return "".join(spans)


def _scale(low: float, high: float, unit: str) -> str:
    """A bar with the colours between two numbers."""
    stops = []
    for share in np.linspace(0.0, 1.0, 9).tolist():
        color = color_of(low + share * (high - low), max(abs(low), abs(high)))
        stops.append(f"rgb({','.join(str(round(255 * part)) for part in color)})")
    words = f" {unit}" if unit else ""
    return (
        f'<p class="scale">{number(low)}<i style="background:linear-gradient(90deg,{",".join(stops)})"></i>'
        f"{number(high)}{escape(words)}</p>"
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


# -------------------------------------------------------------------- layers


def probe_section(probes: Sequence[Probe]) -> Section:
    """Scores of linear probes against the layer, and a table of the best."""
    cards = [figure_card(_probe_plot(row)) for row in probes]
    head = ["", "score", "fitted to", "tested on", "best layer", "there", "last layer", "shuffled labels"]
    rows = []
    for row in probes:
        best = max(row.layers, key=lambda layer: layer.score.value if math.isfinite(layer.score.value) else -math.inf)
        last = row.layers[-1]
        rows.append(
            [
                row.name,
                "ROC-AUC" if row.kind == "binary" else "R²",
                f"{row.train:,}",
                f"{row.test:,}",
                best.layer,
                f"{best.score.value:.3f} [{best.score.low:.3f}, {best.score.high:.3f}]",
                f"{last.score.value:.3f}",
                f"{last.control:.3f}",
            ]
        )
    words = (
        "A linear map is fitted to the pooled hidden states of each layer and scored on molecules with other "
        "scaffolds; in brackets and as a band the 95 % interval by bootstrap. Grey: the same with shuffled labels, "
        "which is chance. The best layer is chosen on the molecules it is shown for, so its score is a little too good."
    )
    body = f'<div class="grid small">{"".join(cards)}</div><div class="card spaced">{table(head, rows)}</div>'
    return Section("probes", "What layers hold", f'{body}<p class="caption">{words}</p>')


def _probe_plot(row: Probe) -> str:
    places = np.arange(len(row.layers))
    value, low, high = (
        np.array([getattr(layer.score, name) for layer in row.layers]) for name in ("value", "low", "high")
    )
    control = np.array([layer.control for layer in row.layers])
    floor = 0.4 if row.kind == "binary" else -0.1
    with figure(3.3, 2.5) as (drawing, (axes,)):
        axes.fill_between(places, low, high, color=SERIES[0], alpha=0.18, linewidth=0)
        axes.plot(places, value, color=SERIES[0], marker="o", markersize=3.5)
        axes.plot(places, np.maximum(control, floor), color=MUTED, marker="o", markersize=2.5, linewidth=1.0)
        axes.set_xticks(places, [layer.layer.replace("block ", "") for layer in row.layers])
        if len(places) > 8 or any(len(layer.layer) > 9 for layer in row.layers):
            axes.tick_params(axis="x", labelrotation=35)
        axes.set(ylim=(floor, 1.03), xlim=(-0.3, len(places) - 0.7))
        axes.set(ylabel="ROC-AUC" if row.kind == "binary" else "R²", xlabel="layer")
        axes.set_title(row.name)
        return to_svg(drawing, f"probe-{row.name}", f"Score of a linear probe of {row.name} against the layer")


# -------------------------------------------------------------------- map


def map_section(found: EmbeddingMap, coloring: Coloring | None = None) -> Section:
    """The map with SMILES and value of each molecule under the pointer."""
    words = f"{len(found.rows):,} molecules by the net's embedding of them. "
    if found.method == "pca":
        words += "Axes are the first two principal components, with their share of the variance. "
    words += "The pointer on a point shows its molecule."
    card = f'<figure class="card">{map_plot(found, coloring)}<figcaption>{words}</figcaption></figure>'
    return Section("map", "Map of embeddings", card)


def map_plot(found: EmbeddingMap, coloring: Coloring | None = None) -> str:
    """The map as an `<svg>` element."""
    size = 22.0 if len(found.rows) <= 300 else 10.0
    x, y = found.xy.T
    titles = list(found.rows)
    with figure(7.4, 4.6) as (drawing, (axes,)):
        if coloring is None:
            axes.scatter(x, y, s=size, color=SERIES[0], alpha=0.6, linewidths=0)
        elif isinstance(coloring.values, list):
            counts = Counter(word for word in coloring.values if word)
            words = sorted(counts, key=lambda word: (-counts[word], word))
            for k, word in enumerate(words[: len(SERIES)]):
                chosen = np.array([value == word for value in coloring.values])
                axes.scatter(x[chosen], y[chosen], s=size, color=SERIES[k], alpha=0.7, linewidths=0, label=word)
            others = np.array([value not in words[: len(SERIES)] for value in coloring.values])
            if others.any():
                axes.scatter(x[others], y[others], s=size, color=MUTED, alpha=0.4, linewidths=0, label="other or none")
            axes.legend(title=coloring.name, loc="center left", bbox_to_anchor=(1.0, 0.5))
        else:
            known = np.isfinite(coloring.values)
            axes.scatter(x[~known], y[~known], s=size, color=MUTED, alpha=0.25, linewidths=0)
            low, high = np.quantile(coloring.values[known], [0.01, 0.99]) if known.any() else (0.0, 1.0)
            points = axes.scatter(
                x[known], y[known], c=coloring.values[known], s=size, alpha=0.8, linewidths=0, vmin=low, vmax=high
            )
            bar = drawing.colorbar(points, ax=axes, label=coloring.name, fraction=0.045, pad=0.02)
            bar.outline.set_visible(False)
        if coloring is not None:
            shown = [value if isinstance(value, str) else f"{value:.4g}" for value in coloring.values]
            titles = [f"{text}\n{coloring.name} {value}" for text, value in zip(titles, shown, strict=True)]
        axes.set(xlabel=found.axes[0], ylabel=found.axes[1])
        svg = to_svg(drawing, "map", f"Map of the embeddings of {len(found.rows)} molecules")
        return hover_titles(svg, axes, found.xy[:_HOVERED], titles[:_HOVERED])
