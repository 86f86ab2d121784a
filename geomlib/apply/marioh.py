"""Reconstruction from edge multiplicities: proven pairs first, then cliques by score, each taken off the graph."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import nn

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.errors import DataError
from geomlib.graphs.cliques import maximal_cliques
from geomlib.models.shyre.multiplicity import peel, triangle_bound
from geomlib.models.shyre.statistics import Floats, moments, pair_weights

__all__ = ["CliqueScorer", "clique_features", "fit_scorer", "reconstruct_weighted"]


def clique_features(graph: UndirectedGraph, sets: Hypergraph, maximal: np.ndarray) -> Floats:
    """Features of cliques of a weighted graph, `[sets, 23]`.

    Sum, mean, minimum, maximum and standard deviation over the nodes of the weighted degree, and over the pairs of ω,
    MHH and ω / max(MHH, 1); size; weight inside over weight at the nodes; whether it is a maximal clique.
    """
    if graph.weight is None:
        raise DataError("the graph carries no multiplicities (ω): use project(weighted=True)")
    weight, bound = graph.weight.astype(np.float64), triangle_bound(graph).astype(np.float64)
    degree = np.bincount(graph.edges.reshape(-1), np.repeat(weight, 2), minlength=graph.num_nodes)

    def five(values: Floats, begin: Ints, sizes: Ints) -> Floats:
        return np.concatenate([np.add.reduceat(values, begin)[:, None], moments(values, begin, sizes)], axis=1)

    def reduce(edges: Ints, begin: Ints, sizes: Ints) -> Floats:
        ratio = weight[edges] / np.maximum(bound[edges], 1.0)
        return np.concatenate([five(value, begin, sizes) for value in (weight[edges], bound[edges], ratio)], axis=1)

    pairs = pair_weights(sets, graph, reduce, 15)
    nodes = five(degree[sets.nodes].astype(np.float64), sets.ptr[:-1], sets.sizes)
    inside = pairs[:, 0] / np.maximum(nodes[:, 0] - pairs[:, 0], 1.0)
    rest = np.stack([sets.sizes, inside, maximal], axis=1).astype(np.float64)
    return np.log1p(np.concatenate([nodes, pairs, rest], axis=1))


@dataclass(frozen=True)
class CliqueScorer:
    """A perceptron that says how likely a clique of a weighted graph is a hyperedge.

    Args:
        net: features → log-odds.
        mean: of the features in training.
        spread: their standard deviation.
    """

    net: nn.Module
    mean: Floats
    spread: Floats

    def __call__(self, graph: UndirectedGraph, sets: Hypergraph, maximal: np.ndarray) -> Floats:
        """Probability of each set."""
        if len(sets) == 0:
            return np.zeros(0)
        features = (clique_features(graph, sets, maximal) - self.mean) / self.spread
        with torch.no_grad():
            return torch.sigmoid(self.net(torch.from_numpy(features).float())[:, 0]).double().numpy()


def _parts(cliques: Hypergraph, per_clique: int, generator: np.random.Generator) -> Hypergraph:
    """Some proper subsets of at least 2 nodes of each clique: all if there are few, else drawn at random."""
    found: set[tuple[int, ...]] = set()
    for row in cliques:
        if len(row) < 3:
            continue
        if 2 ** len(row) <= 4 * per_clique:
            found.update(part for size in range(2, len(row)) for part in combinations(row, size))
            continue
        for _ in range(per_clique):
            size = int(generator.integers(2, len(row)))
            found.add(tuple(sorted(row[i] for i in generator.choice(len(row), size, replace=False))))
    return Hypergraph.from_sets(found, cliques.num_nodes)


def fit_scorer(source: Hypergraph, per_clique: int = 20, steps: int = 400, seed: int = 0) -> CliqueScorer:
    """Train a scorer on the cliques that remain of a weighted projection once the proven pairs are taken off.

    Args:
        source: hypergraph with multiplicities.
        per_clique: subsets of each maximal clique to learn from.
        steps: of Adam on all of them.
        seed: of subsets and weights.
    """
    generator = np.random.default_rng(seed)
    left = peel(source.project(weighted=True))[1]
    cliques = maximal_cliques(left)
    cliques = cliques.take(cliques.sizes > 1)
    sets = cliques.union(_parts(cliques, per_clique, generator)).simple()
    maximal = cliques.contains(sets)
    features = clique_features(left, sets, maximal)
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-8
    x = torch.from_numpy((features - mean) / spread).float()
    y = torch.from_numpy(source.contains(sets)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y)
        loss.backward()
        optimizer.step()
    return CliqueScorer(net.eval().requires_grad_(False), mean, spread)


def reconstruct_weighted(
    scorer: CliqueScorer,
    graph: UndirectedGraph,
    start: float = 0.9,
    step: float = 0.05,
    share: float = 0.4,
    per_clique: int = 20,
    seed: int = 0,
) -> Hypergraph:
    """Hyperedges with multiplicities of a weighted projection.

    Take off the pairs that ω proves. Then, round by round: score the maximal cliques of what is left and accept those
    above θ, best first, taking 1 from the weight of each edge; look also at subsets of the lowest-scored cliques;
    lower θ. The weights of all edges are used up in the end, so that the result projects to the graph, ω and all.

    Args:
        scorer: of `fit_scorer`.
        graph: with multiplicities.
        start: θ of the first round.
        step: by which θ falls a round.
        share: of the cliques, those of the lowest score, whose subsets are looked at.
        per_clique: subsets of each.
        seed: of the subsets.

    Raises:
        DataError: the graph has no multiplicities.

    Source: Lee, Lee, Shin, MARIOH, arXiv 2504.00522; details of the search are our own.
    """
    generator = np.random.default_rng(seed)
    proven, left = peel(graph)
    found: list[Hypergraph] = [proven]
    threshold = start
    while len(left.edges):
        cliques = maximal_cliques(left)
        cliques = cliques.take(cliques.sizes > 1)
        score = scorer(left, cliques, np.ones(len(cliques), dtype=bool))
        low = np.sort(np.argsort(score, kind="stable")[: int(share * len(cliques))])
        parts = _parts(cliques.take(low), per_clique, generator)
        pools = [(cliques, score)]
        if len(parts):
            pools.append((parts, scorer(left, parts, np.zeros(len(parts), dtype=bool))))
        assert left.weight is not None
        weight = left.weight.copy()
        taken: list[tuple[int, ...]] = []
        for sets, chance in pools:
            rows = list(sets)
            for position in np.argsort(-chance, kind="stable").tolist():
                if chance[position] < threshold and threshold > 0:
                    break
                row = np.array(rows[position])
                first, second = np.triu_indices(len(row), 1)
                edges = left.edge_positions(row[first], row[second])
                if weight[edges].min() > 0:
                    weight[edges] -= 1
                    taken.append(rows[position])
        if taken:
            found.append(Hypergraph.from_sets(taken, graph.num_nodes))
        kept = weight > 0
        left = UndirectedGraph(graph.num_nodes, left.edges[kept], weight[kept])
        threshold = max(threshold - step, 0.0)
    whole = found[0].union(*found[1:])
    return Hypergraph(whole.num_nodes, whole.ptr, whole.nodes, whole.multiplicity, graph.labels)
