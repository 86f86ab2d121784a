"""Messages along edges and their sums, in one operation that keeps only its inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.nn.activation import Activation
from geomlib.nn.reduce import segment_sum
from geomlib.nn.scope import DerivativeScope, derivative_scope
from geomlib.nn.weighted import Preactivation, weighted, weighted_gradient, weighted_second

__all__ = ["Keep", "MessageGraph", "message_step"]

_CHUNK = 300_000
"""Numbers of a chunk of pre-activations: some of these have to fit into the processor's cache."""
_DEVICE_CHUNK = 2**27
"""The same for other devices: it has to fit into what their memory has left (not measured)."""


Keep: TypeAlias = Literal["everything", "preactivations", "inputs"]
"""What is kept between a step and its derivatives."""


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
    residual: Float[Tensor, " new"] | None,
    carry: Float[Tensor, "new in"] | None,
    graph: MessageGraph,
    activation: Activation,
    messages: int,
    *,
    keep: Keep = "everything",
) -> tuple[Tensor, ...]:
    """Sum weighted messages on their targets and update the edges.

    With y = σ(e Wᵀ + t[target] + s[source]) of each edge, the first `messages` columns are multiplied by the weight
    and summed on the targets; what follows is added to the edges, times the residual vector.

    For derivatives, autograd keeps every intermediate of such a step. Kept can also be the pre-activations alone, or
    nothing but the inputs; then the first and the second derivative are written out here, a chunk of edges at a time,
    so that on a CPU all else happens in the cache. Derivatives of the third order are refused then.

    Args:
        edge: features e.
        matrix: W; like `residual` and `carry` made of parameters alone.
        of_target: t, what targets contribute, with the bias.
        of_source: s, what sources contribute.
        weight: of each edge, or of each source; needed where there are messages.
        residual: if given, it multiplies the update, and the edge is added.
        carry: makes of the edge what is added; the edge itself if not given. Edges of one number can so become
            features without being expanded before.
        graph: who sends to whom.
        activation: σ.
        messages: number of columns that are messages; 0 for none.
        keep: `everything`, `preactivations` or `inputs`.

    Returns: the sums [targets, messages] if there are messages, and the edges [edges, out - messages] if columns are
        left for them.
    """
    plan = _Plan(graph, activation, messages, len(matrix) - messages, derivative_scope())
    if keep == "everything":
        return _step(plan, edge, matrix, of_target, of_source, weight, residual, carry)
    return _Step.apply(plan, keep, edge, matrix, of_target, of_source, weight, residual, carry)


def _step(
    plan: "_Plan",
    edge: Tensor,
    matrix: Tensor,
    of_target: Tensor,
    of_source: Tensor,
    weight: Tensor | None,
    residual: Tensor | None,
    carry: Tensor | None,
) -> tuple[Tensor, ...]:
    graph = plan.graph
    x = Preactivation(edge @ matrix.mT, of_target, of_source, graph.target, graph.source).evaluate()
    message, update = plan.activation(x).split([plan.messages, plan.updates], dim=1)
    results = []
    if weight is not None:
        if graph.weight_of_source:
            weight = weight.index_select(0, graph.source)
        results.append(segment_sum(weight * message, graph.target, of_target.shape[0]))
    if plan.updates:
        results.append(update if residual is None else torch.addcmul(_carried(edge, carry), residual, update))
    return tuple(results)


def _carried(edge: Tensor, carry: Tensor | None) -> Tensor:
    return edge if carry is None else edge @ carry.mT


@dataclass(frozen=True)
class _Plan:
    graph: MessageGraph
    activation: Activation
    messages: int
    updates: int
    scope: DerivativeScope

    def chunks(self, edges: int) -> Iterator["_Chunk"]:
        numbers = _CHUNK * torch.get_num_threads() if self.graph.target.device.type == "cpu" else _DEVICE_CHUNK
        size = max(1, numbers // (self.messages + self.updates))
        for start in range(0, edges, size):
            yield _Chunk(self.graph, slice(start, min(start + size, edges)))

    def outputs(self, values: tuple[Any, ...]) -> tuple[Any, Any]:
        """(sums, edges) of those outputs that there are."""
        return values[0] if self.messages else None, values[-1] if self.updates else None

    def columns(self, *tensors: Tensor | None) -> tuple[list[Any], list[Any]]:
        """W, t and s, or directions of them, of the messages and of the updates."""
        m = self.messages
        matrix, *others = tensors  # contiguous, for adding rows to others is slow
        return (
            [None if matrix is None else matrix[:m], *(None if t is None else t[:, :m].contiguous() for t in others)],
            [None if matrix is None else matrix[m:], *(None if t is None else t[:, m:].contiguous() for t in others)],
        )


class _Chunk:
    """Consecutive edges."""

    def __init__(self, graph: MessageGraph, rows: slice) -> None:
        self.rows, self.weight_of_source = rows, graph.weight_of_source
        self.target, self.source = graph.target[rows], graph.source[rows]

    def pre(self, edge: Tensor, columns: Sequence[Tensor], kept: Tensor | None) -> Preactivation:
        """Pre-activations of the chunk's edges."""
        if kept is not None:
            return Preactivation(kept[self.rows], None, None, self.target, self.source)
        matrix, of_target, of_source = columns
        return Preactivation(edge @ matrix.mT, of_target, of_source, self.target, self.source)

    def keep(self, edge: Tensor, columns: Sequence[Tensor], kept: Tensor | None) -> None:
        """Evaluate the pre-activations into what is kept, if they are."""
        if kept is not None:
            matrix, of_target, of_source = columns
            out = torch.mm(edge, matrix.mT, out=kept[self.rows])
            Preactivation(out, of_target, of_source, self.target, self.source).evaluate()

    def change(
        self, edge: Tensor, d_edge: Tensor | None, columns: Sequence[Tensor], directions: Sequence[Tensor | None]
    ) -> Preactivation:
        """Their change in a direction of all that they are made of."""
        matrix, (d_matrix, d_target, d_source) = columns[0], directions
        change = edge.new_zeros(len(edge), len(matrix)) if d_edge is None else d_edge @ matrix.mT
        if d_matrix is not None:
            change.addmm_(edge, d_matrix.mT)
        return Preactivation(change, d_target, d_source, self.target, self.source)

    def weights(self, weight: Tensor) -> Tensor:
        return weight.index_select(0, self.source) if self.weight_of_source else weight[self.rows]

    def put_weights(self, total: Tensor, value: Tensor) -> None:
        if self.weight_of_source:
            total.index_add_(0, self.source, value)
        else:
            total[self.rows] = value

    def spread(self, by_x: Tensor, edge: Tensor, columns: Sequence[Tensor], totals: "_Totals", part: int) -> None:
        """Add what a gradient with respect to pre-activations means for edges, W, t and s."""
        totals.edge[self.rows].addmm_(by_x, columns[0])
        matrix, of_target, of_source = totals.columns[part]
        of_target.index_add_(0, self.target, by_x)
        of_source.index_add_(0, self.source, by_x)
        if matrix is not None:
            matrix.addmm_(by_x.mT, edge)


class _Totals:
    """Gradients of the inputs of a step, as they are summed up."""

    def __init__(self, plan: _Plan, tensors: Sequence[Tensor | None], wanted: Sequence[bool]) -> None:
        made = [
            torch.zeros_like(tensor) if tensor is not None and want else None
            for tensor, want in zip(tensors, wanted, strict=True)
        ]
        self.edge: Any = made[0]
        self.weight, self.residual, self.carry = made[4:]
        self.columns = plan.columns(*made[1:4])
        self._matrix = made[1]

    def all(self) -> tuple[Tensor | None, ...]:
        """In the order of the inputs."""
        messages, updates = self.columns
        of_target, of_source = (torch.cat([a, b], dim=1) for a, b in zip(messages[1:], updates[1:], strict=True))
        return self.edge, self._matrix, of_target, of_source, self.weight, self.residual, self.carry


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        keep: Keep,
        edge: Tensor,
        matrix: Tensor,
        of_target: Tensor,
        of_source: Tensor,
        weight: Tensor | None,
        residual: Tensor | None,
        carry: Tensor | None,
    ) -> tuple[Tensor, ...]:
        sums = of_target.new_zeros(len(of_target), plan.messages)
        new_edge = edge.new_empty(len(edge), plan.updates)
        kept: list[Tensor | None] = [None, None]
        if keep == "preactivations" and any(ctx.needs_input_grad):
            kept = [edge.new_empty(len(edge), width) for width in (plan.messages, plan.updates)]
        scale = _scale(residual, new_edge)
        of_messages, of_updates = plan.columns(matrix, of_target, of_source)
        for chunk in plan.chunks(len(edge)):
            x = edge[chunk.rows]
            if weight is not None:
                chunk.keep(x, of_messages, kept[0])
                value = weighted(plan.activation, chunk.pre(x, of_messages, kept[0]), chunk.weights(weight))
                sums.index_add_(0, chunk.target, value)
            if plan.updates:
                chunk.keep(x, of_updates, kept[1])
                value = weighted(plan.activation, chunk.pre(x, of_updates, kept[1]), scale)
                if residual is None:
                    new_edge[chunk.rows] = value
                else:
                    torch.add(_carried(x, carry), value, out=new_edge[chunk.rows])
        ctx.plan = plan
        ctx.save_for_backward(edge, matrix, of_target, of_source, weight, residual, carry, *kept)
        return tuple(([sums] if plan.messages else []) + ([new_edge] if plan.updates else []))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums_grad, edge_grad = ctx.plan.outputs(grads)
        parameters = ctx.plan.scope.parameters
        wanted = [want and (parameters or k not in (1, 5, 6)) for k, want in enumerate(ctx.needs_input_grad[2:])]
        wanted[0] = wanted[2] = wanted[3] = True
        return None, None, *_StepGradient.apply(ctx.plan, wanted, sums_grad, edge_grad, *ctx.saved_tensors)


def _scale(residual: Tensor | None, edge: Tensor) -> Tensor:
    return edge.new_ones(1, edge.shape[1]) if residual is None else residual.unsqueeze(0)


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
        *kept: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        totals = _Totals(plan, (edge, matrix, of_target, of_source, weight, residual, carry), wanted)
        of_messages, of_updates = plan.columns(matrix, of_target, of_source)
        for chunk in plan.chunks(len(edge)):
            x = edge[chunk.rows]
            if sums_grad is not None and weight is not None:
                by_x, by_w = weighted_gradient(
                    plan.activation,
                    chunk.pre(x, of_messages, kept[0]),
                    chunk.weights(weight),
                    sums_grad.index_select(0, chunk.target),
                    by_weight=totals.weight is not None,
                )
                if totals.weight is not None and by_w is not None:
                    chunk.put_weights(totals.weight, by_w)
                chunk.spread(by_x, x, of_messages, totals, 0)
            if edge_grad is not None:
                grad = edge_grad[chunk.rows]
                by_x, by_scale = weighted_gradient(
                    plan.activation,
                    chunk.pre(x, of_updates, kept[1]),
                    _scale(residual, grad),
                    grad,
                    by_weight=totals.residual is not None,
                )
                if totals.residual is not None and by_scale is not None:
                    totals.residual += by_scale.squeeze(0)
                chunk.spread(by_x, x, of_updates, totals, 1)
                if residual is not None:
                    totals.edge[chunk.rows] += grad if carry is None else grad @ carry
                    if totals.carry is not None:
                        totals.carry.addmm_(grad.mT, x)
        return totals.all()

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
        plan = ctx.plan
        sums_grad, edge_grad, *tensors = ctx.saved_tensors[:9]
        kept = ctx.saved_tensors[9:]
        edge, matrix, of_target, of_source, weight, residual, carry = tensors
        d_edge, d_matrix, d_target, d_source, d_weight, d_residual, d_carry = directions
        by_sums = None if sums_grad is None else torch.zeros_like(sums_grad)
        by_edge_grad = None if edge_grad is None else torch.empty_like(edge_grad)
        totals = _Totals(plan, tensors, [True] * 7)
        of_messages, of_updates = plan.columns(matrix, of_target, of_source)
        d_messages, d_updates = plan.columns(d_matrix, d_target, d_source)
        for chunk in plan.chunks(len(edge)):
            x, dx = edge[chunk.rows], None if d_edge is None else d_edge[chunk.rows]
            if sums_grad is not None and weight is not None and by_sums is not None:
                d_value, by_w, by_x, first = weighted_second(
                    plan.activation,
                    chunk.pre(x, of_messages, kept[0]),
                    chunk.weights(weight),
                    sums_grad.index_select(0, chunk.target),
                    chunk.change(x, dx, of_messages, d_messages),
                    None if d_weight is None else chunk.weights(d_weight),
                )
                by_sums.index_add_(0, chunk.target, d_value)
                chunk.put_weights(totals.weight, by_w)
                chunk.spread(by_x, x, of_messages, totals, 0)
                _spread_first(first, dx, d_messages[0], totals, chunk.rows, 0)
            if edge_grad is not None and by_edge_grad is not None:
                grad = edge_grad[chunk.rows]
                d_value, by_scale, by_x, first = weighted_second(
                    plan.activation,
                    chunk.pre(x, of_updates, kept[1]),
                    _scale(residual, grad),
                    grad,
                    chunk.change(x, dx, of_updates, d_updates),
                    None if d_residual is None else d_residual.unsqueeze(0),
                )
                if residual is not None and totals.residual is not None:
                    totals.residual += by_scale.squeeze(0)
                    if dx is not None:
                        d_value += _carried(dx, carry)
                    if totals.carry is not None and dx is not None:
                        totals.carry.addmm_(grad.mT, dx)
                    if d_carry is not None:
                        d_value.addmm_(x, d_carry.mT)
                        totals.edge[chunk.rows].addmm_(grad, d_carry)
                by_edge_grad[chunk.rows] = d_value
                chunk.spread(by_x, x, of_updates, totals, 1)
                _spread_first(first, dx, d_updates[0], totals, chunk.rows, 1)
        return None, None, by_sums, by_edge_grad, *totals.all(), None, None


def _spread_first(
    first: Tensor, d_edge: Tensor | None, d_matrix: Tensor | None, totals: _Totals, rows: slice, part: int
) -> None:
    """What changes of edge and W, which are multiplied, add to each other's gradient."""
    if d_edge is not None:
        totals.columns[part][0].addmm_(first.mT, d_edge)
    if d_matrix is not None:
        totals.edge[rows].addmm_(first, d_matrix)
