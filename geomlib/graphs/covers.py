"""Greedy edge clique covers: few cliques that together hold every edge."""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError

__all__ = ["clique_cover", "cover_frequency"]


def clique_cover(
    graph: UndirectedGraph, order: Literal["random", "smallest", "largest"] = "random", seed: int = 0
) -> Hypergraph:
    """A greedy cover of all edges by cliques.

    Take an edge (u, v) that is not covered yet, let R = {u, v}, and add to R the common neighbour with most uncovered
    edges into R for as long as there is one with any. Nodes without edges are in no clique.

    Args:
        graph: simple and undirected.
        order: which uncovered edge comes next; ties in growing go to the smallest node, or by a random ranking of
            the nodes where the order is random.
        seed: of the random order.

    Raises:
        ConfigError: an unknown order.
    """
    nodes, edges = graph.num_nodes, graph.edges
    rank = np.arange(nodes)
    if order == "random":
        generator = np.random.default_rng(seed)
        queue = edges[generator.permutation(len(edges))]
        rank = generator.permutation(nodes)
    elif order in ("smallest", "largest"):
        queue = edges if order == "smallest" else edges[::-1]
    else:
        raise ConfigError(f"order '{order}': expected random, smallest or largest")
    adjacency = graph.adjacency
    ptr, flat = adjacency.indptr.tolist(), adjacency.indices.tolist()
    near = [set(flat[ptr[node] : ptr[node + 1]]) for node in range(nodes)]
    uncovered = [set(row) for row in near]
    priority = rank.tolist()
    found: list[list[int]] = []
    for u, v in queue.tolist():
        if v not in uncovered[u]:
            continue
        clique = [u, v]
        gain = {z: (u in uncovered[z]) + (v in uncovered[z]) for z in near[u] & near[v]}
        while gain:
            best = max(gain, key=lambda z: (gain[z], -priority[z]))
            if gain[best] == 0:
                break
            clique.append(best)
            around, fresh = near[best], uncovered[best]
            gain = {z: value + (z in fresh) for z, value in gain.items() if z in around}
        for node in clique:
            uncovered[node].difference_update(clique)
        found.append(clique)
    return Hypergraph.from_sets(found, nodes, labels=graph.labels)


def cover_frequency(sets: Hypergraph, covers: Iterable[Hypergraph]) -> np.ndarray:
    """In what share of the covers each set stands, `[sets]`."""
    total, hits = 0, np.zeros(len(sets))
    for cover in covers:
        hits += cover.contains(sets)
        total += 1
    return hits / max(total, 1)
