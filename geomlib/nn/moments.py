"""Sums of outer products over the edges of a node."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["outer_sum"]

_CHUNK = 200_000
"""Numbers of a chunk of outer products: it has to fit into the processor's cache."""


def outer_sum(
    vector: Float[Tensor, "edges axes"],
    feature: Float[Tensor, "rows dim"],
    center: Int[Tensor, " edges"],
    row: Int[Tensor, " edges"] | None,
    nodes: int,
) -> Float[Tensor, "nodes axes dim"]:
    """H[i] = Σ over edges of i of vector ⊗ feature, without ever holding the outer products of all edges.

    Can be differentiated any number of times.

    Args:
        vector: of each edge.
        feature: of each edge, or of what `row` names.
        center: node i of each edge.
        row: row of `feature` that belongs to each edge; None if these are the edges themselves.
        nodes: number of nodes.
    """
    index = _Index(center, row, nodes, len(feature))
    return _Contraction.apply(index, 0, vector, feature)


class _Index:
    def __init__(self, center: Tensor, row: Tensor | None, nodes: int, rows: int) -> None:
        self.center, self.row, self.nodes, self.rows = center, row, nodes, rows


class _Contraction(torch.autograd.Function):
    """Derivative of Σ H[i, x, c] v[e, x] f[e, c] with respect to one of H (0), v (1), f (2), given the other two.

    The derivatives of each of the three are the other two, with the incoming gradient in its place.
    """

    @staticmethod
    def forward(index: _Index, which: int, first: Tensor, second: Tensor) -> Tensor:
        edges, axes, dim = len(index.center), (first if which == 0 else second).shape[-1], second.shape[-1]
        if which == 0:
            axes = first.shape[1]
            out = second.new_zeros(index.nodes, axes, dim)
        elif which == 1:
            axes = first.shape[1]
            out = second.new_empty(edges, axes)
        else:
            axes, dim = first.shape[1:]
            out = first.new_empty(edges, dim) if index.row is None else first.new_zeros(index.rows, dim)
        size = max(1, _CHUNK * torch.get_num_threads() // (axes * dim))
        for start in range(0, edges, size):
            rows = slice(start, min(start + size, edges))
            center = index.center[rows]
            feature = None
            if which < 2:
                feature = second[rows] if index.row is None else second.index_select(0, index.row[rows])
            if which == 0:
                out.index_add_(0, center, first[rows].unsqueeze(2) * feature.unsqueeze(1))
                continue
            moment = first.index_select(0, center)
            if which == 1:
                torch.sum(moment.mul_(feature.unsqueeze(1)), 2, out=out[rows])
            else:
                value = moment.mul_(second[rows].unsqueeze(2)).sum(1)
                if index.row is None:
                    out[rows] = value
                else:
                    out.index_add_(0, index.row[rows], value)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.index, ctx.which, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.saved_tensors
        grads: list[Tensor | None] = [None, None]
        all_three = {0: (grad, first, second), 1: (first, grad, second), 2: (first, second, grad)}[ctx.which]
        for position, argument in enumerate([k for k in range(3) if k != ctx.which]):
            if ctx.needs_input_grad[2 + position]:
                others = [value for k, value in enumerate(all_three) if k != argument]
                grads[position] = _Contraction.apply(ctx.index, argument, *others)
        return None, None, *grads
