"""`UndirectedGraph`: edges as arrays, once each and in order, for algorithms on cliques; and its readers."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from geomlib.data.graph import GraphData
from geomlib.errors import DataError, FileFormatError

__all__ = ["Ints", "UndirectedGraph", "compact", "integer_rows", "read_graph"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class UndirectedGraph:
    """A simple undirected graph with nodes 0 … n − 1; nodes without edges are kept.

    Args:
        num_nodes: n.
        edges: `[edges, 2]`, each once with u < v, in lexicographic order.
        weight: `[edges]`, ω(u, v), the number of hyperedges that hold both ends, counted with repetition; None if
            not known.
        labels: `[n]`, what the nodes are called outside; None if just their numbers.
    """

    num_nodes: int
    edges: Ints
    weight: Ints | None = None
    labels: NDArray[Any] | None = None

    @classmethod
    def from_edges(
        cls,
        edges: Ints | Sequence[Sequence[int]],
        num_nodes: int | None = None,
        weight: Ints | Sequence[int] | None = None,
        labels: NDArray[Any] | None = None,
        where: str = "graph",
    ) -> Self:
        """A graph from pairs in any order and direction; a pair that occurs twice is one edge.

        Args:
            edges: `[pairs, 2]`.
            num_nodes: number of nodes; the largest end plus one if not given.
            weight: of each pair, positive whole numbers; repeated pairs must agree.
            labels: of the nodes.
            where: what to call the graph in messages.

        Raises:
            DataError: a self-loop, an end that is no node, a weight below 1 or contradicting weights.
        """
        pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
        nodes = int(pairs.max()) + 1 if num_nodes is None and len(pairs) else int(num_nodes or 0)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= nodes):
            raise DataError(f"{where}: an edge names node {pairs.max()}, but there are {nodes} nodes, counted from 0")
        if len(loops := np.flatnonzero(pairs[:, 0] == pairs[:, 1])):
            raise DataError(
                f"{where}: node {_name(labels, pairs[loops[0], 0])} has an edge to itself: a projected graph has no "
                "self-loops; remove them"
            )
        pairs = np.sort(pairs, axis=1)
        keys = pairs[:, 0] * nodes + pairs[:, 1]
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        chosen = None
        if weight is not None:
            given = np.asarray(weight)
            whole = given.astype(np.int64)
            if len(given) != len(pairs):
                raise DataError(f"{where}: {len(given)} weights for {len(pairs)} edges")
            if len(bad := np.flatnonzero((whole != given) | (whole < 1))):
                u, v = (_name(labels, node) for node in pairs[bad[0]])
                raise DataError(
                    f"{where}: edge {u}-{v} has weight {given[bad[0]]}: a weight is the number of hyperedges that "
                    "hold both ends, a whole number of at least 1"
                )
            chosen = whole[first]
            if len(odd := np.flatnonzero(whole != chosen[inverse])):
                u, v = (_name(labels, node) for node in pairs[odd[0]])
                raise DataError(f"{where}: edge {u}-{v} is given twice, with weights that differ: is it directed?")
        return cls(nodes, pairs[first], chosen, labels)

    @classmethod
    def from_data(cls, graph: GraphData, where: str = "graph") -> Self:
        """From `edge_index` of a graph or batch, which must hold every edge in both directions.

        Raises:
            DataError: it is directed, or what `from_edges` refuses.
        """
        ends = graph.edge_index.numpy().astype(np.int64)
        nodes = graph.num_nodes
        forward, backward = np.unique(ends[0] * nodes + ends[1]), np.unique(ends[1] * nodes + ends[0])
        if not np.array_equal(forward, backward):
            odd = int(np.setdiff1d(forward, backward)[0])
            raise DataError(
                f"{where}: the graph is directed: it has the edge {odd // nodes}→{odd % nodes} but not the way back; "
                "hyperedges are reconstructed from undirected graphs, so add the reversed edges"
            )
        weight = graph.edge_weight.numpy() if "edge_weight" in graph else None
        labels = graph.node_id.numpy() if "node_id" in graph else None
        return cls.from_edges(ends.T, nodes, weight, labels, where)

    def to_data(self) -> GraphData:
        """As `GraphData` with `node_id`, `edge_index` (both directions, sorted by centre) and perhaps `edge_weight`."""
        ends = np.concatenate([self.edges, self.edges[:, ::-1]])
        order = np.lexsort((ends[:, 0], ends[:, 1]))
        labels = np.arange(self.num_nodes) if self.labels is None else self.labels
        if labels.dtype.kind not in "iu":
            labels = np.arange(self.num_nodes)
        fields = {
            "node_id": torch.from_numpy(labels.astype(np.int64)),
            "edge_index": torch.from_numpy(np.ascontiguousarray(ends[order].T)),
        }
        if self.weight is not None:
            fields["edge_weight"] = torch.from_numpy(np.concatenate([self.weight] * 2)[order]).double()
        return GraphData(**fields)

    @cached_property
    def adjacency(self) -> sparse.csr_matrix:
        """Symmetric 0/1 matrix `[n, n]`, column indices ascending."""
        ends = np.concatenate([self.edges, self.edges[:, ::-1]])
        ones = np.ones(len(ends), dtype=np.int64)
        matrix = sparse.csr_matrix((ones, (ends[:, 0], ends[:, 1])), shape=(self.num_nodes, self.num_nodes))
        matrix.sort_indices()
        return matrix

    @cached_property
    def degree(self) -> Ints:
        """Number of neighbours of each node."""
        return np.bincount(self.edges.reshape(-1), minlength=self.num_nodes).astype(np.int64)

    @cached_property
    def keys(self) -> Ints:
        """u·n + v of each edge, ascending; see `edge_positions`."""
        return self.edges[:, 0] * self.num_nodes + self.edges[:, 1]

    def edge_positions(self, u: Ints, v: Ints) -> Ints:
        """Position in `edges` of pairs u < v that are edges."""
        return np.searchsorted(self.keys, u * self.num_nodes + v)

    @cached_property
    def triangles(self) -> Ints:
        """Number of triangles on each edge, `[edges]`."""
        adjacency = self.adjacency
        found = np.empty(len(self.edges), dtype=np.int64)
        for begin in range(0, len(self.edges), 100_000):  # rows of A[u] ∘ A[v], in pieces to bound the memory
            u, v = self.edges[begin : begin + 100_000].T
            found[begin : begin + 100_000] = adjacency[u].multiply(adjacency[v]).sum(axis=1).A1
        return found

    @cached_property
    def clustering(self) -> NDArray[np.float64]:
        """Local clustering coefficient of each node: triangles over pairs of neighbours; 0 below degree 2."""
        at_node = np.bincount(self.edges.reshape(-1), np.repeat(self.triangles, 2), minlength=self.num_nodes)
        pairs = self.degree * (self.degree - 1)
        return np.divide(at_node, pairs, out=np.zeros(self.num_nodes), where=pairs > 0)

    def __repr__(self) -> str:
        weighted = "" if self.weight is None else ", weighted"
        return f"UndirectedGraph({self.num_nodes} nodes, {len(self.edges)} edges{weighted})"


def _name(labels: NDArray[Any] | None, node: int) -> Any:
    return int(node) if labels is None else labels[node]


def compact(ids: Ints) -> tuple[NDArray[Any], Ints]:
    """Distinct ids, ascending, and for each id its position among them."""
    labels, position = np.unique(ids, return_inverse=True)
    return labels, position.reshape(-1).astype(np.int64)


def integer_rows(path: str | os.PathLike[str], what: str) -> Iterable[tuple[int, list[int]]]:
    """Line number and integers of every line that is neither empty nor a comment (`#`).

    Args:
        path: text file; blanks, tabs or commas between the numbers.
        what: what a line holds, for messages.

    Raises:
        FileFormatError: a word that is no integer, or no text.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                words = line.partition("#")[0].replace(",", " ").split()
                if not words:
                    continue
                try:
                    yield number, [int(word) for word in words]
                except ValueError:
                    odd = next(word for word in words if not word.lstrip("+-").isdecimal())
                    raise FileFormatError(
                        f"{path}, line {number}: '{odd}' is no integer; expected {what}, blanks between them"
                    ) from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: is no text file; expected lines of {what}") from None


def read_graph(path: str | os.PathLike[str]) -> UndirectedGraph:
    """Read an edge list: `u v` a line, or `u v ω` with the number of hyperedges that hold both; `u` alone is a node.

    Node ids are integers, renumbered from 0 in ascending order; `labels` keeps them.

    Raises:
        FileFormatError: a line that is none of these; the message names file and line.
        DataError: self-loops, or weights that are no counts.
    """
    ends: list[list[int]] = []
    weights: list[int] = []
    lonely: list[int] = []
    for number, row in integer_rows(path, "'u v' or 'u v weight'"):
        if len(row) == 1:
            lonely += row
            continue
        if len(row) > 3:
            raise FileFormatError(
                f"{path}, line {number}: {len(row)} numbers; expected 'u v' or 'u v weight' (a list of hyperedges?)"
            )
        if row[0] == row[1]:
            raise DataError(f"{path}, line {number}: node {row[0]} has an edge to itself; remove self-loops")
        if len(row) == 3 and row[2] < 1:
            raise DataError(f"{path}, line {number}: weight {row[2]}; expected a count of hyperedges, at least 1")
        if ends and (len(row) == 3) != bool(weights):
            raise FileFormatError(f"{path}, line {number}: some lines have a weight and others not")
        ends.append(row[:2])
        weights += row[2:]
    flat = np.array([*(node for pair in ends for node in pair), *lonely], dtype=np.int64)
    labels, position = compact(flat)
    pairs = position[: 2 * len(ends)].reshape(-1, 2)
    return UndirectedGraph.from_edges(pairs, len(labels), np.array(weights) if weights else None, labels, str(path))
