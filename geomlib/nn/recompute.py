"""Functions that are evaluated piece by piece, and again for their derivatives instead of being remembered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from geomlib.nn.scope import DerivativeScope, derivative_scope

__all__ = ["Piece", "Rows", "piecewise"]

Rows: TypeAlias = slice | Tensor | None
"""Rows of a tensor that a piece sees: consecutive ones that no other piece sees, positions of any, or all of them."""


@dataclass(frozen=True)
class Piece:
    """Part of the work.

    Attributes:
        constants: what the function is told about the piece besides tensors.
        inputs: rows of each input. Slices of one input cover it in the order of the pieces.
        outputs: where the rows of each output go; they cover it in the order of the pieces.
    """

    constants: Any
    inputs: tuple[Rows, ...]
    outputs: tuple[slice, ...]


Function: TypeAlias = Callable[..., tuple[Tensor, ...]]


def piecewise(function: Function, pieces: Sequence[Piece], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Evaluate `function(constants, *inputs)` on the rows of each piece and lay the outputs below each other.

    Nothing between inputs and outputs is kept: the first and the second derivative evaluate each piece again. So a
    piece is all that is ever in work, and one that fits into the processor's cache is also the fastest. Derivatives
    of the third order are refused.

    Args:
        function: of one piece, independent of all others. All tensors it uses that may need a gradient are inputs.
        pieces: at least one.
        inputs: tensors of which a piece sees rows; those that it sees whole are made of parameters alone.
    """
    return _Piecewise.apply(function, tuple(pieces), derivative_scope(), *inputs)


def _take(tensor: Tensor, rows: Rows) -> Tensor:
    if rows is None:
        return tensor
    return tensor[rows] if isinstance(rows, slice) else tensor.index_select(0, rows)


def _leaves(piece: Piece, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    """Inputs of a piece, cut off from where they come from."""
    rows = zip(tensors, piece.inputs, wanted, strict=True)
    return [_take(tensor, where).detach().requires_grad_(want) for tensor, where, want in rows]


class _Sums:
    """What the pieces add to tensors: rows that one piece alone sees are set, all others summed up."""

    def __init__(self, tensors: Sequence[Tensor], rows: Sequence[Rows], wanted: Sequence[bool]) -> None:
        self.totals = [
            (torch.empty_like(tensor) if isinstance(where, slice) else torch.zeros_like(tensor)) if want else None
            for tensor, where, want in zip(tensors, rows, wanted, strict=True)
        ]

    def add(self, position: int, where: Rows, value: Tensor | None) -> None:
        total = self.totals[position]
        if total is None:
            return
        if isinstance(where, slice):
            total[where] = 0.0 if value is None else value
        elif value is not None:
            if where is None:
                total.add_(value)
            else:
                total.index_add_(0, where, value)


class _Piecewise(torch.autograd.Function):
    @staticmethod
    def forward(
        function: Function, pieces: tuple[Piece, ...], scope: DerivativeScope, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        results: list[Tensor] = []
        for piece in pieces:
            rows = zip(tensors, piece.inputs, strict=True)
            outputs = function(piece.constants, *(_take(tensor, where) for tensor, where in rows))
            if not results:
                ends = [where.stop for where in pieces[-1].outputs]
                results = [out.new_empty(end, *out.shape[1:]) for out, end in zip(outputs, ends, strict=True)]
            for result, out, where in zip(results, outputs, piece.outputs, strict=True):
                result[where] = out
        return tuple(results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function, ctx.pieces, ctx.scope, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows = zip(ctx.needs_input_grad[3:], ctx.pieces[0].inputs, strict=True)
        wanted = tuple(want and (where is not None or ctx.scope.parameters) for want, where in rows)
        return (
            None,
            None,
            None,
            *_Gradient.apply(ctx.function, ctx.pieces, wanted, len(grads), *grads, *ctx.saved_tensors),
        )


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        function: Function, pieces: tuple[Piece, ...], wanted: tuple[bool, ...], outputs: int, *both: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads, tensors = both[:outputs], both[outputs:]
        sums = _Sums(tensors, pieces[0].inputs, wanted)
        positions = [k for k, want in enumerate(wanted) if want]
        for piece in pieces:
            with torch.enable_grad():
                leaves = _leaves(piece, tensors, wanted)
                out = function(piece.constants, *leaves)
            incoming = [grad[where] for grad, where in zip(grads, piece.outputs, strict=True)]
            found = torch.autograd.grad(out, [leaves[k] for k in positions], incoming, allow_unused=True)
            for k, value in zip(positions, found, strict=True):
                sums.add(k, piece.inputs[k], value)
        return tuple(sums.totals)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.function, ctx.pieces, _, ctx.outputs, *both = inputs
        ctx.save_for_backward(*both)
        ctx.set_materialize_grads(False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *seconds: Tensor | None) -> tuple[Tensor | None, ...]:
        grads, tensors = ctx.saved_tensors[: ctx.outputs], ctx.saved_tensors[ctx.outputs :]
        given = [(k, second) for k, second in enumerate(seconds) if second is not None]
        if not given:
            return (None,) * (4 + len(grads) + len(tensors))
        of_grads, of_tensors = ctx.needs_input_grad[4 : 4 + ctx.outputs], ctx.needs_input_grad[4 + ctx.outputs :]
        grad_positions = [k for k, want in enumerate(of_grads) if want]
        tensor_positions = [k for k, want in enumerate(of_tensors) if want]
        grad_sums = _Sums(grads, ctx.pieces[0].outputs, of_grads)
        tensor_sums = _Sums(tensors, ctx.pieces[0].inputs, of_tensors)
        for piece in ctx.pieces:
            with torch.enable_grad():
                leaves = _leaves(piece, tensors, of_tensors)
                incoming = [
                    grad[where].detach().requires_grad_() for grad, where in zip(grads, piece.outputs, strict=True)
                ]
                out = ctx.function(piece.constants, *leaves)
                sources = [leaves[k] for k, _ in given]
                first = torch.autograd.grad(out, sources, incoming, create_graph=True, materialize_grads=True)
            found = torch.autograd.grad(
                first,
                [leaves[k] for k in tensor_positions] + [incoming[k] for k in grad_positions],
                [_take(second, piece.inputs[k]) for k, second in given],
                allow_unused=True,
            )
            for k, value in zip(tensor_positions, found, strict=False):
                tensor_sums.add(k, piece.inputs[k], value)
            for k, value in zip(grad_positions, found[len(tensor_positions) :], strict=True):
                grad_sums.add(k, piece.outputs[k], value)
        return None, None, None, None, *grad_sums.totals, *tensor_sums.totals
