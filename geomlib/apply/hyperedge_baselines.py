"""Reconstructions that learn nothing, or one number: cliques, covers, communities."""

from collections import Counter

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError
from geomlib.graphs.cliques import maximal_cliques
from geomlib.graphs.covers import clique_cover

__all__ = ["cfinder", "cfinder_fitted", "cfinder_sizes", "clique_cover", "demon", "max_cliques"]


def max_cliques(graph: UndirectedGraph) -> Hypergraph:
    """Every maximal clique; exact if no hyperedge is nested and no triangle of hyperedges is uncovered."""
    return maximal_cliques(graph)


def cfinder(graph: UndirectedGraph, k: int) -> Hypergraph:
    """Communities of k-clique percolation: unions of k-cliques linked by sharing k − 1 nodes.

    Two maximal cliques of at least k nodes belong together if they share at least k − 1.

    Raises:
        ConfigError: k below 2.

    Source: Palla et al., Nature 435, 814 (2005).
    """
    if k < 2:
        raise ConfigError(f"k is {k}; k-clique percolation needs at least 2")
    cliques = maximal_cliques(graph)
    cliques = cliques.take(cliques.sizes >= k)
    if len(cliques) == 0:
        return Hypergraph.from_sets([], graph.num_nodes, labels=graph.labels)
    overlap = (cliques.incidence @ cliques.incidence.T).tocsr()
    overlap.data = (overlap.data >= k - 1).astype(np.int32)
    overlap.eliminate_zeros()
    count, part = connected_components(overlap, directed=False)
    groups = sparse.csr_matrix((np.ones(len(part)), (part, np.arange(len(part)))), shape=(count, len(part)))
    union = (groups @ cliques.incidence).tocsr()
    union.sort_indices()
    return Hypergraph.from_rows(union.indptr, union.indices, graph.num_nodes, labels=graph.labels)


def cfinder_sizes(source: Hypergraph) -> list[int]:
    """Values of k to try: 1 + the whole part of the 0.1 … 0.5 quantiles of the source's hyperedge sizes."""
    return [int(np.quantile(source.sizes, q)) + 1 for q in (0.1, 0.2, 0.3, 0.4, 0.5)]


def cfinder_fitted(source: Hypergraph, graph: UndirectedGraph) -> Hypergraph:
    """CFinder with the k that gives the best Jaccard on the source; the larger one of equals."""
    projected = source.project()
    tried = sorted({max(k, 2) for k in cfinder_sizes(source)})
    scores = {k: agreement(source, cfinder(projected, k)).jaccard for k in tried}
    return cfinder(graph, max(tried, key=lambda k: (scores[k], k)))


def demon(
    graph: UndirectedGraph, epsilon: float = 1.0, smallest: int = 1, rounds: int = 10, seed: int = 0
) -> Hypergraph:
    """Communities by label propagation in the neighbourhoods of all nodes, merged where one nearly holds another.

    Args:
        graph: simple and undirected.
        epsilon: merge if the overlap is at least this share of the smaller one.
        smallest: keep communities of more than this many nodes.
        rounds: asynchronous rounds after the first one.
        seed: of labels and orders.

    Source: Coscia et al., DEMON, KDD 2012.
    """
    generator = np.random.default_rng(seed)
    adjacency = graph.adjacency
    ptr, flat = adjacency.indptr.tolist(), adjacency.indices.tolist()
    near = [set(flat[ptr[node] : ptr[node + 1]]) for node in range(graph.num_nodes)]
    communities: list[set[int]] = []
    for ego in range(graph.num_nodes):
        around = {node: sorted(near[node] & near[ego]) for node in sorted(near[ego])}
        for found in _propagate(around, rounds, generator):
            found.add(ego)
            if len(found) > smallest:
                _merge(communities, found, epsilon)
    return Hypergraph.from_sets(communities, graph.num_nodes, labels=graph.labels)


def _propagate(around: dict[int, list[int]], rounds: int, generator: np.random.Generator) -> list[set[int]]:
    """Overlapping communities of a small graph, one for each label; lonely nodes are their own."""
    labels = {node: [node] for node in around}
    linked = [node for node in around if around[node]]
    for step in range(rounds + 1):
        for position in generator.permutation(len(linked)).tolist():
            node = linked[position]
            if step == 0:
                labels[node] = labels[around[node][generator.integers(len(around[node]))]][:1]
                continue
            votes = Counter(label for other in around[node] for label in labels[other])
            most = max(votes.values())
            labels[node] = [label for label, count in votes.items() if count == most]
    groups: dict[int, set[int]] = {}
    for node in around:
        for label in labels[node]:
            groups.setdefault(label, set()).add(node)
    return list(groups.values())


def _merge(communities: list[set[int]], found: set[int], epsilon: float) -> None:
    for community in communities:
        if len(community & found) >= epsilon * min(len(community), len(found)):
            community |= found
            return
    communities.append(found)
