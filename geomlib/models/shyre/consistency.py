"""A choice of candidates whose projection is the graph again: every edge covered, at the best total log-odds."""

import heapq

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.models.shyre.statistics import Floats

__all__ = ["chosen_sets", "consistent_cover"]


def chosen_sets(
    graph: UndirectedGraph, sets: Hypergraph, chance: Floats, threshold: float, cover: bool = False
) -> np.ndarray:
    """Mask of the candidates that count as hyperedges.

    Args:
        graph: projected graph.
        sets: candidates.
        chance: probability of each.
        threshold: take those with more.
        cover: take more until every edge lies in one, see `consistent_cover`.
    """
    if cover and len(graph.edges):
        return consistent_cover(graph, sets, chance, min(max(threshold, 1e-6), 1 - 1e-6))
    return chance > threshold


def consistent_cover(graph: UndirectedGraph, sets: Hypergraph, chance: Floats, threshold: float = 0.5) -> np.ndarray:
    """Choose candidates S with Σ over S of [logit p − logit t] as large as can be, so that they cover every edge.

    All candidates above the threshold t are in S. The edges that they leave open are covered greedily by the set with
    the least cost per open edge (the cost of a set is how far its log-odds lie below those of t); then sets that
    became superfluous are dropped, the costliest first. The greedy choice is within a factor H(n) of the cheapest.

    Args:
        graph: every edge lies in a candidate, e.g. a maximal clique.
        sets: candidates, in lexicographic order.
        chance: probability of each.
        threshold: t.

    Returns: mask of the chosen candidates.
    """
    clipped = np.clip(chance, 1e-6, 1 - 1e-6)
    cost = np.log(threshold / (1 - threshold)) - np.log(clipped / (1 - clipped))
    chosen = chance > threshold
    edges_of: dict[int, list[int]] = {}
    covered = np.zeros(len(graph.edges), dtype=np.int64)

    def edges(position: int) -> list[int]:
        if position not in edges_of:
            row = sets.nodes[sets.ptr[position] : sets.ptr[position + 1]]
            first, second = np.triu_indices(len(row), 1)
            edges_of[position] = graph.edge_positions(row[first], row[second]).tolist()
        return edges_of[position]

    for position in np.flatnonzero(chosen).tolist():
        covered[edges(position)] += 1
    if (covered > 0).all():
        return chosen
    open_nodes = np.zeros(graph.num_nodes, dtype=bool)
    open_nodes[graph.edges[covered == 0].reshape(-1)] = True
    touching = np.add.reduceat(open_nodes[sets.nodes].astype(np.int64), sets.ptr[:-1]) >= 2
    heap: list[tuple[float, int, int]] = []
    for position in np.flatnonzero(touching & ~chosen).tolist():
        gain = int((covered[edges(position)] == 0).sum())
        if gain:
            heapq.heappush(heap, (cost[position] / gain, position, gain))
    added: list[int] = []
    left = int((covered == 0).sum())
    while left and heap:
        _, position, gain = heapq.heappop(heap)
        now = int((covered[edges(position)] == 0).sum())
        if now == 0:
            continue
        if now < gain:
            heapq.heappush(heap, (cost[position] / now, position, now))
            continue
        covered[edges(position)] += 1
        chosen[position] = True
        added.append(position)
        left -= now
    for position in sorted(added, key=lambda position: -cost[position]):
        if covered[edges(position)].min() > 1:
            covered[edges(position)] -= 1
            chosen[position] = False
    return chosen
