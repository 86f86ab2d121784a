"""How well predicted properties agree with labels: errors, correlations, areas under curves, and their intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["SCORES", "average_precision", "bootstrap_interval", "r2", "roc_auc", "roc_curve", "scores", "spearman"]

Numbers = NDArray[np.float64]


def mae(label: Numbers, prediction: Numbers) -> float:
    """Mean absolute error."""
    return float(np.abs(prediction - label).mean()) if len(label) else np.nan


def rmse(label: Numbers, prediction: Numbers) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.square(prediction - label).mean())) if len(label) else np.nan


def r2(label: Numbers, prediction: Numbers) -> float:
    """1 − Σ(p − y)² / Σ(y − ⟨y⟩)²; NaN where all labels are alike."""
    spread = float(np.square(label - label.mean()).sum()) if len(label) else 0.0
    return 1.0 - float(np.square(prediction - label).sum()) / spread if spread > 0 else np.nan


def spearman(label: Numbers, prediction: Numbers) -> float:
    """Correlation of the ranks; NaN where one of the two is constant."""
    if len(label) < 2:
        return np.nan
    a, b = rankdata(label), rankdata(prediction)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else np.nan


def roc_auc(label: Numbers, prediction: Numbers) -> float:
    """Probability that a positive has the higher prediction than a negative; NaN where one of the classes is absent."""
    positives = int((label == 1).sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return np.nan
    ranks = rankdata(prediction)
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(label: Numbers, prediction: Numbers) -> float:
    """Σ (recall_k − recall_(k−1)) · precision_k over thresholds; NaN where one of the classes is absent."""
    positives = int((label == 1).sum())
    if not 0 < positives < len(label):
        return np.nan
    hits, taken = _thresholds(label, prediction)
    precision, recall = hits / taken, hits / positives
    return float(np.diff(recall, prepend=0.0) @ precision)


def roc_curve(label: Numbers, prediction: Numbers) -> tuple[Numbers, Numbers]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1)."""
    hits, taken = _thresholds(label, prediction)
    false = (taken - hits) / max(1.0, float((label != 1).sum()))
    true = hits / max(1.0, float((label == 1).sum()))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def _thresholds(label: Numbers, prediction: Numbers) -> tuple[Numbers, Numbers]:
    """Positives and all above each threshold; equal predictions are taken together."""
    order = np.argsort(-prediction, kind="stable")
    ends = np.flatnonzero(np.diff(prediction[order], append=np.inf if len(order) else 0.0))
    return np.cumsum(label[order] == 1)[ends].astype(np.float64), (ends + 1).astype(np.float64)


SCORES: dict[str, dict[str, Callable[[Numbers, Numbers], float]]] = {
    "regression": {"mae": mae, "rmse": rmse, "r2": r2, "spearman": spearman},
    "binary": {"auc": roc_auc, "ap": average_precision},
}
"""Kind of a target → name of a score → function of labels and predictions."""


def scores(kind: str, label: Numbers, prediction: Numbers) -> dict[str, float]:
    """All scores of a target, over the labels that are there.

    Args:
        kind: `regression` or `binary`.
        label: [items]; NaN where there is none.
        prediction: [items]; of a binary target probabilities, or anything that grows with them.
    """
    there = np.isfinite(label)
    label, prediction = label[there].astype(np.float64), prediction[there].astype(np.float64)
    return {name: score(label, prediction) for name, score in SCORES[kind].items()}


def bootstrap_interval(
    score: Callable[[Numbers, Numbers], float],
    label: Numbers,
    prediction: Numbers,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a score over draws of the items with replacement; draws where it is undefined are left out.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval.
    """
    generator = np.random.default_rng(seed)
    found: Sequence[float] = [
        score(label[drawn], prediction[drawn])
        for drawn in (generator.integers(0, len(label), len(label)) for _ in range(draws if len(label) else 0))
    ]
    values = np.array(found)[np.isfinite(found)] if len(found) else np.zeros(0)
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
