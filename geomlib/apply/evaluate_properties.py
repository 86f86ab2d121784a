"""Scores of predicted properties on a table, with intervals, and what a committee knows of its own errors."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomlib.apply.predict import Predictor
from geomlib.data.molecules import to_smiles
from geomlib.data.scores import SCORES, bootstrap_interval
from geomlib.data.stores import Store
from geomlib.errors import DataError
from geomlib.nn.targets import Target

__all__ = ["PropertyEvaluation", "Score", "Sharpness", "TargetEvaluation", "evaluate_properties", "scored", "sharpness"]


@dataclass(frozen=True, slots=True)
class Score:
    """A score and its bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sharpness:
    """What the deviation of a committee says about its errors.

    Attributes:
        spearman: rank correlation of deviation and |error|.
        scale: √⟨(error / deviation)²⟩; 1 for an ideal committee, above it for one that is too sure of itself.
        coverage: fraction of the labels within one deviation of the prediction; ideal are 68 %.
    """

    spearman: float
    scale: float
    coverage: float


@dataclass(frozen=True, slots=True)
class TargetEvaluation:
    """Scores of one target.

    Attributes:
        target: what it is.
        label: of the rows that have one and were predicted.
        prediction: of these rows.
        deviation: of a committee, else None.
        scores: name → score.
        sharpness: of a committee's regression, else None.
    """

    target: Target
    label: NDArray[np.float64]
    prediction: NDArray[np.float64]
    deviation: NDArray[np.float64] | None
    scores: dict[str, Score]
    sharpness: Sharpness | None


@dataclass(frozen=True, slots=True)
class PropertyEvaluation:
    """What came of an evaluation.

    Attributes:
        rows: how many were predicted.
        targets: scores by target.
        skipped: (where, why) of rows that could not be predicted.
    """

    rows: int
    targets: list[TargetEvaluation] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def evaluate_properties(
    predictor: Predictor,
    store: Store,
    output: str | os.PathLike[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> PropertyEvaluation:
    """Compare predictions with the labels of a store.

    Args:
        predictor: of the model or committee.
        store: of text, with `target` in the order of the predictor's targets.
        output: CSV file for SMILES, labels and predictions of every row.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: no row could be predicted, or none has a label.
    """
    graphs = list(store)
    found = predictor.predict(graphs)
    skipped = [(store.describe(k), error) for k, error in enumerate(found.errors) if error is not None]
    used = np.array([error is None for error in found.errors])
    if not used.any():
        raise DataError(f"none of {len(graphs)} rows could be predicted; the first: {skipped[0][0]}: {skipped[0][1]}")
    labels = np.concatenate([graph.target.double().numpy() for graph in graphs])
    if labels.shape[1] != len(predictor.targets):
        raise DataError(f"{labels.shape[1]} labels for {len(predictor.targets)} targets of the model")
    number = len(predictor.targets)
    result = PropertyEvaluation(int(used.sum()), skipped=skipped)
    for k, target in enumerate(predictor.targets):
        chosen = used & np.isfinite(labels[:, k])
        if not chosen.any():
            continue
        label, prediction = labels[chosen, k], found.values[chosen, k]
        deviation = found.values[chosen, number + k] if found.values.shape[1] > number else None
        result.targets.append(scored(target, label, prediction, deviation, draws, seed))
    if not result.targets:
        raise DataError(f"no row has a label of {', '.join(row.name for row in predictor.targets)}")
    if output is not None:
        _write(Path(output), [to_smiles(graph) for graph in graphs], labels, found.values, found.columns, found.errors)
    return result


def scored(
    target: Target,
    label: NDArray[np.float64],
    prediction: NDArray[np.float64],
    deviation: NDArray[np.float64] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> TargetEvaluation:
    """Scores of one target.

    Args:
        target: what it is.
        label: without gaps.
        prediction: of the same rows.
        deviation: of a committee.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    found = {
        name: Score(score(label, prediction), *bootstrap_interval(score, label, prediction, draws, seed=seed))
        for name, score in SCORES[target.kind].items()
    }
    regression = deviation is not None and target.kind == "regression"
    known = sharpness(prediction - label, deviation) if regression and deviation is not None else None
    return TargetEvaluation(target, label, prediction, deviation, found, known)


def sharpness(error: NDArray[np.float64], deviation: NDArray[np.float64]) -> Sharpness:
    """Calibration of a committee; `scale` leaves out rows about which the members agree exactly."""
    size, apart = np.abs(error), deviation > 0
    scale = float(np.sqrt(np.mean((size[apart] / deviation[apart]) ** 2))) if apart.any() else math.nan
    rank = SCORES["regression"]["spearman"](size, deviation)
    return Sharpness(rank, scale, float((size <= deviation).mean()))


def _write(
    file: Path,
    smiles: Sequence[Sequence[str]],
    labels: NDArray[np.float64],
    values: NDArray[np.float64],
    columns: Sequence[str],
    errors: Sequence[str | None],
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    number = labels.shape[1]
    named = [f"{name}_prediction" if k < number else name for k, name in enumerate(columns)]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", *columns[:number], *named, "status"])
        for texts, label, value, error in zip(smiles, labels, values, errors, strict=True):
            cells = ["" if math.isnan(number) else f"{number:.9g}" for number in (*label, *value)]
            writer.writerow([".".join(texts), *cells, error or "ok"])
