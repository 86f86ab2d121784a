"""Messages along edges and their sums, in one operation that keeps only its inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.nn.activation import Activation
from geomlib.nn.reduce import segment_sum
from geomlib.nn.scope import DerivativeScope, derivative_scope

__all__ = ["MessageGraph", "message_step"]

_CHUNK = 150_000
"""Numbers of a chunk of pre-activations: some of these have to fit into the processor's cache."""


@dataclass(frozen=True)
class MessageGraph:
    """Who sends to whom.

    Attributes:
        target: receiver of each edge.
        source: sender of each edge.
        weight_of_source: whether weights belong to senders instead of edges.
    """

    target: Int[Tensor, " edges"]
    source: Int[Tensor, " edges"]
    weight_of_source: bool = False


def message_step(
    edge: Float[Tensor, "edges in"],
    matrix: Float[Tensor, "out in"],
    of_target: Float[Tensor, "targets out"],
    of_source: Float[Tensor, "sources out"],
    weight: Float[Tensor, "weights 1"] | None,
    residual: Float[Tensor, " in"] | None,
    carry: Float[Tensor, "new in"] | None,
    graph: MessageGraph,
    activation: Activation,
    messages: int,
    *,
    recompute: bool,
) -> tuple[Tensor, ...]:
    """Sum weighted messages on their targets and update the edges.

    With y = σ(e Wᵀ + t[target] + s[source]) of each edge, the first `messages` columns are multiplied by the weight
    and summed on the targets; what follows is added to the edges, times the residual vector.

    With `recompute` only inputs and outputs are kept. Pre-activations are computed again for the first and for the
    second derivative, a chunk of edges at a time: on a CPU all that is between happens in the cache. Derivatives of
    the third order are refused then. Without, autograd does as ever.

    Args:
        edge: features e.
        matrix: W; like the residual vector made of parameters alone.
        of_target: t, what targets contribute, with the bias.
        of_source: s, what sources contribute.
        weight: of each edge, or of each source; needed where there are messages.
        residual: if given, it multiplies the update, and the edge is added.
        carry: makes of the edge what is added; the edge itself if not given. Edges of one number can so become
            features without being expanded before.
        graph: who sends to whom.
        activation: σ.
        messages: number of columns that are messages; 0 for none.
        recompute: instead of keeping intermediates.

    Returns: the sums [targets, messages] if there are messages, and the edges [edges, out - messages] if columns are
        left for them.
    """
    plan = _Plan(graph, activation, messages, len(matrix) - messages, derivative_scope())
    if recompute:
        return _Step.apply(plan, edge, matrix, of_target, of_source, weight, residual, carry)
    return _step(plan, edge, matrix, of_target, of_source, weight, residual, carry)


@dataclass(frozen=True)
class _Plan:
    graph: MessageGraph
    activation: Activation
    messages: int
    updates: int
    scope: DerivativeScope

    def chunks(self, edges: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
        size = max(1, _CHUNK * torch.get_num_threads() // (self.messages + self.updates))
        for start in range(0, edges, size):
            rows = slice(start, min(start + size, edges))
            yield rows, self.graph.target[rows], self.graph.source[rows]

    def outputs(self, values: tuple[Any, ...]) -> tuple[Any, Any]:
        """(sums, edges) of those outputs that there are."""
        sums = values[0] if self.messages else None
        return sums, values[-1] if self.updates else None

    def weights(self, weight: Tensor, rows: slice, source: Tensor) -> Tensor:
        return weight.index_select(0, source) if self.graph.weight_of_source else weight[rows]

    def put_weights(self, total: Tensor, rows: slice, source: Tensor, value: Tensor) -> None:
        if self.graph.weight_of_source:
            total.index_add_(0, source, value)
        else:
            total[rows] = value


def _step(
    plan: _Plan,
    edge: Tensor,
    matrix: Tensor,
    of_target: Tensor,
    of_source: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    carry: Tensor | None,
) -> tuple[Tensor, ...]:
    y = plan.activation(_linear(edge, matrix, of_target, of_source, plan.graph.target, plan.graph.source))
    message, update = y.split([plan.messages, plan.updates], dim=1)
    results = []
    if weight is not None:
        if plan.graph.weight_of_source:
            weight = weight.index_select(0, plan.graph.source)
        results.append(segment_sum(weight * message, plan.graph.target, len(of_target)))
    if plan.updates:
        results.append(update if residual is None else torch.addcmul(_carried(edge, carry), residual, update))
    return tuple(results)


def _carried(edge: Tensor, carry: Tensor | None) -> Tensor:
    return edge if carry is None else edge @ carry.mT


def _linear(
    edge: Tensor, matrix: Tensor, of_target: Tensor, of_source: Tensor, target: Tensor, source: Tensor
) -> Tensor:
    out = edge @ matrix.mT
    out += of_target.index_select(0, target)
    out += of_source.index_select(0, source)
    return out


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        plan: _Plan,
        edge: Tensor,
        matrix: Tensor,
        of_target: Tensor,
        of_source: Tensor,
        weight: Tensor | None,
        residual: Tensor | None,
        carry: Tensor | None,
    ) -> tuple[Tensor, ...]:
        m = plan.messages
        sums = of_target.new_zeros(len(of_target), m)
        new_edge = edge.new_empty(len(edge), plan.updates)
        for rows, target, source in plan.chunks(len(edge)):
            y = plan.activation.at(_linear(edge[rows], matrix, of_target, of_source, target, source)).value()
            if weight is not None:
                sums.index_add_(0, target, y[:, :m] * plan.weights(weight, rows, source))
            if residual is not None:
                torch.addcmul(_carried(edge[rows], carry), residual, y[:, m:], out=new_edge[rows])
            elif plan.updates:
                new_edge[rows] = y[:, m:]
        return tuple(([sums] if m else []) + ([new_edge] if plan.updates else []))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums_grad, edge_grad = ctx.plan.outputs(grads)
        wanted = list(ctx.needs_input_grad[1:])
        if not ctx.plan.scope.parameters:
            wanted[1] = wanted[5] = wanted[6] = False
        return None, *_StepGradient.apply(ctx.plan, wanted, sums_grad, edge_grad, *ctx.saved_tensors)


class _StepGradient(torch.autograd.Function):
    """Gradients of the seven inputs of `_Step`."""

    @staticmethod
    def forward(
        plan: _Plan,
        wanted: Sequence[bool],
        sums_grad: Tensor | None,
        edge_grad: Tensor | None,
        edge: Tensor,
        matrix: Tensor,
        of_target: Tensor,
        of_source: Tensor,
        weight: Tensor | None,
        residual: Tensor | None,
        carry: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        m = plan.messages
        by_edge = torch.empty_like(edge)
        by_matrix = torch.zeros_like(matrix) if wanted[1] else None
        by_target, by_source = torch.zeros_like(of_target), torch.zeros_like(of_source)
        by_weight = torch.empty_like(weight) if weight is not None and wanted[4] else None
        if by_weight is not None and plan.graph.weight_of_source:
            by_weight.zero_()
        by_residual = torch.zeros_like(residual) if residual is not None and wanted[5] else None
        by_carry = torch.zeros_like(carry) if carry is not None and wanted[6] else None
        for rows, target, source in plan.chunks(len(edge)):
            x = edge[rows]
            at = plan.activation.at(_linear(x, matrix, of_target, of_source, target, source))
            y = at.value() if by_weight is not None or by_residual is not None else at.x
            by_y = torch.empty_like(at.x)
            if sums_grad is not None and weight is not None:
                of_sums = sums_grad.index_select(0, target)
                torch.mul(of_sums, plan.weights(weight, rows, source), out=by_y[:, :m])
                if by_weight is not None:
                    plan.put_weights(by_weight, rows, source, of_sums.mul_(y[:, :m]).sum(1, keepdim=True))
            if edge_grad is not None and residual is not None:
                torch.mul(edge_grad[rows], residual, out=by_y[:, m:])
                if by_residual is not None:
                    by_residual += (edge_grad[rows] * y[:, m:]).sum(0)
            elif edge_grad is not None:
                by_y[:, m:] = edge_grad[rows]
            by_x = at.times_slope(by_y)
            torch.mm(by_x, matrix, out=by_edge[rows])
            if edge_grad is not None and residual is not None:
                by_edge[rows] += edge_grad[rows] if carry is None else edge_grad[rows] @ carry
                if by_carry is not None:
                    by_carry.addmm_(edge_grad[rows].mT, x)
            by_target.index_add_(0, target, by_x)
            by_source.index_add_(0, source, by_x)
            if by_matrix is not None:
                by_matrix.addmm_(by_x.mT, x)
        return by_edge, by_matrix, by_target, by_source, by_weight, by_residual, by_carry

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        ctx.plan, _, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients with respect to what `forward` was given.

        What comes in is a direction in the space of the step's inputs. The gradient with respect to the incoming
        gradients is the change of the step's outputs in that direction.
        """
        plan, m = ctx.plan, ctx.plan.messages
        sums_grad, edge_grad, edge, matrix, of_target, of_source, weight, residual, carry = ctx.saved_tensors
        d_edge, d_matrix, d_target, d_source, d_weight, d_residual, d_carry = directions
        by_sums = None if sums_grad is None else torch.zeros_like(sums_grad)
        by_edge_grad = None if edge_grad is None else torch.empty_like(edge_grad)
        by_edge, by_matrix = torch.empty_like(edge), torch.zeros_like(matrix)
        by_target, by_source = torch.zeros_like(of_target), torch.zeros_like(of_source)
        by_weight = None if weight is None else torch.zeros_like(weight)
        by_residual = None if residual is None else torch.zeros_like(residual)
        by_carry = None if carry is None else torch.zeros_like(carry)
        for rows, target, source in plan.chunks(len(edge)):
            x = edge[rows]
            y, slope, curve = plan.activation.at(_linear(x, matrix, of_target, of_source, target, source)).derivatives()
            change = _change(x, matrix, rows, target, source, d_edge, d_matrix, d_target, d_source)
            change_y = slope * change
            by_y = torch.empty_like(y)
            extra = None  # what the directions of weight and residual add to the gradient at y
            if d_weight is not None or d_residual is not None:
                extra = torch.zeros_like(y)
            if sums_grad is not None and weight is not None:
                of_sums, w = sums_grad.index_select(0, target), plan.weights(weight, rows, source)
                torch.mul(of_sums, w, out=by_y[:, :m])
                change_sums = change_y[:, :m] * w
                if d_weight is not None and extra is not None:
                    dw = plan.weights(d_weight, rows, source)
                    change_sums.addcmul_(y[:, :m], dw)
                    torch.mul(of_sums, dw, out=extra[:, :m])
                by_sums.index_add_(0, target, change_sums)
                plan.put_weights(by_weight, rows, source, of_sums.mul_(change_y[:, :m]).sum(1, keepdim=True))
            if edge_grad is not None and residual is not None:
                torch.mul(edge_grad[rows], residual, out=by_y[:, m:])
                change_edge = torch.mul(change_y[:, m:], residual, out=by_edge_grad[rows])
                by_residual += (edge_grad[rows] * change_y[:, m:]).sum(0)
                if d_edge is not None:
                    change_edge += _carried(d_edge[rows], carry)
                    if by_carry is not None:
                        by_carry.addmm_(edge_grad[rows].mT, d_edge[rows])
                if d_carry is not None:
                    change_edge.addmm_(x, d_carry.mT)
                if d_residual is not None and extra is not None:
                    change_edge.addcmul_(y[:, m:], d_residual)
                    torch.mul(edge_grad[rows], d_residual, out=extra[:, m:])
            elif edge_grad is not None:
                by_y[:, m:] = edge_grad[rows]
                by_edge_grad[rows] = change_y[:, m:]
            by_z = change.mul_(by_y).mul_(curve)
            if extra is not None:
                by_z.addcmul_(extra, slope)
            torch.mm(by_z, matrix, out=by_edge[rows])
            by_target.index_add_(0, target, by_z)
            by_source.index_add_(0, source, by_z)
            by_matrix.addmm_(by_z.mT, x)
            by_x = by_y.mul_(slope)
            if d_edge is not None:
                by_matrix.addmm_(by_x.mT, d_edge[rows])
            if d_matrix is not None:
                by_edge[rows].addmm_(by_x, d_matrix)
            if d_carry is not None and edge_grad is not None:
                by_edge[rows].addmm_(edge_grad[rows], d_carry)
        by_inputs = (by_edge, by_matrix, by_target, by_source, by_weight, by_residual, by_carry)
        return None, None, by_sums, by_edge_grad, *by_inputs


def _change(
    edge: Tensor,
    matrix: Tensor,
    rows: slice,
    target: Tensor,
    source: Tensor,
    d_edge: Tensor | None,
    d_matrix: Tensor | None,
    d_target: Tensor | None,
    d_source: Tensor | None,
) -> Tensor:
    """Change of the pre-activations in a direction of their inputs."""
    change = edge.new_zeros(len(edge), len(matrix)) if d_edge is None else d_edge[rows] @ matrix.mT
    if d_matrix is not None:
        change.addmm_(edge, d_matrix.mT)
    if d_target is not None:
        change += d_target.index_select(0, target)
    if d_source is not None:
        change += d_source.index_select(0, source)
    return change
