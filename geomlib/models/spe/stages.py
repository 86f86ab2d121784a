"""One step of a graph isomorphism network on many columns, that keeps a single tensor for its derivative."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomlib.models.spe.mlp import BatchRows
from geomlib.models.spe.packing import Block, neighbours

__all__ = ["Stage", "run_stage"]


@dataclass(frozen=True)
class Stage:
    """What a step is told besides tensors.

    Attributes:
        norm: `batch`, `layer` or `none`.
        activation: `relu` or `tanh`.
        aggregates: whether the step begins with (1 + ε)·own + sum over neighbours, and a bias.
        sums: whether it ends with the sum over columns; else with a linear map.
        training: whether batch statistics are those of the rows.
        statistics: running statistics of a batch normalisation.
    """

    norm: str
    activation: str
    aggregates: bool
    sums: bool
    training: bool
    statistics: BatchRows | None


EPS = 1e-5


def _normalised(z: Tensor, gamma: Tensor | None, beta: Tensor | None, stage: Stage) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised rows, and the mean and inverse deviation that the derivative needs."""
    if stage.norm == "layer":
        return torch.ops.aten.native_layer_norm(z, [z.shape[1]], gamma, beta, EPS)
    if stage.norm == "batch":
        running = stage.statistics
        assert running is not None
        return torch.ops.aten.native_batch_norm(
            z, gamma, beta, running.running_mean, running.running_var, stage.training, running.momentum or 0.0, EPS
        )
    return z.clone(), z.new_empty(0), z.new_empty(0)


def _normalised_again(
    z: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, deviation: Tensor, stage: Stage
) -> Tensor:
    """The same from what was kept, without touching the running statistics."""
    if stage.norm == "layer":
        return torch.ops.aten.native_layer_norm(z, [z.shape[1]], gamma, beta, EPS)[0]
    if stage.norm == "batch":
        if not stage.training:
            return _normalised(z, gamma, beta, stage)[0]
        assert gamma is not None and beta is not None
        slope = deviation * gamma
        return torch.addcmul(beta - mean * slope, z, slope)
    return z.clone()


def _norm_backward(
    dy: Tensor, z: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, deviation: Tensor, stage: Stage
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    if stage.norm == "layer":
        return torch.ops.aten.native_layer_norm_backward(
            dy, z, [z.shape[1]], mean, deviation, gamma, beta, [True, True, True]
        )
    if stage.norm == "batch":
        running = stage.statistics
        assert running is not None
        return torch.ops.aten.native_batch_norm_backward(
            dy,
            z,
            gamma,
            running.running_mean,
            running.running_var,
            mean,
            deviation,
            stage.training,
            EPS,
            [True, True, True],
        )
    return dy, None, None


def _act_(y: Tensor, activation: str) -> Tensor:
    return y.relu_() if activation == "relu" else y.tanh_()


def _act_backward(dy: Tensor, y: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return torch.ops.aten.threshold_backward(dy, y, 0.0)
    return torch.ops.aten.tanh_backward(dy, y)


def _column_sums(y: Tensor, blocks: list[Block]) -> Tensor:
    parts = [y[block.rows].view(-1, block.columns, y.shape[1]).sum(1) for block in blocks]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _spread(grad: Tensor, blocks: list[Block]) -> Tensor:
    """Derivative of `_column_sums`: the row of a node to each of its columns."""
    out = grad.new_empty(blocks[-1].rows.stop, grad.shape[1])
    node = 0
    for block in blocks:
        graphs, size, columns = block.shape
        rows = grad[node : node + graphs * size]
        out[block.rows].view(-1, columns, grad.shape[1]).copy_(rows[:, None].expand(-1, columns, -1))
        node += graphs * size
    return out


class _Step(torch.autograd.Function):
    """act(norm(z)), then a linear map or the sum over columns; z = q, or aggregate(q) + bias.

    Only q and the statistics of z are kept: everything else is cheap to make again, and is made where it is in the
    processor's cache anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        stage: Stage,
        blocks: list[Block],
    ) -> Tensor:
        z = _before_norm(q, scale, shift, stage, blocks)
        y, mean, deviation = _normalised(z, gamma, beta, stage)
        y = _act_(y, stage.activation)
        ctx.stage, ctx.blocks = stage, blocks
        ctx.save_for_backward(q, scale, shift, gamma, beta, weight, mean, deviation)
        if weight is None:
            return _column_sums(y, blocks)
        return y @ weight.T if bias is None else torch.addmm(bias, y, weight.T)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, scale, shift, gamma, beta, weight, mean, deviation = ctx.saved_tensors
        stage, blocks, wanted = ctx.stage, ctx.blocks, ctx.needs_input_grad
        z = _before_norm(q, scale, shift, stage, blocks)
        y = _act_(_normalised_again(z, gamma, beta, mean, deviation, stage), stage.activation)
        d_weight = d_bias = d_scale = d_shift = None
        if weight is None:
            dy = _spread(grad, blocks)
        else:
            grad = grad.contiguous()
            d_weight = grad.T @ y if wanted[5] else None
            d_bias = grad.sum(0) if wanted[6] else None
            dy = grad @ weight
        dz = _act_backward(dy, y, stage.activation)
        del y, dy
        dz, d_gamma, d_beta = _norm_backward(dz, z, gamma, beta, mean, deviation, stage)
        if stage.aggregates:
            d_shift = dz.sum(0) if wanted[2] else None
            d_scale = torch.dot(dz.view(-1), q.view(-1)).reshape(scale.shape) if wanted[1] else None
            dz = neighbours(dz, scale, blocks, transposed=True)
        return dz, d_scale, d_shift, d_gamma, d_beta, d_weight, d_bias, None, None


def _before_norm(q: Tensor, scale: Tensor | None, shift: Tensor | None, stage: Stage, blocks: list[Block]) -> Tensor:
    if shift is None:
        return q
    return neighbours(q, scale, blocks).add_(shift)


def run_stage(
    stage: Stage,
    blocks: list[Block],
    q: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """One step on the rows of `blocks`.

    Args:
        stage: kind of step.
        blocks: whose rows these are.
        q: `[rows, channels]`.
        scale: 1 + ε of the aggregation.
        shift: `[channels]`, bias after the aggregation.
        gamma: of the norm.
        beta: of the norm.
        weight: `[outputs, channels]` of the linear map; None where the step ends with the sum over columns.
        bias: `[outputs]`.

    Returns:
        `[rows, outputs]`, or `[nodes, channels]` where the step ends with the sum over columns.
    """
    return _Step.apply(q, scale, shift, gamma, beta, weight, bias, stage, blocks)
