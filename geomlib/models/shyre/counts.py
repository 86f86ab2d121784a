"""The nine count features of a candidate."""

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.models.shyre.sampler import Candidates
from geomlib.models.shyre.statistics import Floats, node_means, pair_weights

__all__ = ["COUNT_COLUMNS", "count_features", "edge_cliques"]

COUNT_COLUMNS = (
    "nested",
    "size",
    "all_pairs_shared",
    "mean_pair_cliques",
    "mean_degree",
    "mean_neighbor_degree",
    "mean_node_cliques",
    "mean_clustering",
    "parents",
)
"""Names of the columns, in order."""


def edge_cliques(graph: UndirectedGraph, cliques: Hypergraph) -> Ints:
    """Number of maximal cliques that hold each edge, `[edges]`."""
    count = np.zeros(len(graph.edges), dtype=np.int64)
    for size in np.unique(cliques.sizes).tolist():
        if size < 2:
            continue
        first, second = np.triu_indices(size, 1)
        where = np.flatnonzero(cliques.sizes == size)
        step = max(1, 3_000_000 // len(first))
        for begin in range(0, len(where), step):
            chosen = where[begin : begin + step]
            rows = cliques.nodes[cliques.ptr[chosen][:, None] + np.arange(size)]
            edges = graph.edge_positions(rows[:, first].reshape(-1), rows[:, second].reshape(-1))
            count += np.bincount(edges, minlength=len(count))
    return count


def count_features(graph: UndirectedGraph, cliques: Hypergraph, candidates: Candidates) -> Floats:
    """Count features of each candidate, `[candidates, 9]`; see `COUNT_COLUMNS`.

    With md(v), md(u, v) the number of maximal cliques that hold a node or a pair: nested flag (0 for a maximal
    clique); size; whether all pairs have md > 1 (0 for a single node); mean md of the pairs; means over the nodes of
    degree, of the neighbours' mean degree, of md and of the clustering coefficient; number of parents that the
    sampler met.

    Source: Wang, Kleinberg, arXiv 2401.08519, §4.
    """
    sets = candidates.sets
    shared = edge_cliques(graph, cliques)
    degree = graph.degree.astype(np.float64)
    near = np.divide(graph.adjacency @ degree, degree, out=np.zeros_like(degree), where=degree > 0)

    def reduce(edges: Ints, starts: Ints, sizes: Ints) -> Floats:
        value = shared[edges]
        return np.stack([np.minimum.reduceat(value, starts) > 1, np.add.reduceat(value, starts) / sizes], axis=1)

    pairs = pair_weights(sets, graph, reduce, 2)
    columns = [
        ~candidates.maximal,
        sets.sizes,
        *pairs.T,
        node_means(sets, degree),
        node_means(sets, near),
        node_means(sets, cliques.degree),
        node_means(sets, graph.clustering),
        candidates.parents,
    ]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
