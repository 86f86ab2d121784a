"""`Hypergraph`: families of node sets as compressed rows, their projection, and the reader of hyperedge lists."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from geomlib.data.graph import GraphData
from geomlib.data.undirected import Ints, UndirectedGraph, compact, integer_rows
from geomlib.errors import DataError

__all__ = ["Hypergraph", "attach", "ragged", "read_hyperedges"]


@dataclass(frozen=True)
class Hypergraph:
    """A set of distinct, non-empty node sets with multiplicities, in lexicographic order of the sorted sets.

    Families of cliques and candidates are kept the same way. All constructors below sort, merge and check; the plain
    one does not.

    Args:
        num_nodes: nodes are 0 … num_nodes − 1; some may be in no hyperedge.
        ptr: `[hyperedges + 1]`; hyperedge e holds `nodes[ptr[e]:ptr[e + 1]]`.
        nodes: `[members]`, ascending within a hyperedge.
        multiplicity: `[hyperedges]`, at least 1.
        labels: `[num_nodes]`, what the nodes are called outside; None if just their numbers.
    """

    num_nodes: int
    ptr: Ints
    nodes: Ints
    multiplicity: Ints
    labels: NDArray[Any] | None = None

    @classmethod
    def from_sets(
        cls,
        sets: Iterable[Iterable[int]],
        num_nodes: int | None = None,
        multiplicity: Sequence[int] | Ints | None = None,
        labels: NDArray[Any] | None = None,
    ) -> Self:
        """From iterables of node numbers; ids that repeat within a set count once, equal sets are merged.

        Raises:
            DataError: an empty set or a node number out of range.
        """
        rows = [np.unique(np.fromiter(row, dtype=np.int64)) for row in sets]
        if empty := [position for position, row in enumerate(rows) if len(row) == 0]:
            raise DataError(f"hyperedge {empty[0]} is empty; a hyperedge holds at least one node")
        nodes = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        ptr = _ptr(np.array([len(row) for row in rows], dtype=np.int64))
        return cls.from_rows(ptr, nodes, num_nodes, multiplicity, labels)

    @classmethod
    def from_rows(
        cls,
        ptr: Ints,
        nodes: Ints,
        num_nodes: int | None = None,
        multiplicity: Sequence[int] | Ints | None = None,
        labels: NDArray[Any] | None = None,
    ) -> Self:
        """From compressed rows whose nodes ascend without repetition; sorts the rows and merges equal ones.

        Raises:
            DataError: a node number out of range, or a multiplicity below 1.
        """
        ptr, nodes = np.asarray(ptr, dtype=np.int64), np.asarray(nodes, dtype=np.int64)
        largest = int(nodes.max()) if len(nodes) else -1
        count = largest + 1 if num_nodes is None else num_nodes
        if largest >= count or (len(nodes) and nodes.min() < 0):
            raise DataError(f"a hyperedge names node {largest}, but there are {count} nodes, counted from 0")
        times = np.ones(len(ptr) - 1, dtype=np.int64) if multiplicity is None else np.asarray(multiplicity, np.int64)
        if len(times) and times.min() < 1:
            raise DataError(f"multiplicity {times.min()} of hyperedge {int(times.argmin())}: expected at least 1")
        order, same = _sorted_rows(ptr, nodes)
        starts = np.flatnonzero(~same)
        merged = np.add.reduceat(times[order], starts) if len(starts) else times
        chosen = order[starts]
        sizes = np.diff(ptr)[chosen]
        return cls(count, _ptr(sizes), nodes[ragged(ptr[chosen], sizes)], merged, labels)

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        nodes, ptr = self.nodes.tolist(), self.ptr.tolist()
        for begin, end in pairwise(ptr):
            yield tuple(nodes[begin:end])

    def __repr__(self) -> str:
        return f"Hypergraph({self.num_nodes} nodes, {len(self)} hyperedges)"

    @cached_property
    def sizes(self) -> Ints:
        """Number of nodes of each hyperedge."""
        return np.diff(self.ptr)

    @cached_property
    def owner(self) -> Ints:
        """Hyperedge of each entry of `nodes`."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def degree(self) -> Ints:
        """Number of distinct hyperedges that hold each node."""
        return np.bincount(self.nodes, minlength=self.num_nodes).astype(np.int64)

    @cached_property
    def incidence(self) -> sparse.csr_matrix:
        """0/1 matrix `[hyperedges, num_nodes]` in int32."""
        ones = np.ones(len(self.nodes), dtype=np.int32)
        return sparse.csr_matrix((ones, self.nodes, self.ptr), shape=(len(self), self.num_nodes))

    @cached_property
    def fingerprints(self) -> NDArray[np.uint64]:
        """A 64-bit hash of each set, the same in every process; equal sets have equal ones."""
        return _fingerprints(self.ptr, self.nodes)

    def take(self, chosen: NDArray[Any]) -> Self:
        """The hyperedges at these ascending positions, or where a mask is true."""
        where = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        sizes = self.sizes[where]
        nodes = self.nodes[ragged(self.ptr[where], sizes)]
        return type(self)(self.num_nodes, _ptr(sizes), nodes, self.multiplicity[where], self.labels)

    def positions(self, other: "Hypergraph") -> Ints:
        """For each hyperedge of `other` where it stands here, −1 if nowhere."""
        if len(self) == 0 or len(other) == 0:
            return np.full(len(other), -1, dtype=np.int64)
        order = np.argsort(self.fingerprints, kind="stable")
        mine = self.fingerprints[order]
        at = np.minimum(np.searchsorted(mine, other.fingerprints), len(mine) - 1)
        found = np.where(mine[at] == other.fingerprints, order[at], -1)
        hits = np.flatnonzero(found >= 0)
        if self._differ(other, found[hits], hits) or len(np.unique(mine)) < len(mine):
            where = {row: position for position, row in enumerate(self)}  # two sets share a hash: look them up
            return np.array([where.get(row, -1) for row in other], dtype=np.int64)
        return found

    def _differ(self, other: "Hypergraph", here: Ints, there: Ints) -> bool:
        sizes = self.sizes[here]
        if not np.array_equal(sizes, other.sizes[there]):
            return True
        return not np.array_equal(
            self.nodes[ragged(self.ptr[here], sizes)], other.nodes[ragged(other.ptr[there], sizes)]
        )

    def contains(self, other: "Hypergraph") -> NDArray[np.bool_]:
        """For each hyperedge of `other` whether it is one here."""
        return self.positions(other) >= 0

    def union(self, *others: "Hypergraph") -> "Hypergraph":
        """All distinct hyperedges; multiplicities add up."""
        family = (self, *others)
        sizes = np.concatenate([each.sizes for each in family])
        nodes = np.concatenate([each.nodes for each in family])
        times = np.concatenate([each.multiplicity for each in family])
        return Hypergraph.from_rows(_ptr(sizes), nodes, max(each.num_nodes for each in family), times, self.labels)

    def project(self, weighted: bool = False) -> UndirectedGraph:
        """The graph with an edge wherever two nodes share a hyperedge; every node stays, edges or not.

        Args:
            weighted: also count, with multiplicity, the hyperedges that hold both ends.
        """
        incidence = self.incidence.astype(np.int64)
        scaled = incidence.multiply(self.multiplicity[:, None]).tocsr() if weighted else incidence
        shared = sparse.triu(incidence.T @ scaled, k=1).tocsr()
        shared.sort_indices()
        upper = shared.tocoo()
        edges = np.stack([upper.row, upper.col], axis=1).astype(np.int64)
        return UndirectedGraph(self.num_nodes, edges, upper.data.astype(np.int64) if weighted else None, self.labels)

    def simple(self) -> Self:
        """The same hyperedges, each once."""
        return replace(self, multiplicity=np.ones(len(self), dtype=np.int64))

    def sample(self, fraction: float, seed: int = 0) -> "Hypergraph":
        """A random share of the hyperedges on the nodes that they hold: what the semi-supervised setting knows.

        Args:
            fraction: of the distinct hyperedges, above 0; at least one is taken.
            seed: of the draw.

        Raises:
            DataError: a fraction outside (0, 1].
        """
        if not 0 < fraction <= 1:
            raise DataError(f"fraction {fraction}: expected a share of the hyperedges, above 0 and at most 1")
        count = max(1, round(fraction * len(self)))
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), size=min(count, len(self)), replace=False))
        return self.take(chosen).compacted()

    def compacted(self) -> "Hypergraph":
        """Without the nodes that are in no hyperedge; the rest keep their order and labels."""
        kept, nodes = compact(self.nodes)
        labels = kept if self.labels is None else self.labels[kept]
        return Hypergraph(len(kept), self.ptr, nodes, self.multiplicity, labels)

    def relabelled(self, order: Ints) -> "Hypergraph":
        """With node v called order[v]; the labels move along."""
        sizes = self.sizes
        moved = np.asarray(order)[self.nodes]
        moved = moved[np.lexsort((moved, self.owner))]
        labels = None
        if self.labels is not None:
            labels = np.empty_like(self.labels)
            labels[order] = self.labels
        return Hypergraph.from_rows(_ptr(sizes), moved, self.num_nodes, self.multiplicity, labels)

    def to_data(self, weighted: bool = False) -> GraphData:
        """The projected graph as `GraphData`, labelled with `hyperedge_index` and `multiplicity`."""
        return attach(self.project(weighted).to_data(), self)

    @classmethod
    def from_data(cls, graph: GraphData) -> "Hypergraph":
        """Inverse of `to_data` for a graph or batch that carries `hyperedge_index`.

        Raises:
            DataError: it carries none.
        """
        if "hyperedge_index" not in graph:
            raise DataError("the graph carries no hyperedges ('hyperedge_index')")
        nodes, owner = graph.hyperedge_index.numpy().astype(np.int64)
        order = np.lexsort((nodes, owner))
        times = graph.multiplicity.numpy()
        sizes = np.bincount(owner, minlength=len(times))
        labels = graph.node_id.numpy() if "node_id" in graph else None
        return cls.from_rows(_ptr(sizes), nodes[order], graph.num_nodes, times, labels)


def attach(graph: GraphData, hypergraph: Hypergraph) -> GraphData:
    """Label a graph with hyperedges, all that it has or some: sets `hyperedge_index` and `multiplicity`.

    Raises:
        DataError: hyperedges on another number of nodes.
    """
    if graph.num_nodes != hypergraph.num_nodes:
        raise DataError(f"the hyperedges are on {hypergraph.num_nodes} nodes, the graph has {graph.num_nodes}")
    graph.hyperedge_index = torch.from_numpy(np.stack([hypergraph.nodes, hypergraph.owner]))
    graph.multiplicity = torch.from_numpy(hypergraph.multiplicity.copy())
    return graph


def ragged(begin: Ints, sizes: Ints) -> Ints:
    """Positions begin[0] … begin[0] + sizes[0] − 1, begin[1] …: the entries of the rows that begin there."""
    total = int(sizes.sum())
    first = np.cumsum(sizes) - sizes
    return np.arange(total, dtype=np.int64) - np.repeat(first - begin, sizes)


def _ptr(sizes: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])


def _fingerprints(ptr: Ints, nodes: Ints) -> NDArray[np.uint64]:
    """Sum over the set of the splitmix64 of each node."""
    with np.errstate(over="ignore"):
        x = (nodes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
        return np.add.reduceat(x, ptr[:-1]) if len(ptr) > 1 else np.zeros(0, dtype=np.uint64)


def _sorted_rows(ptr: Ints, nodes: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Lexicographic order of rows, and for each in that order whether it equals the one before."""
    sizes = np.diff(ptr)
    if len(sizes) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    order = np.zeros(0, dtype=np.int64)
    for column in range(int(sizes.max()) - 1, -1, -1):  # stable sorts, last column first; rows that end come in front
        order = np.concatenate([np.flatnonzero(sizes == column + 1), order])
        order = order[np.argsort(nodes[ptr[order] + column], kind="stable")]
    same = np.zeros(len(sizes), dtype=bool)
    previous, here = order[:-1], order[1:]
    alike = np.flatnonzero(sizes[previous] == sizes[here])
    a, b, counts = previous[alike], here[alike], sizes[here[alike]]
    equal = nodes[ragged(ptr[a], counts)] == nodes[ragged(ptr[b], counts)]
    if len(counts):
        same[alike + 1] = np.logical_and.reduceat(equal, np.cumsum(counts) - counts)
    return order, same


def read_hyperedges(path: str | os.PathLike[str]) -> Hypergraph:
    """Read one hyperedge a line: integer node ids, blanks between them.

    Ids that repeat in a line count once; lines that repeat are one hyperedge with that multiplicity. Ids are
    renumbered from 0 in ascending order; `labels` keeps them. Empty lines and what follows `#` are skipped.

    Raises:
        FileFormatError: a word that is no integer; the message names file and line.
        DataError: the file holds no hyperedge.
    """
    rows = [row for _, row in integer_rows(path, "node ids")]
    if not rows:
        raise DataError(f"{os.fspath(path)}: holds no hyperedge; expected one a line, node ids separated by blanks")
    labels, position = compact(np.array([node for row in rows for node in row], dtype=np.int64))
    ends = np.cumsum([len(row) for row in rows])
    return Hypergraph.from_sets(np.split(position, ends[:-1]), len(labels), labels=labels)
