"""Sums of outer products over the edges of a node."""

from collections.abc import Iterator
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
    def degree(self) -> Int[Tensor, " nodes"]:
        """Number of edges of each node."""
        return torch.bincount(self.center, minlength=self.nodes)

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *self.degree.cumsum(0).tolist()]

    def chunks(self, width: int) -> Iterator["_Chunk"]:
        """Groups of nodes whose edges, as a padded array of features of `width` numbers, are small."""
        edges, start = self._ends[-1], 0
        if edges == 0:
            return
        numbers = _CHUNK * torch.get_num_threads() if self.center.device.type == "cpu" else _DEVICE_CHUNK
        size = max(1, numbers * self.nodes // (edges * width))
        for start in range(0, self.nodes, size):
            stop = min(start + size, self.nodes)
            yield _Chunk(self, start, stop, self._ends[start], self._ends[stop])


class _Chunk:
    """Some nodes with their edges in padded rows: the k-th edge of a node is in column k."""

    def __init__(self, graph: Neighborhoods, start: int, stop: int, first: int, last: int) -> None:
        degree = graph.degree[start:stop]
        self.nodes, self.edges = slice(start, stop), slice(first, last)
        self.shape = (stop - start, int(degree.max()) if last > first else 0)
        center = graph.center[first:last]
        rank = torch.arange(first, last, device=center.device)
        rank -= (degree.cumsum(0) - degree).index_select(0, center - start) + first
        self.place = (center - start) * self.shape[1] + rank
        self.neighbor = graph.neighbor[first:last]

    def pad(self, values: Tensor) -> Tensor:
        """[nodes, columns, dim] of the edges' values; zero where there is no edge."""
        n, k = self.shape
        return values.new_zeros(n * k, values.shape[1]).index_copy_(0, self.place, values).view(n, k, -1)

    def unpad(self, values: Tensor) -> Tensor:
        """Inverse of `pad`."""
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
        edges = len(graph.center)
        if which == 0:
            vector, feature = first, second
            out = vector.new_zeros(graph.nodes, vector.shape[1], feature.shape[1])
            for chunk in graph.chunks(feature.shape[1]):
                padded = chunk.pad(_features(feature, chunk, of_neighbors))
                out[chunk.nodes] = torch.bmm(chunk.pad(vector[chunk.edges]).mT, padded)
        elif which == 1:
            moment, feature = first, second
            out = moment.new_empty(edges, moment.shape[1])
            for chunk in graph.chunks(feature.shape[1]):
                padded = chunk.pad(_features(feature, chunk, of_neighbors))
                out[chunk.edges] = chunk.unpad(torch.bmm(moment[chunk.nodes], padded.mT).mT)
        else:
            moment, vector = first, second
            out = moment.new_zeros(graph.neighbors if of_neighbors else edges, moment.shape[2])
            for chunk in graph.chunks(moment.shape[2]):
                value = chunk.unpad(torch.bmm(chunk.pad(vector[chunk.edges]), moment[chunk.nodes]))
                if of_neighbors:
                    out.index_add_(0, chunk.neighbor, value)
                else:
                    out[chunk.edges] = value
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


def _features(feature: Tensor, chunk: _Chunk, of_neighbors: bool) -> Tensor:
    return feature.index_select(0, chunk.neighbor) if of_neighbors else feature[chunk.edges]
