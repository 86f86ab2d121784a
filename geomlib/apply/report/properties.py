"""The part of a report about predicted properties: scores with intervals, parity plots, ROC curves, calibration."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from geomlib.apply.evaluate_properties import PropertyEvaluation, Score, TargetEvaluation
from geomlib.apply.report.parts import Fact, Section, figure_card, number, table
from geomlib.apply.vector_graphics import MUTED, SERIES, density_or_points, figure, to_svg
from geomlib.data.scores import roc_curve

__all__ = ["property_facts", "property_sections", "write_property_evaluation"]

_WORDS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "spearman": "Spearman", "auc": "ROC-AUC", "ap": "average precision"}
_SHOWN = 6
"""Targets that have figures; a table has them all."""


def write_property_evaluation(result: PropertyEvaluation, output: str | os.PathLike[str], title: str) -> Path:
    """Write scores and figures of an evaluation.

    Args:
        result: of `geomlib.apply.evaluate_properties.evaluate_properties`.
        output: HTML file.
        title: of the page.
    """
    from geomlib.apply.report.page import write_page

    missing = [f"{len(result.skipped)} rows could not be used; {where}: {why}" for where, why in result.skipped[:1]]
    sections = list(property_sections(result.targets))
    return write_page(
        Path(output), title, f"{result.rows:,} molecules or mixtures", property_facts(result.targets), sections, missing
    )


def property_facts(targets: Sequence[TargetEvaluation]) -> list[Fact]:
    """The score of each of the first targets that says most, for the head of the page."""
    found = []
    for row in targets[:4]:
        name = "rmse" if row.target.kind == "regression" else "auc"
        score = row.scores[name]
        unit = row.target.unit if name == "rmse" else ""
        found.append(Fact(f"{row.target.name}, {_WORDS[name]}", _number(score.value), unit, _between(score)))
    return found


def property_sections(targets: Sequence[TargetEvaluation]) -> Iterator[Section]:
    """Scores of all targets, figures of the first ones, and of a committee its calibration."""
    tables = []
    for kind in ("regression", "binary"):
        rows = [row for row in targets if row.target.kind == kind]
        if rows:
            names = list(rows[0].scores)
            head = ["", "unit", "labels", *(_WORDS[name] for name in names)]
            cells = [
                [row.target.name, row.target.unit, f"{len(row.label):,}", *(_cell(row.scores[name]) for name in names)]
                for row in rows
            ]
            tables.append(table(head, cells))
    words = "In brackets the 95 % interval by bootstrap over the rows; a dash where a score is not defined."
    bodies = [f'<figure class="card">{made}<figcaption>{words}</figcaption></figure>' for made in tables]
    yield Section("scores", "Scores", "".join(bodies))
    cards = [figure_card(_parity(row)) for row in targets if row.target.kind == "regression"][:_SHOWN]
    if cards:
        yield Section("parity", "Predictions and labels", "".join(cards))
    curves = [row for row in targets if row.target.kind == "binary" and math.isfinite(row.scores["auc"].value)]
    if curves:
        body = "".join(figure_card(_roc(row)) for row in curves[:_SHOWN])
        yield Section("roc", "ROC curves", f'<div class="grid">{body}</div>')
    known = [row for row in targets if row.sharpness is not None]
    if known:
        head = ["", "error / deviation", "within one deviation", "Spearman of deviation and error"]
        cells = [
            [row.target.name, number(found.scale), f"{100 * found.coverage:.0f} %", _number(found.spearman)]
            for row in known
            if (found := row.sharpness) is not None
        ]
        words = "Ideal are 1 and 68 %. Above 1 the committee is too sure of itself."
        body = f'<figure class="card">{table(head, cells)}<figcaption>{words}</figcaption></figure>'
        yield Section("uncertainty", "Uncertainty", body)


def _number(value: float) -> str:
    return number(value if math.isfinite(value) else None)


def _between(score: Score) -> str:
    return f"{_number(score.low)} to {_number(score.high)}" if math.isfinite(score.low) else ""


def _cell(score: Score) -> str:
    between = f" [{_number(score.low)}, {_number(score.high)}]" if math.isfinite(score.low) else ""
    return f"{_number(score.value)}{between}"


def _parity(row: TargetEvaluation) -> str:
    unit = f" [{row.target.unit}]" if row.target.unit else ""
    error = row.prediction - row.label
    with figure(7.4, 3.3, columns=2) as (drawing, (left, right)):
        values = np.concatenate([row.label, row.prediction])
        margin = 0.04 * float(np.ptp(values)) or 1.0
        limits = (float(values.min()) - margin, float(values.max()) + margin)
        left.plot(limits, limits, color=MUTED, linewidth=0.8, zorder=1)
        density_or_points(left, row.label, row.prediction, limits)
        left.set(xlim=limits, ylim=limits, xlabel=f"label{unit}", ylabel=f"prediction{unit}", aspect="equal")
        left.set_title(row.target.name)
        reach = float(np.quantile(np.abs(error), 0.995)) or 1.0
        bins = 2 * int(np.clip(np.sqrt(len(error)), 8, 30)) + 1
        right.hist(np.clip(error, -reach, reach), bins=bins, range=(-reach, reach), color=SERIES[0], alpha=0.8)
        right.axvline(float(error.mean()), color=SERIES[1], linewidth=1.2)
        right.set(xlabel=f"prediction − label{unit}", ylabel="count", xlim=(-reach, reach))
        right.set_title(f"errors, mean {error.mean():+.2g}")
        words = f"Predicted against true {row.target.name} of {len(error)} rows, and the histogram of the errors"
        return to_svg(drawing, f"parity-{row.target.name}", words)


def _roc(row: TargetEvaluation) -> str:
    false, true = roc_curve(row.label, row.prediction)
    area = row.scores["auc"].value
    with figure(3.5, 3.3) as (drawing, (axes,)):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        axes.plot(false, true, color=SERIES[0])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.set_title(f"{row.target.name}, area {area:.3f}")
        return to_svg(drawing, f"roc-{row.target.name}", f"ROC curve of {row.target.name}, area {area:.3f}")
