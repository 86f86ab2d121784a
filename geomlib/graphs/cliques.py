"""Maximal cliques as a stream, which sets lie in which cliques, and the builder that gives a graph its cliques."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from geomlib.data.graph import GraphData
from geomlib.data.hypergraphs import Hypergraph, ragged
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.errors import DataError
from geomlib.graphs.builder import Builder

__all__ = ["Cliques", "cliques_of", "degeneracy_order", "inclusions", "iter_maximal_cliques", "maximal_cliques"]

_PAIRS = 4_000_000
"""Pairs of a set and a clique that are compared at once."""


def degeneracy_order(graph: UndirectedGraph) -> Ints:
    """Nodes in an order in which each has at most `degeneracy` neighbours after it.

    Whole layers of nodes of degree ≤ k are taken off at once, k rising as needed, so the work is a few array
    operations a layer.
    """
    adjacency, degree = graph.adjacency, graph.degree.copy()
    alive = np.ones(graph.num_nodes, dtype=bool)
    layers: list[Ints] = []
    left, k = graph.num_nodes, 0
    layer = np.flatnonzero(degree <= 0)
    while left:
        if len(layer) == 0:
            k = int(degree[alive].min())
            layer = np.flatnonzero(alive & (degree <= k))
        layers.append(layer)
        alive[layer] = False
        left -= len(layer)
        begin = adjacency.indptr[layer].astype(np.int64)
        reached = adjacency.indices[ragged(begin, adjacency.indptr[layer + 1] - begin)].astype(np.int64)
        reached = reached[alive[reached]]
        np.subtract.at(degree, reached, 1)
        layer = np.unique(reached[degree[reached] <= k])
    return np.concatenate(layers) if layers else np.zeros(0, dtype=np.int64)


def iter_maximal_cliques(graph: UndirectedGraph) -> Iterator[list[int]]:
    """Every maximal clique once, as it is found; a node without edges is one.

    Bron and Kerbosch with pivots, started at every node among its neighbours later in the degeneracy order (P) with
    the earlier ones excluded (X). Sets of neighbours of one start are the bits of an integer, so a step costs a few
    machine words; memory is that of one start.

    Source: Eppstein, Löffler, Strash, arXiv 1006.5440.
    """
    order = degeneracy_order(graph)
    rank = np.empty(graph.num_nodes, dtype=np.int64)
    rank[order] = np.arange(graph.num_nodes)
    both = np.concatenate([graph.edges, graph.edges[:, ::-1]])
    # neighbours by rank, as lists of ranks
    rows = rank[both]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(rows[:, 0], minlength=graph.num_nodes))]).tolist()
    flat = rows[:, 1].tolist()
    near = [frozenset(flat[begin:end]) for begin, end in pairwise(ptr)]
    names = order.tolist()
    for start in range(graph.num_nodes):
        around = flat[ptr[start] : ptr[start + 1]]
        later = [node for node in around if node > start]
        if not later:
            if not around:
                yield [names[start]]
            continue
        earlier = around[: len(around) - len(later)]
        wanted = frozenset(later)
        if any(wanted <= near[node] for node in earlier):
            continue  # every clique that starts here grows by that node
        for clique in _from_start(later, earlier, near):
            clique.append(start)
            yield [names[node] for node in clique]


def _from_start(later: list[int], earlier: list[int], near: list[frozenset[int]]) -> Iterator[list[int]]:
    """Maximal cliques among the `later` neighbours that no `earlier` one extends."""
    local = {node: position for position, node in enumerate(later)}
    wanted = frozenset(later)
    every = (1 << len(later)) - 1
    masks = [0] * (len(later) + len(earlier))
    for position, node in enumerate(later):
        mask = 0
        for other in near[node] & wanted:
            mask |= 1 << local[other]
        masks[position] = mask
    # an earlier node is written as a bit beyond those of the later ones
    for position, node in enumerate(earlier, len(later)):
        mask = 0
        for other in near[node] & wanted:
            mask |= 1 << local[other]
            masks[local[other]] |= 1 << position
        masks[position] = mask
    stack = [(0, every, ((1 << len(earlier)) - 1) << len(later))]
    while stack:
        chosen, rest, excluded = stack.pop()
        if not rest:
            if not excluded:
                yield [later[position] for position in _bits(chosen)]
            continue
        size = rest.bit_count()
        pivot, best, worst, remaining = 0, -1, size, rest
        while remaining:
            low = remaining & -remaining
            remaining ^= low
            mask = masks[low.bit_length() - 1]
            degree = (rest & mask).bit_count()
            if degree > best:
                best, pivot = degree, mask
            if degree < worst:
                worst = degree
        remaining = excluded
        while remaining:
            low = remaining & -remaining
            remaining ^= low
            mask = masks[low.bit_length() - 1]
            degree = (rest & mask).bit_count()
            if degree > best:
                best, pivot = degree, mask
        if best == size:  # an excluded node extends everything from here
            continue
        if worst == size - 1:  # what is left is a clique
            yield [later[position] for position in _bits(chosen | rest)]
            continue
        todo = rest & ~pivot
        while todo:
            low = todo & -todo
            todo ^= low
            mask = masks[low.bit_length() - 1]
            stack.append((chosen | low, rest & mask, excluded & mask))
            rest ^= low
            excluded |= low


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        mask ^= low
        found.append(low.bit_length() - 1)
    return found


def maximal_cliques(graph: UndirectedGraph, limit: int = 20_000_000) -> Hypergraph:
    """All maximal cliques, in lexicographic order.

    Args:
        graph: simple and undirected.
        limit: give up beyond this many.

    Raises:
        DataError: there are more than `limit`.
    """
    sizes: list[int] = []
    pieces: list[Ints] = []
    members: list[int] = []
    for clique in iter_maximal_cliques(graph):
        sizes.append(len(clique))
        members += sorted(clique)
        if len(members) > 1_000_000:
            pieces.append(np.array(members, dtype=np.int64))
            members = []
        if len(sizes) > limit:
            raise DataError(f"the graph has more than {limit:,} maximal cliques: it is too dense to list them")
    pieces.append(np.array(members, dtype=np.int64))
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Hypergraph.from_rows(ptr, np.concatenate(pieces), graph.num_nodes, labels=graph.labels)


def inclusions(sets: Hypergraph, family: Hypergraph) -> tuple[Ints, Ints]:
    """All pairs (set, member of `family`) where the set lies in the member, ordered by set.

    From an inverted index: the members that hold the set's rarest node, then of those the ones that hold the next
    rarest, and so on.

    Args:
        sets: hyperedges or candidates.
        family: e.g. maximal cliques, on the same nodes.

    Returns: positions in `sets`, positions in `family`.
    """
    if len(family) == 0 or len(sets) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty
    nodes = max(sets.num_nodes, family.num_nodes)
    by_node = np.argsort(family.nodes, kind="stable")
    holders = family.owner[by_node]
    count = np.bincount(family.nodes, minlength=nodes)
    first = np.concatenate([[0], np.cumsum(count)])
    keys = family.owner * nodes + family.nodes  # ascending, since families are in order
    rarity = np.lexsort((count[sets.nodes], sets.owner))
    members = sets.nodes[rarity]
    work = count[members[sets.ptr[:-1]]]
    cuts = np.searchsorted(np.cumsum(work), np.arange(_PAIRS, int(work.sum()) + _PAIRS, _PAIRS))
    found: list[tuple[Ints, Ints]] = []
    begin = 0
    for end in (*(cuts + 1).tolist(), len(sets)):
        end = min(end, len(sets))
        if begin >= end:
            continue
        rows = np.arange(begin, end)
        rarest = members[sets.ptr[rows]]
        which = np.repeat(rows, work[rows])
        where = holders[ragged(first[rarest], count[rarest])]
        for depth in range(1, int(sets.sizes[begin:end].max())):
            open_ = sets.sizes[which] > depth
            if not open_.any():
                break
            keep = ~open_
            wanted = where[open_] * nodes + members[sets.ptr[which[open_]] + depth]
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            keep[open_] = keys[at] == wanted
            which, where = which[keep], where[keep]
        found.append((which, where))
        begin = end
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


@dataclass(frozen=True)
class Cliques(Builder):
    """Maximal cliques of an undirected graph.

    Args:
        limit: give up on a graph that has more.
    """

    kind: ClassVar[str] = "cliques"
    provides: ClassVar[tuple[str, ...]] = ("clique_index", "clique_size")

    limit: int = 20_000_000

    def build(self, graph: GraphData) -> None:
        """Set `clique_index` and `clique_size` from the edges of one graph.

        Raises:
            DataError: the graph is directed, has self-loops, or too many cliques.
        """
        cliques = maximal_cliques(UndirectedGraph.from_data(graph), self.limit)
        graph.clique_index = torch.from_numpy(np.stack([cliques.nodes, cliques.owner]))
        graph.clique_size = torch.from_numpy(cliques.sizes)


def cliques_of(graph: GraphData) -> Hypergraph:
    """The maximal cliques that the builder put into a graph."""
    nodes, owner = graph.clique_index.numpy()
    ptr = np.concatenate([[0], np.cumsum(graph.clique_size.numpy())])
    del owner
    return Hypergraph.from_rows(ptr, nodes, graph.num_nodes)
