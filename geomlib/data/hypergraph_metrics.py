"""How well a reconstruction agrees with the true hypergraph."""

from dataclasses import asdict, dataclass

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import DataError

__all__ = ["Agreement", "agreement", "multi_jaccard"]


@dataclass(frozen=True)
class Agreement:
    """Agreement of Ê with E; hyperedges of size 1 count like all others.

    Args:
        jaccard: |E ∩ Ê| / |E ∪ Ê|.
        precision: |E ∩ Ê| / |Ê|; 0 for an empty Ê.
        recall: |E ∩ Ê| / |E|.
        f1: their harmonic mean; jaccard = f1 / (2 − f1).
        multi_jaccard: Σ min(m, m̂) / Σ max(m, m̂) over hyperedges, with multiplicities.
        found: |E ∩ Ê|.
        predicted: |Ê|.
        actual: |E|.
        candidate_recall: share of E among the candidates, the ceiling of what a classifier can find; NaN if unknown.
    """

    jaccard: float
    precision: float
    recall: float
    f1: float
    multi_jaccard: float
    found: int
    predicted: int
    actual: int
    candidate_recall: float = float("nan")

    def to_dict(self) -> dict[str, float]:
        """Name → number."""
        return asdict(self)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def agreement(true: Hypergraph, found: Hypergraph, candidates: Hypergraph | None = None) -> Agreement:
    """Compare a reconstruction with the truth, on the same node numbers.

    Args:
        true: E.
        found: Ê.
        candidates: what the reconstruction chose from.

    Raises:
        DataError: hypergraphs on different numbers of nodes.
    """
    if true.num_nodes != found.num_nodes:
        raise DataError(f"the hypergraphs have {true.num_nodes} and {found.num_nodes} nodes: they can't be compared")
    common = int(true.contains(found).sum())
    union = len(true) + len(found) - common
    return Agreement(
        jaccard=_ratio(common, union) if union else 1.0,
        precision=_ratio(common, len(found)),
        recall=_ratio(common, len(true)),
        f1=_ratio(2 * common, len(true) + len(found)),
        multi_jaccard=multi_jaccard(true, found),
        found=common,
        predicted=len(found),
        actual=len(true),
        candidate_recall=float("nan")
        if candidates is None
        else _ratio(int(candidates.contains(true).sum()), len(true)),
    )


def multi_jaccard(true: Hypergraph, found: Hypergraph) -> float:
    """Σ min(m, m̂) / Σ max(m, m̂) over all hyperedges of either."""
    where = true.positions(found)
    hit = where >= 0
    shared = np.minimum(true.multiplicity[where[hit]], found.multiplicity[hit]).sum()
    total = true.multiplicity.sum() + found.multiplicity.sum() - shared
    return _ratio(float(shared), float(total)) if total else 1.0
