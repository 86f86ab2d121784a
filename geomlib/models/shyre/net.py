"""`SHyRe`: candidates from a clique sampler, features, and an ensemble of two-headed classifiers."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.cliques import Cliques, cliques_of
from geomlib.graphs.covers import clique_cover
from geomlib.graphs.spec import GraphSpec
from geomlib.models.base import Net
from geomlib.models.shyre.calibration import HeldOut, best_jaccard, jaccard_threshold, platt
from geomlib.models.shyre.counts import COUNT_COLUMNS, count_features
from geomlib.models.shyre.motifs import MOTIF_COLUMNS, motif_features, selected_columns
from geomlib.models.shyre.sampler import Candidates, Cell, CliqueSampler, RhoTable
from geomlib.models.shyre.statistics import Floats, standardised
from geomlib.models.shyre.structure import STRUCTURE_COLUMNS, structure_features

__all__ = ["CANDIDATE_FIELDS", "FEATURE_SETS", "SHyRe"]

FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "count": COUNT_COLUMNS,
    "motif": MOTIF_COLUMNS,
    "structure": STRUCTURE_COLUMNS,
    "count+structure": COUNT_COLUMNS + STRUCTURE_COLUMNS,
    "all": COUNT_COLUMNS + MOTIF_COLUMNS + STRUCTURE_COLUMNS,
}
"""Name → columns of the features."""

CANDIDATE_FIELDS = ("candidate_index", "candidate_maximal", "candidate_features")
"""Fields that `SHyRe.prepare` adds to a graph; `forward` makes them where they are missing."""

MAXIMAL, NESTED = 0, 1


class SHyRe(Net):
    """Which cliques of a projected graph are hyperedges, learned from a hypergraph of the same domain.

    Candidates are all maximal cliques, the subsets that the sampler draws from them, and, if wanted, the cliques of
    some greedy covers. Each gets features that only need the graph, standardised over the candidates of its own graph,
    and a probability from one of two heads, for maximal cliques and for proper subsets. A head is an ensemble of
    perceptrons, each with a linear path beside its hidden layers, whose mean probability counts; it answers 0 or 1
    where all its training candidates had one label. A candidate counts as a hyperedge above `threshold`.

    Choosing all candidates with p > J / (1 + J) maximises the expected Jaccard index J of the choice; the task sets
    the threshold to that of the J it sees on candidates that a member was not trained on. `SHyRe.published` gives the
    published system, with p > 0.5.

    Args:
        features: `count`, `motif`, `structure`, `count+structure` or `all`, see `FEATURE_SETS`.
        budget: β, number of subsets that the sampler may draw on the training graphs.
        hidden: widths of the hidden layers; two of 64 if not given.
        members: perceptrons of each head.
        linear: give each a linear path from features to logit.
        logarithm: features x become sign(x) · log(1 + |x|) before they are standardised.
        dropout: in the hidden layers, in training.
        select: keep 19 motif columns by analysis of variance, as published; with `motif` features only.
        covers: number of random greedy covers behind the structure features.
        cover_candidates: take the cliques of those covers as candidates, too.
        max_cells: number of cells of the sampler that fit into the file.
        seed: of covers and of sampled cliques.

    Inputs: `edge_index` (both directions), `node_id`.

    Returns: `candidate_index` `[2, members]`, `candidate_maximal`, `candidate_logit` and `candidate_probability`
        `[candidates]`.

    Raises:
        ConfigError: arguments out of range.

    Source: Wang, Kleinberg, arXiv 2401.08519; structure features, covers, ensembles and the threshold are additions.
    """

    family = "shyre"
    float64_buffers = ("cells", "constant", "calibration", "threshold", "source_recall")
    inputs = ("node_id", "edge_index")
    outputs = ("candidate_index", "candidate_maximal", "candidate_logit", "candidate_probability")

    cells: Tensor
    columns: Tensor
    constant: Tensor
    calibration: Tensor
    threshold: Tensor
    source_recall: Tensor

    def __init__(
        self,
        features: Literal["count", "motif", "structure", "count+structure", "all"] = "all",
        budget: int = 1000,
        hidden: Sequence[int] | None = None,
        members: int = 10,
        linear: bool = True,
        logarithm: bool = True,
        dropout: float = 0.1,
        select: bool = False,
        covers: int = 8,
        cover_candidates: bool = False,
        max_cells: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden = [64, 64] if hidden is None else list(hidden)
        if features not in FEATURE_SETS:
            raise ConfigError(f"features '{features}': expected one of {', '.join(FEATURE_SETS)}")
        if budget < 0 or members < 1 or covers < 0 or max_cells < 1 or not hidden or min(hidden) < 1:
            raise ConfigError(
                f"budget {budget}, hidden {hidden}, members {members}, covers {covers}, max_cells {max_cells}: "
                "expected counts, at least 1 but for budget and covers"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout {dropout}: expected a share in [0, 1)")
        if select and features != "motif":
            raise ConfigError("select keeps the published motif columns; it goes with features 'motif' only")
        self.config: dict[str, Any] = {
            "features": features,
            "budget": budget,
            "hidden": hidden,
            "members": members,
            "linear": linear,
            "logarithm": logarithm,
            "dropout": dropout,
            "select": select,
            "covers": covers,
            "cover_candidates": cover_candidates,
            "max_cells": max_cells,
            "seed": seed,
        }
        self.features, self.budget, self.members, self.seed = features, budget, members, seed
        self.logarithm, self.dropout, self.select = logarithm, dropout, select
        self.covers, self.cover_candidates, self.max_cells = covers, cover_candidates, max_cells
        self.spec = GraphSpec((Cliques(),))
        width = len(FEATURE_SETS[features])
        used = 19 if select else width
        sizes = [used, *hidden, 1]
        self.weights = nn.ParameterList(
            torch.randn(2, members, a, b) * (2.0 / a if b > 1 else 1.0 / a) ** 0.5 for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(2, members, 1, b) for b in sizes[1:])
        self.direct = nn.Parameter(torch.zeros(2, members, used, 1)) if linear else None
        self.register_buffer("cells", torch.zeros(max_cells, 3, dtype=torch.float64))
        self.register_buffer("columns", torch.arange(used))
        self.register_buffer("constant", torch.full((2,), 0.5, dtype=torch.float64))
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))
        self.register_buffer("threshold", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("source_recall", torch.tensor(1.0, dtype=torch.float64))

    @classmethod
    def published(cls, features: Literal["count", "motif"] = "count", budget: int = 1000) -> Self:
        """SHyRe-count or SHyRe-motif as published: one perceptron of 100 units a head, on plain features."""
        plain = {"hidden": [100], "members": 1, "linear": False, "logarithm": False, "dropout": 0.0, "covers": 0}
        return cls(features, budget, select=features == "motif", **plain)  # type: ignore[arg-type]

    # ---------------------------------------------------------------- candidates

    @property
    def sampler(self) -> CliqueSampler:
        """Cells that were chosen on the training graphs."""
        rows = self.cells.tolist()
        return CliqueSampler(tuple(Cell(int(n), int(k), r) for n, k, r in rows if r > 0))

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Choose the sampler's cells, the columns, and which heads have but one answer.

        Args:
            graphs: source graphs with `hyperedge_index`; several are taken as the parts of one.

        Raises:
            DataError: no graph, or one without hyperedges.
        """
        sources = []
        for graph in graphs:
            if "clique_index" not in graph:
                self.spec.build(graph)
            sources.append((graph, Hypergraph.from_data(graph), cliques_of(graph)))
        if not sources:
            raise DataError("there is no training graph to choose the sampler on")
        true, cliques = _side_by_side([row[1] for row in sources]), _side_by_side([row[2] for row in sources])
        chosen = CliqueSampler.fit(RhoTable.of(true, cliques), len(true), self.budget, self.max_cells)
        self.cells.zero_()
        if chosen.cells:
            self.cells[: len(chosen.cells)] = torch.tensor([[c.n, c.k, c.r] for c in chosen.cells], dtype=torch.float64)
        seen = [self.candidates_of(graph) for graph, _, _ in sources]
        labels = [true.contains(found.sets) for (_, true, _), found in zip(sources, seen, strict=True)]
        label = np.concatenate(labels)
        maximal = np.concatenate([found.maximal for found in seen])
        for head, side in ((MAXIMAL, maximal), (NESTED, ~maximal)):
            own = label[side]
            self.constant[head] = 0.5 if len(own) and 0 < own.sum() < len(own) else float(own.any())
        self.source_recall.fill_(float(label.sum() / len(true)))
        if self.select:
            features = np.concatenate(
                [self._features(graph, found) for (graph, _, _), found in zip(sources, seen, strict=True)]
            )
            self.columns.copy_(torch.from_numpy(selected_columns(features, label.astype(np.int64))))

    def candidates_of(self, graph: GraphData) -> Candidates:
        """Candidates of one graph."""
        cliques = cliques_of(graph)
        found = self.sampler.candidates(cliques, self.seed)
        if not self.cover_candidates:
            return found
        network = UndirectedGraph.from_data(graph)
        covers = [clique_cover(network, seed=self.seed + number) for number in range(self.covers)]
        sets = found.sets.union(*covers).simple()
        where = found.sets.positions(sets)
        parents = np.where(where >= 0, found.parents[where], 0)
        return Candidates(sets, cliques.contains(sets), parents)

    def _features(self, graph: GraphData, found: Candidates) -> Floats:
        network, cliques = UndirectedGraph.from_data(graph), cliques_of(graph)
        parts = []
        for name in ("count", "motif", "structure") if self.features == "all" else self.features.split("+"):
            if name == "count":
                parts.append(count_features(network, cliques, found))
            elif name == "motif":
                parts.append(motif_features(network, cliques, found.sets))
            else:
                parts.append(structure_features(network, cliques, found.sets, self.covers, self.seed))
        features = np.concatenate(parts, axis=1)
        if self.logarithm:
            features = np.sign(features) * np.log1p(np.abs(features))
        return standardised(features)

    def prepare(self, batch: GraphData) -> dict[str, Tensor]:
        """`CANDIDATE_FIELDS` of a graph or batch; each graph's features are standardised on their own."""
        graphs = batch.to_data_list() if batch.num_graphs > 1 else [batch]
        nodes, members, candidates = 0, [], 0
        maximal, features = [], []
        for graph in graphs:
            found = self.candidates_of(graph)
            members.append(np.stack([found.sets.nodes + nodes, found.sets.owner + candidates]))
            maximal.append(found.maximal)
            features.append(self._features(graph, found))
            nodes += graph.num_nodes
            candidates += len(found)
        return {
            "candidate_index": torch.from_numpy(np.concatenate(members, axis=1)),
            "candidate_maximal": torch.from_numpy(np.concatenate(maximal)),
            "candidate_features": torch.from_numpy(np.concatenate(features)),
        }

    # ---------------------------------------------------------------- classifier

    def logits(
        self, features: Float[Tensor, "candidates width"], head: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "members candidates"]:
        """Log-odds that the members of a head give.

        Args:
            features: as `prepare` makes them, all columns.
            head: 0 for maximal cliques, 1 for proper subsets.
            generator: of the dropout; none without it.
        """
        x = features[:, self.columns].to(self.weights[0].dtype)
        hidden: Tensor = x
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight[head] + bias[head]
            if layer < len(self.weights) - 1:
                hidden = torch.relu(hidden)
                if generator is not None and self.dropout > 0:
                    kept = torch.rand(hidden.shape, generator=generator, device=hidden.device) >= self.dropout
                    hidden = hidden * kept / (1.0 - self.dropout)
        if self.direct is not None:
            hidden = hidden + x @ self.direct[head]
        return hidden.squeeze(-1)

    def probability(
        self,
        features: Float[Tensor, "candidates width"],
        maximal: Bool[Tensor, " candidates"],
        unseen: Bool[Tensor, "members candidates"] | None = None,
        chunk: int = 50_000,
    ) -> Float[Tensor, " candidates"]:
        """Mean probability of the members, not calibrated yet; 0 or 1 of a head with but one answer.

        Args:
            features: as `prepare` makes them.
            maximal: which head answers.
            unseen: members whose answer counts, for each candidate; all if not given.
            chunk: candidates at a time.
        """
        found = torch.empty(len(features), dtype=self.weights[0].dtype, device=features.device)
        for head, side in ((MAXIMAL, maximal), (NESTED, ~maximal)):
            for where in side.nonzero().squeeze(1).split(chunk):
                if float(self.constant[head]) != 0.5:
                    found[where] = float(self.constant[head])
                    continue
                answers = torch.sigmoid(self.logits(features[where], head))
                if unseen is None:
                    found[where] = answers.mean(0)
                else:
                    counts = unseen[:, where]
                    found[where] = (answers * counts).sum(0) / counts.sum(0).clamp_min(1)
        return found

    def calibrated(
        self, chance: Float[Tensor, " candidates"], maximal: Bool[Tensor, " candidates"]
    ) -> Float[Tensor, " candidates"]:
        """σ(a · logit p + b) with a and b of the head that answers; 0 and 1 stay."""
        scale, shift = self.calibration.to(chance)[torch.where(maximal, MAXIMAL, NESTED)].T
        found = torch.sigmoid(scale * torch.logit(chance, eps=1e-6) + shift)
        return torch.where((chance > 0) & (chance < 1), found, chance)

    def settle(
        self,
        seen: HeldOut,
        calibrate: bool = False,
        rule: Literal["expected", "half"] = "expected",
        labelled: float = 1.0,
    ) -> None:
        """Set calibration and threshold by candidates that the answering members were not trained on.

        Args:
            seen: of the source, or of other graphs.
            calibrate: fit scale and shift of the log-odds of each head; else they are 1 and 0.
            rule: `expected` sets the threshold to J / (1 + J), with J the best Jaccard index that a threshold gives
                there; `half` to ½.
            labelled: share s of the hyperedges that carry a label, drawn at random. A probability p of being
                a labelled hyperedge is p / s of being one, so the threshold is s times that of the rule.
        """
        for head in (MAXIMAL, NESTED):
            own = seen.maximal == (head == MAXIMAL)
            fitted = (1.0, 0.0)
            if calibrate and float(self.constant[head]) == 0.5:
                fitted = platt(seen.chance[own].numpy(), seen.label[own].numpy())
            self.calibration[head] = torch.tensor(fitted, dtype=torch.float64)
        limit = 0.5
        if rule == "expected":
            chance = self.calibrated(seen.chance, seen.maximal).numpy()
            limit = jaccard_threshold(best_jaccard(chance, seen.label.numpy(), seen.hyperedges, labelled))
        self.threshold.fill_(labelled * limit)

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """See the class."""
        self.spec.check(batch)
        values = (
            {name: batch[name] for name in CANDIDATE_FIELDS} if CANDIDATE_FIELDS[-1] in batch else self.prepare(batch)
        )
        maximal = values["candidate_maximal"]
        chance = self.probability(values["candidate_features"].to(self.weights[0].device), maximal)
        chance = self.calibrated(chance, maximal)
        return {
            "candidate_index": values["candidate_index"],
            "candidate_maximal": maximal,
            "candidate_logit": torch.logit(chance, eps=1e-6),
            "candidate_probability": chance,
        }


def _side_by_side(parts: Sequence[Hypergraph]) -> Hypergraph:
    """Disjoint union: the nodes of each part follow those of the one before."""
    shift = np.cumsum([0, *(part.num_nodes for part in parts)])
    sizes = np.concatenate([part.sizes for part in parts])
    nodes = np.concatenate([part.nodes + first for part, first in zip(parts, shift[:-1], strict=True)])
    return Hypergraph.from_rows(np.concatenate([[0], np.cumsum(sizes)]), nodes, int(shift[-1]))


def candidate_sets(index: Int[Tensor, "2 members"], candidates: int, num_nodes: int) -> Hypergraph:
    """The candidates that `candidate_index` describes, in their order."""
    nodes, owner = index.cpu().numpy()
    ptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=candidates))]).astype(np.int64)
    return Hypergraph(num_nodes, ptr, nodes, np.ones(candidates, dtype=np.int64))
