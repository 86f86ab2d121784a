"""Weighted activations w·σ(x) of edges and their derivatives, written out."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from geomlib.nn.activation import Activation

__all__ = ["Preactivation", "weighted", "weighted_gradient", "weighted_second"]


class Preactivation(NamedTuple):
    """The sum z + t[target] + s[source] of each edge.

    Attributes:
        edge: z; changed by `evaluate`.
        of_target: t; None for nothing.
        of_source: s; None for nothing.
        target: of each edge.
        source: of each edge.
    """

    edge: Float[Tensor, "edges dim"]
    of_target: Float[Tensor, "targets dim"] | None
    of_source: Float[Tensor, "sources dim"] | None
    target: Int[Tensor, " edges"]
    source: Int[Tensor, " edges"]

    def evaluate(self) -> Float[Tensor, "edges dim"]:
        """The sum, in the memory of z."""
        total = self.edge
        if self.of_target is not None:
            total = total.add_(self.of_target.index_select(0, self.target))
        if self.of_source is not None:
            total = total.add_(self.of_source.index_select(0, self.source))
        return total


def weighted(activation: Activation, x: Preactivation, weight: Tensor) -> Tensor:
    """w·σ(x), with a weight of each edge [edges, 1] or of each column [1, dim]."""
    return activation.at(x.evaluate()).value().mul_(weight)


def weighted_gradient(
    activation: Activation, x: Preactivation, weight: Tensor, grad: Tensor, *, by_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients with respect to x and, if asked for, w."""
    point = activation.at(x.evaluate())
    by_w = _reduce(point.value().mul_(grad), weight) if by_weight else None
    return point.times_slope(grad * weight), by_w


def weighted_second(
    activation: Activation,
    x: Preactivation,
    weight: Tensor,
    grad: Tensor,
    change: Preactivation,
    d_weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivative of the gradients in a direction in which x and w change by `change` and `d_weight`.

    Returns: change of the function; change of the gradient with respect to w; change of the gradient with respect to
        x; and that gradient itself.
    """
    value, slope, curve = activation.at(x.evaluate()).derivatives()
    dx = change.evaluate()
    d_value = slope * dx
    by_weight = _reduce(grad * d_value, weight)
    d_value.mul_(weight)
    by_value = grad * weight
    d_by_x = dx.mul_(by_value).mul_(curve)
    if d_weight is not None:
        d_value.addcmul_(value, d_weight)
        d_by_x.add_((grad * d_weight).mul_(slope))
    return d_value, by_weight, d_by_x, by_value.mul_(slope)


def _reduce(values: Tensor, like: Tensor) -> Tensor:
    return values.sum(1, keepdim=True) if like.shape[1] == 1 else values.sum(0, keepdim=True)
