"""Sums of outer products over the edges of a node."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Neighborhoods", "outer_sum"]

_CHUNK = 200_000
"""Numbers of a chunk of features: it has to fit into the processor's cache."""
_DEVICE_CHUNK = 2**27
"""The same for other devices: it has to fit into what their memory has left (not measured)."""


@dataclass(frozen=True)
class Neighborhoods:
    """Edges by their centre.

    Attributes:
        center: node of each edge, ascending.
        neighbor: its other node.
        nodes: number of nodes that are centres.
        neighbors: number of nodes that are neighbours.
    """

    center: Int[Tensor, " edges"]
    neighbor: Int[Tensor, " edges"]
    nodes: int
    neighbors: int

    @cached_property
    def _chunks(self) -> dict[int, list["_Chunk"]]:
        return {}

    def chunks(self, width: int) -> list["_Chunk"]:
        """Groups of nodes whose edges, as a padded array of features of `width` numbers, are small."""
        if width not in self._chunks:
            self._chunks[width] = self._cut(width)
        return self._chunks[width]

    def _cut(self, width: int) -> list["_Chunk"]:
        edges = self.center.shape[0]
        if edges == 0:
            return []
        numbers = _CHUNK * torch.get_num_threads() if self.center.device.type == "cpu" else _DEVICE_CHUNK
        size = max(1, numbers * self.nodes // (edges * width))
        degree = torch.bincount(self.center, minlength=self.nodes)
        ends = [0, *degree.cumsum(0).tolist()]
        chunks = []
        for start in range(0, self.nodes, size):
            stop = min(start + size, self.nodes)
            if ends[stop] > ends[start]:
                chunks.append(_Chunk(self, degree[start:stop], start, ends[start], ends[stop]))
        return chunks


class _Chunk:
    """Some nodes with their edges in padded rows: the k-th edge of a node is in column k."""

    def __init__(self, graph: Neighborhoods, degree: Tensor, start: int, first: int, last: int) -> None:
        nodes, columns = len(degree), int(degree.max())
        self.nodes, self.edges = slice(start, start + nodes), slice(first, last)
        self.shape = (nodes, columns)
        self.neighbor = graph.neighbor[first:last]
        center = graph.center[first:last] - start
        rank = torch.arange(last - first, device=center.device) - (degree.cumsum(0) - degree).index_select(0, center)
        self.place = center * columns + rank
        # an edge for every place: where there is none, any, for the vector there is zero
        self.edge = torch.zeros(nodes * columns, dtype=torch.int64, device=center.device)
        self.edge.index_copy_(0, self.place, torch.arange(last - first, device=center.device))
        self.neighbor_of_place = self.neighbor.index_select(0, self.edge)

    def vectors(self, vector: Tensor) -> Tensor:
        """[nodes, columns, axes] of the edges' vectors; zero where there is no edge."""
        n, k = self.shape
        padded = vector.new_zeros(n * k, vector.shape[1])
        return padded.index_copy_(0, self.place, vector[self.edges]).view(n, k, -1)

    def features(self, feature: Tensor, *, of_neighbors: bool) -> Tensor:
        """[nodes, columns, dim] of the edges' features; anything where there is no edge."""
        if of_neighbors:
            return feature.index_select(0, self.neighbor_of_place).view(*self.shape, -1)
        return feature[self.edges].index_select(0, self.edge).view(*self.shape, -1)

    def of_edges(self, values: Tensor) -> Tensor:
        """Rows of the edges out of [nodes, columns, …]."""
        return values.flatten(0, 1).index_select(0, self.place)


def outer_sum(
    vector: Float[Tensor, "edges axes"],
    feature: Float[Tensor, "rows dim"],
    graph: Neighborhoods,
    *,
    of_neighbors: bool,
) -> Float[Tensor, "nodes axes dim"]:
    """H[i] = Σ over edges of i of vector ⊗ feature, without ever holding the outer products.

    A matrix product for each node, in chunks that stay in the processor's cache. Can be differentiated any number of
    times.

    Args:
        vector: of each edge.
        feature: of each edge, or of each node.
        graph: which edges a node has.
        of_neighbors: whether the features are those of the neighbours.
    """
    return _Contraction.apply(graph, of_neighbors, 0, vector, feature)


class _Contraction(torch.autograd.Function):
    """Derivative of Σ H[i, x, c] v[e, x] f[e, c] with respect to one of H (0), v (1), f (2), given the other two.

    The derivatives of each of the three are the other two, with the incoming gradient in its place.
    """

    @staticmethod
    def forward(graph: Neighborhoods, of_neighbors: bool, which: int, first: Tensor, second: Tensor) -> Tensor:
        if which == 0:
            vector, feature = first, second
            out = vector.new_zeros(graph.nodes, vector.shape[1], feature.shape[1])
            for chunk in graph.chunks(feature.shape[1]):
                padded = chunk.features(feature, of_neighbors=of_neighbors)
                torch.bmm(chunk.vectors(vector).mT, padded, out=out[chunk.nodes])
        elif which == 1:
            moment, feature = first, second
            out = moment.new_empty(graph.center.shape[0], moment.shape[1])
            for chunk in graph.chunks(feature.shape[1]):
                padded = chunk.features(feature, of_neighbors=of_neighbors)
                out[chunk.edges] = chunk.of_edges(torch.bmm(padded, moment[chunk.nodes].mT))
        else:
            moment, vector = first, second
            out = moment.new_zeros(graph.neighbors if of_neighbors else graph.center.shape[0], moment.shape[2])
            for chunk in graph.chunks(moment.shape[2]):
                value = torch.bmm(chunk.vectors(vector), moment[chunk.nodes])
                if of_neighbors:
                    # zero where there is no edge
                    out.index_add_(0, chunk.neighbor_of_place, value.flatten(0, 1))
                else:
                    torch.index_select(value.flatten(0, 1), 0, chunk.place, out=out[chunk.edges])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.graph, ctx.of_neighbors, ctx.which, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.saved_tensors
        everything = {0: (grad, first, second), 1: (first, grad, second), 2: (first, second, grad)}[ctx.which]
        grads: list[Tensor | None] = [None, None]
        for position, argument in enumerate([k for k in range(3) if k != ctx.which]):
            if ctx.needs_input_grad[3 + position]:
                others = [value for k, value in enumerate(everything) if k != argument]
                grads[position] = _Contraction.apply(ctx.graph, ctx.of_neighbors, argument, *others)
        return None, None, None, *grads
