"""Activation functions by name, with fused first and second derivatives where networks of potentials need them."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from geomlib.errors import ConfigError, nearest
from geomlib.nn.tracing import tracing

__all__ = ["Activation", "silut"]


class _Tail:
    """Constants of the bounded tail of silut: tanh(slope·(x − threshold)) + offset for x ≥ threshold."""

    __slots__ = ("finite", "offset", "slope", "threshold")

    def __init__(self, threshold: float) -> None:
        gate = 1.0 / (1.0 + math.exp(-threshold)) if threshold > -700 else 0.0
        self.threshold = threshold
        self.finite = math.isfinite(threshold)
        self.offset = threshold * gate if self.finite else 0.0
        self.slope = gate + threshold * gate * (1.0 - gate) if self.finite else 0.0

    def mask(self, x: Tensor) -> Tensor | None:
        """Where the tail applies; None if nowhere, which on the CPU is worth one look."""
        if not self.finite:
            return None
        if x.device.type == "cpu" and (x.numel() == 0 or bool(x.max() < self.threshold)):
            return None
        return x >= self.threshold

    def bent(self, x: Tensor) -> Tensor:
        return torch.tanh(self.slope * (x - self.threshold))

    def traced(self, x: Tensor) -> Tensor:
        """All of silut with one sigmoid, tanh z being 2s(2z) − 1: for compilers, which fuse and differentiate it."""
        if not self.finite:
            return functional.silu(x)
        below = x < self.threshold
        gate = torch.sigmoid(torch.where(below, x, 2.0 * self.slope * (x - self.threshold)))
        return torch.where(below, x * gate, 2.0 * gate + (self.offset - 1.0))

    def slope_at(self, x: Tensor) -> Tensor:
        return self.slope * (1.0 - self.bent(x).square())

    def curve_at(self, x: Tensor) -> Tensor:
        tanh = self.bent(x)
        return (-2.0 * self.slope**2) * tanh * (1.0 - tanh.square())


class _Silut(torch.autograd.Function):
    """silut with one saved tensor; its derivative is an operation of its own, so that forces can be trained on.

    Autograd's own second derivative of silu records six elementwise operations with their inputs; here the first
    derivative is one fused kernel that saves two tensors. `mask` says where the tail applies, None if nowhere.
    """

    @staticmethod
    def forward(x: Tensor, mask: Tensor | None, tail: _Tail) -> Tensor:
        return _with_tail(functional.silu(x), mask, lambda y: tail.bent(y) + tail.offset, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, mask, ctx.tail = inputs
        ctx.save_for_backward(x, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, mask = ctx.saved_tensors
        return _SilutSlope.apply(grad, x, mask, ctx.tail), None, None


class _SilutSlope(torch.autograd.Function):
    """grad · silut'(x)."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, mask: Tensor | None, tail: _Tail) -> Tensor:
        value = torch.ops.aten.silu_backward(grad, x)
        return _with_tail(value, mask, lambda y, g: g * tail.slope_at(y), x, grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, x, mask, ctx.tail = inputs
        ctx.save_for_backward(grad, x, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        slope_grad, x, mask = ctx.saved_tensors
        by_grad = _SilutSlope.apply(grad, x, mask, ctx.tail) if ctx.needs_input_grad[0] else None
        by_x = _curve(grad * slope_grad, x, mask, ctx.tail) if ctx.needs_input_grad[1] else None
        return by_grad, by_x, None, None


def _curve(grad: Tensor, x: Tensor, mask: Tensor | None, tail: _Tail) -> Tensor:
    """The product grad · silut''(x), with silu'' = s(1 − s)(2 + x(1 − 2s))."""
    gate = torch.sigmoid(x)
    value = torch.ops.aten.sigmoid_backward(grad, gate) * torch.addcmul(x + 2.0, x, gate, value=-2.0)

    return _with_tail(value, mask, lambda y, g: g * tail.curve_at(y), x, grad)


def _with_tail(value: Tensor, mask: Tensor | None, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """`value`, or `function(*arguments)` where the tail applies.

    On the CPU few entries are in the tail, if any, and only they are computed; `value` is fresh and changed in place.
    """
    if mask is None:
        return value
    if value.device.type == "cpu" and not torch.is_grad_enabled():
        where = mask.flatten().nonzero().squeeze(1)
        picked = [argument.flatten().index_select(0, where) for argument in arguments]
        return value.contiguous().view(-1).index_copy_(0, where, function(*picked)).view(value.shape)
    return torch.where(mask, function(*arguments), value)


def silut(threshold: float = math.inf) -> Callable[[Tensor], Tensor]:
    """silu(x) below `threshold`, a bounded tanh tail of the same value and slope above; plain silu if infinite.

    y = x·s(x) for x < T, otherwise tanh(k(x − T)) + T·s(T) with k = s(T) + T·s(T)(1 − s(T)) and s the sigmoid.

    Source: the activation `silut` (`custom_silu`) of deepmd-kit.
    """
    tail = _Tail(threshold)
    return lambda x: _Silut.apply(x, tail.mask(x.detach()), tail)


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu6": functional.relu6,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
    "none": lambda x: x,
}
_NAMES = ("silu", "silut", "custom_silu", *_PLAIN)


class ActivationAt(Protocol):
    """Value and derivatives of an activation at a point, as plain tensors that may be changed in place."""

    x: Tensor

    def value(self) -> Tensor:
        """f(x)."""
        ...

    def times_slope(self, factor: Tensor) -> Tensor:
        """The product factor · f'(x)."""
        ...

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """f(x), f'(x) and f''(x)."""
        ...


class _SilutAt:
    def __init__(self, x: Tensor, tail: _Tail) -> None:
        self.x, self._tail = x, tail
        self._rows = None  # where something is in the tail; they are few, if any
        if tail.finite and x.numel():
            rows = (x.amax(1) >= tail.threshold).nonzero().squeeze(1)
            self._rows = rows if len(rows) else None

    def value(self) -> Tensor:
        return self._bend(functional.silu(self.x), lambda x: self._tail.bent(x) + self._tail.offset)

    def times_slope(self, factor: Tensor) -> Tensor:
        value = torch.ops.aten.silu_backward(factor, self.x)
        return self._bend(value, self._tail.slope_at, factor)

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        gate = torch.sigmoid(self.x)
        rest = 1.0 - gate
        value = self.x * gate
        curve = (rest - gate).mul_(value).add_(gate, alpha=2.0).mul_(rest)
        slope = gate.addcmul_(value, rest)
        return (
            self._bend(value, lambda x: self._tail.bent(x) + self._tail.offset),
            self._bend(slope, self._tail.slope_at),
            self._bend(curve, self._tail.curve_at),
        )

    def _bend(self, value: Tensor, function: Callable[[Tensor], Tensor], factor: Tensor | None = None) -> Tensor:
        """`function` of x, times the factor, in the tail; `value` elsewhere."""
        if self._rows is None:
            return value
        x = self.x.index_select(0, self._rows)
        bent = function(x) if factor is None else function(x) * factor.index_select(0, self._rows)
        mended = torch.where(x >= self._tail.threshold, bent, value.index_select(0, self._rows))
        return value.index_copy_(0, self._rows, mended)


class _PlainAt:
    """By autograd."""

    def __init__(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        self.x, self._function = x, function

    def value(self) -> Tensor:
        return self._function(self.x)

    def times_slope(self, factor: Tensor) -> Tensor:
        return factor * self._derivatives()[0]

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.value(), *self._derivatives()

    def _derivatives(self) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._function(x).sum(), x, create_graph=True)
            if not slope.requires_grad:
                return slope, torch.zeros_like(slope)
            (curve,) = torch.autograd.grad(slope.sum(), x, materialize_grads=True)
        return slope.detach(), curve


class Activation(nn.Module):
    """Activation function by name.

    Args:
        name: `silu`, `silut:T` (alias `custom_silu:T`, T = 3 if left out), `tanh`, `gelu` (tanh form), `relu`,
            `relu6`, `softplus`, `sigmoid`, `linear` or `none`.

    Raises:
        ConfigError: an unknown name.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        kind, _, parameter = name.lower().partition(":")
        self.tail: _Tail | None = None
        if kind == "silu":
            self.tail = _Tail(math.inf)
            self.function = silut()
        elif kind in ("silut", "custom_silu"):
            try:
                self.tail = _Tail(float(parameter or 3.0))
                self.function = silut(float(parameter or 3.0))
            except ValueError:
                raise ConfigError(f"activation '{name}': '{parameter}' is no number; write e.g. 'silut:10'") from None
        elif kind in _PLAIN and not parameter:
            self.function = _PLAIN[kind]
        else:
            raise ConfigError(f"activation '{name}' is unknown{nearest(kind, _NAMES)}; known: {', '.join(_NAMES)}")

    def forward(self, x: Tensor) -> Tensor:
        """Apply it elementwise."""
        return self.tail.traced(x) if self.tail is not None and tracing() else self.function(x)

    def at(self, x: Tensor) -> "ActivationAt":
        """Its value and derivatives at `x`, outside of autograd."""
        if self.tail is not None:
            return _SilutAt(x, self.tail)
        return _PlainAt(x, self.function)

    def extra_repr(self) -> str:
        """Name, for printing."""
        return self.name
