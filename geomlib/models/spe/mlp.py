"""Multilayer perceptrons on rows, whose batch statistics can weigh rows."""

from collections.abc import Iterable
from itertools import pairwise
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from geomlib.errors import ConfigError, nearest

__all__ = ["ACTIVATIONS", "MLP", "BatchRows", "activated", "make_norm", "modules"]

ACTIVATIONS = ("relu", "tanh")


M = TypeVar("M", bound=nn.Module)


def modules(items: Iterable[M]) -> list[M]:
    """A `ModuleList` of whose items a type checker knows the class."""
    return cast("list[M]", nn.ModuleList(items))


def activated(rows: Tensor, activation: str) -> Tensor:
    """`relu` or `tanh` of rows."""
    return torch.relu(rows) if activation == "relu" else torch.tanh(rows)


def check_activation(activation: str) -> None:
    """Raise unless the activation is one of `ACTIVATIONS`."""
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"activation '{activation}' is unknown{nearest(activation, ACTIVATIONS)}; there are {ACTIVATIONS}"
        )


class BatchRows(nn.BatchNorm1d):
    """Batch normalisation over the last axis, all others being rows, each of which may count more than once."""

    def forward(
        self, rows: Float[Tensor, "*rows channels"], weight: Float[Tensor, "*rows"] | None = None
    ) -> Float[Tensor, "*rows channels"]:
        """Normalise.

        Args:
            rows: what is normalised.
            weight: how often each row counts in the statistics; once if not given.
        """
        flat = rows.reshape(-1, rows.shape[-1])
        if not self.training or (weight is None and len(flat) > 1):
            if self.training and self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            momentum = 0.0 if self.momentum is None else self.momentum
            out = functional.batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
            )
            return out.reshape(rows.shape)
        counts = flat.new_ones(len(flat)) if weight is None else weight.reshape(-1).to(flat.dtype)
        total = counts.sum()
        mean = counts @ flat / total
        centred = flat - mean
        variance = counts @ centred.square() / total
        self.remember(mean, variance, float(total))
        out = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return out.reshape(rows.shape)

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor, rows: float) -> None:
        """Move the running statistics towards those of a batch (`variance` is that around its mean)."""
        if self.running_mean is None or self.running_var is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
        unbiased = variance.detach() * (rows / max(rows - 1.0, 1.0))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class LayerRows(nn.LayerNorm):
    """Layer normalisation; rows count for themselves."""

    def forward(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Normalise each row."""
        return super().forward(rows)


class NoNorm(nn.Identity):
    """Rows as they are."""

    def forward(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the rows."""
        return rows


def make_norm(kind: str, channels: int) -> BatchRows | LayerRows | NoNorm:
    """Normalisation of rows.

    Raises:
        ConfigError: an unknown kind.
    """
    kinds = {"batch": BatchRows, "layer": LayerRows, "none": NoNorm}
    if kind not in kinds:
        raise ConfigError(f"normalisation '{kind}' is unknown{nearest(kind, kinds)}; there are {sorted(kinds)}")
    return NoNorm() if kind == "none" else kinds[kind](channels)


class MLP(nn.Module):
    """`layers − 1` times Linear, norm, activation, dropout; then Linear, dropout.

    Args:
        inputs: channels of the input.
        width: hidden channels.
        outputs: channels of the output; None leaves out the last linear map, which somebody else makes.
        layers: number of linear maps, a last one that is left out included.
        norm: normalisation of hidden rows.
        activation: `relu` or `tanh`.
        dropout: probability, after every layer.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int | None,
        layers: int = 3,
        norm: str = "layer",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"an MLP of {layers} layers: expected at least 1")
        check_activation(activation)
        sizes = [inputs, *[width] * (layers - 1), *([] if outputs is None else [outputs])]
        self.activation, self.dropout = activation, dropout
        self.width_out = sizes[-1]
        self.linears = modules(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = modules(make_norm(norm, width) for _ in range(layers - 1))

    def forward(
        self, rows: Float[Tensor, "*rows inputs"], weight: Float[Tensor, "*rows"] | None = None
    ) -> Float[Tensor, "*rows outputs"]:
        """Transform each row; `weight` says how often it counts in batch statistics."""
        for at, linear in enumerate(self.linears):
            rows = linear(rows)
            if at < len(self.norms):
                rows = activated(self.norms[at](rows, weight), self.activation)
            rows = self._dropped(rows)
        return rows

    def _dropped(self, rows: Tensor) -> Tensor:
        return functional.dropout(rows, self.dropout, self.training) if self.dropout else rows
