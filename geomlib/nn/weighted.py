"""Weighted activations of edges and their derivatives, by torch's operations or as compiled kernels."""

import math
from collections.abc import Callable
from functools import cache, partial
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from geomlib.nn.activation import Activation, ActivationAt

__all__ = ["Preactivation", "WeightedActivation"]

At: TypeAlias = Callable[[Tensor], ActivationAt]


class Preactivation(NamedTuple):
    """The sum z + t[target] + s[source] of each edge.

    Attributes:
        edge: z [edges, dim]; may be changed by whoever evaluates the sum.
        of_target: t [targets, dim].
        of_source: s [sources, dim].
        target: of each edge.
        source: of each edge.
    """

    edge: Tensor
    of_target: Tensor | None
    of_source: Tensor | None
    target: Tensor
    source: Tensor

    def evaluate(self) -> Tensor:
        """The sum."""
        total = self.edge
        if torch.compiler.is_compiling():  # there nothing is gained by changing an input in place
            total = total.clone()
        if self.of_target is not None:
            total.add_(self.of_target.index_select(0, self.target))
        if self.of_source is not None:
            total.add_(self.of_source.index_select(0, self.source))
        return total


class WeightedActivation:
    """The function w·σ(x) of the pre-activations x of edges, with a weight of each edge or of each column.

    Args:
        activation: σ.
        compiled: make each method one kernel by `torch.compile`, when it is called first.

    Raises:
        ConfigError: there are no formulas to compile for this activation.
    """

    def __init__(self, activation: Activation, *, compiled: bool = False) -> None:
        self.activation, self.compiled = activation, compiled
        if compiled:
            activation.formulas(bent=False)
        self._bent = False

    def value(self, x: Preactivation, w: Tensor) -> Tensor:
        """The function itself."""
        return self._run(_value, x, w)[0]

    def gradient(self, x: Preactivation, w: Tensor, grad: Tensor, *, by_weight: bool) -> tuple[Tensor, Tensor | None]:
        """Gradients with respect to x and, if asked for, w."""
        by_x, by_w, *_ = self._run(_gradient, x, w, grad, by_weight)
        return by_x, by_w

    def second(
        self, x: Preactivation, w: Tensor, grad: Tensor, change: Preactivation, dw: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Derivative of the gradients in a direction in which x and w change by `change` and `dw`.

        Returns: change of the function; change of the gradient with respect to w; change of the gradient with respect
            to x; and that gradient itself.
        """
        return self._run(_second, x, w, grad, change, dw)[:4]

    def _run(self, function: Callable[..., Any], x: Preactivation, *arguments: Any) -> tuple[Any, ...]:
        if not self.compiled:
            return function(self.activation.at, x, *arguments)
        # a kernel is to see plain contiguous arrays, or it would be compiled again for every kind of view
        x, *arguments = _plain(x), *map(_plain, arguments)
        result = _kernel(function, self.activation.name, self._bent)(x, *arguments)
        if not self._bent and self.activation.threshold < math.inf and bool(result[-1] >= self.activation.threshold):
            self._bent = True  # something is in the tail, which is left out until this happens
            result = _kernel(function, self.activation.name, self._bent)(x, *arguments)
        return result


def _plain(value: Any) -> Any:
    if isinstance(value, Preactivation):
        return Preactivation(*map(_plain, value))
    if not isinstance(value, Tensor):
        return value
    value = value.data if value.is_contiguous() else value.data.contiguous()
    return value.clone() if value.storage_offset() else value


@cache
def _kernel(function: Callable[..., Any], activation: str, bent: bool) -> Callable[..., tuple[Any, ...]]:
    formulas = Activation(activation).formulas(bent=bent)
    # the compiler counts its versions by code object: a copy for each use keeps their number low
    code = function.__code__.replace(co_name=f"{function.__name__}_{'bent' if bent else 'plain'}")
    own = FunctionType(code, function.__globals__, code.co_name)
    return partial(torch.compile(own, dynamic=True, fullgraph=True), formulas)


def _value(at: At, x: Preactivation, w: Tensor) -> tuple[Tensor, ...]:
    point = at(x.evaluate())
    return point.value().mul_(w), point.top


def _gradient(at: At, x: Preactivation, w: Tensor, grad: Tensor, by_weight: bool) -> tuple[Tensor | None, ...]:
    point = at(x.evaluate())
    by_w = _reduce(grad * point.value(), w) if by_weight else None
    return point.times_slope(grad * w), by_w, point.top


def _second(
    at: At, x: Preactivation, w: Tensor, grad: Tensor, change: Preactivation, dw: Tensor | None
) -> tuple[Tensor, ...]:
    point = at(x.evaluate())
    value, slope, curve = point.derivatives()
    dx = change.evaluate()
    d_value = slope * dx
    by_w = _reduce(grad * d_value, w)
    d_value = d_value.mul_(w)
    by_value = grad * w
    d_by_x = dx.mul_(by_value).mul_(curve)
    if dw is not None:
        d_value = d_value.addcmul_(value, dw)
        d_by_x = d_by_x.add_((grad * dw).mul_(slope))
    return d_value, by_w, d_by_x, by_value.mul_(slope), point.top


def _reduce(values: Tensor, like: Tensor) -> Tensor:
    return values.sum(1, keepdim=True) if like.shape[1] == 1 else values.sum(0, keepdim=True)
