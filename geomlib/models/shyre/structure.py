"""Features past the published ones: neighbourhoods, extensions, boundaries and membership in clique covers."""

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.graphs.cliques import inclusions
from geomlib.graphs.covers import clique_cover, cover_frequency
from geomlib.models.shyre.counts import edge_cliques
from geomlib.models.shyre.statistics import Floats, node_means, pair_weights

__all__ = ["STRUCTURE_COLUMNS", "structure_features"]

_PAIR = ("common", "jaccard", "allocation", "pair_cliques", "sole_clique", "degree_product")
_NODE = ("degree", "node_cliques", "core", "clustering", "outside")
STRUCTURE_COLUMNS = (
    *(f"{name}_{statistic}" for name in _PAIR for statistic in ("min", "max", "mean")),
    *(f"{name}_{statistic}" for name in _NODE for statistic in ("min", "max", "mean")),
    "holders",
    "largest_holder",
    "smallest_holder",
    "mean_holder",
    "extensions",
    "inside_share",
    "cover_frequency",
    "cover_edge_share",
)
"""Names of the columns, in order."""


def _allocation(graph: UndirectedGraph) -> Floats:
    """Σ over common neighbours z of 1 / degree(z), of every edge."""
    inverse = graph.adjacency.multiply(1.0 / np.maximum(graph.degree, 1)).tocsr()
    found = np.empty(len(graph.edges))
    for begin in range(0, len(graph.edges), 100_000):
        u, v = graph.edges[begin : begin + 100_000].T
        found[begin : begin + 100_000] = inverse[u].multiply(graph.adjacency[v]).sum(axis=1).A1
    return found


def _core(graph: UndirectedGraph) -> Ints:
    """Core number of each node."""
    adjacency, degree = graph.adjacency, graph.degree.copy()
    core = np.zeros(graph.num_nodes, dtype=np.int64)
    alive = np.ones(graph.num_nodes, dtype=bool)
    k = 0
    while alive.any():
        k = max(k, int(degree[alive].min()))
        layer = np.flatnonzero(alive & (degree <= k))
        while len(layer):
            core[layer] = k
            alive[layer] = False
            degree -= np.asarray(adjacency[layer].sum(axis=0)).reshape(-1)
            layer = np.flatnonzero(alive & (degree <= k))
    return core


def _three(value: Floats, begin: Ints, sizes: Ints) -> list[Floats]:
    return [np.minimum.reduceat(value, begin), np.maximum.reduceat(value, begin), np.add.reduceat(value, begin) / sizes]


def structure_features(
    graph: UndirectedGraph, cliques: Hypergraph, sets: Hypergraph, covers: int = 8, seed: int = 0
) -> Floats:
    """Structure features of each set, `[sets, columns]`; see `STRUCTURE_COLUMNS`.

    Minimum, maximum and mean over the pairs of: number of common neighbours, their share of all neighbours, Σ over
    them of 1/degree, number of maximal cliques with the pair, whether that is one, geometric mean of the degrees;
    over the nodes of: degree, number of maximal cliques, core number, clustering, edges that leave the set. Then how
    many maximal cliques hold the set, the largest, smallest and mean size of those, how many nodes extend it to a
    clique, its share of the edges at its nodes, in which share of random greedy covers it stands, and the mean over
    its pairs of the share of covers in which a clique of its size or less covers them.

    Args:
        graph: projected graph.
        cliques: its maximal cliques.
        sets: candidates.
        covers: number of random greedy clique covers.
        seed: of the covers.
    """
    edges, degree = graph.edges, graph.degree.astype(np.float64)
    shared = edge_cliques(graph, cliques).astype(np.float64)
    common = graph.triangles.astype(np.float64)
    either = degree[edges].sum(axis=1) - common - 2 if len(edges) else np.zeros(0)
    found_covers = [clique_cover(graph, seed=seed + number) for number in range(covers)]
    sizes_at_edge = _cover_sizes(graph, found_covers)
    pairwise = [
        common,
        common / np.maximum(either, 1.0),
        _allocation(graph),
        shared,
        (shared == 1).astype(np.float64),
        np.sqrt(degree[edges].prod(axis=1)) if len(edges) else np.zeros(0),
    ]

    def reduce(where: Ints, begin: Ints, sizes: Ints) -> Floats:
        columns = [column for value in pairwise for column in _three(value[where], begin, sizes)]
        nodes = np.rint((1 + np.sqrt(1 + 8 * sizes)) / 2)
        small = sizes_at_edge[where] <= np.repeat(nodes, sizes)[:, None]
        columns.append(np.add.reduceat(small.mean(axis=1), begin) / sizes)
        return np.stack(columns, axis=1)

    pairs = pair_weights(sets, graph, reduce, 3 * len(_PAIR) + 1)
    at_node = [degree, cliques.degree.astype(np.float64), _core(graph).astype(np.float64), graph.clustering]
    columns = [column for value in at_node for column in _three(value[sets.nodes], sets.ptr[:-1], sets.sizes)]
    outside = degree[sets.nodes] - np.repeat(sets.sizes - 1, sets.sizes)
    columns += _three(outside, sets.ptr[:-1], sets.sizes)
    which, where = inclusions(sets, cliques)
    begin = np.searchsorted(which, np.arange(len(sets)))
    holders = np.bincount(which, minlength=len(sets))
    low, high, mean = _three(cliques.sizes[where].astype(np.float64), begin, holders)
    total = node_means(sets, degree) * sets.sizes
    inside = sets.sizes * (sets.sizes - 1.0)
    columns += [holders.astype(np.float64), high, low, mean]
    columns += [_extensions(sets, cliques, which, where).astype(np.float64)]
    columns += [inside / np.maximum(total, 1.0), cover_frequency(sets, found_covers)]
    return np.concatenate([pairs[:, :-1], np.stack(columns, axis=1), pairs[:, -1:]], axis=1)


def _extensions(sets: Hypergraph, cliques: Hypergraph, which: Ints, where: Ints) -> Ints:
    """How many nodes are neighbours of a whole set: those of the cliques that hold it, without its own."""
    found = np.zeros(len(sets), dtype=np.int64)
    nodes = max(cliques.num_nodes, 1)
    cost = np.cumsum(cliques.sizes[where])
    begin = 0
    while begin < len(which):
        limit = (cost[begin - 1] if begin else 0) + 20_000_000
        end = max(int(np.searchsorted(cost, limit, side="right")), begin + 1)
        if end < len(which):
            end = max(int(np.searchsorted(which, which[end])), begin + 1)  # not within a set
            if end <= begin + 1 and which[begin] == which[min(begin + 1, len(which) - 1)]:
                end = int(np.searchsorted(which, which[begin], side="right"))
        owner = np.repeat(which[begin:end], cliques.sizes[where[begin:end]])
        members = cliques.take(where[begin:end]).nodes
        keys = np.unique(owner * nodes + members)
        found += np.bincount(keys // nodes, minlength=len(sets))
        begin = end
    return found - sets.sizes


def _cover_sizes(graph: UndirectedGraph, covers: list[Hypergraph]) -> Ints:
    """Size of the smallest clique that covers each edge, `[edges, covers]`."""
    found = np.full((len(graph.edges), len(covers)), np.iinfo(np.int64).max)
    for column, cover in enumerate(covers):
        for size in np.unique(cover.sizes)[::-1].tolist():
            rows = cover.take(cover.sizes == size).nodes.reshape(-1, size)
            first, second = np.triu_indices(size, 1)
            at = graph.edge_positions(rows[:, first].reshape(-1), rows[:, second].reshape(-1))
            found[at, column] = size
    return found
