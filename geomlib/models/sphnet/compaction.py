"""What becomes of parameters, and of all that an optimizer keeps about them, where paths are gone for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Shrunk", "carry_over"]

_POWERS = {"exp_avg": 1, "momentum_buffer": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}
"""State of an optimizer → the power of a gradient that it is an average of."""


@dataclass(frozen=True)
class Shrunk:
    """A parameter of which some rows were kept, each times a factor; what is left of it, if anything.

    Args:
        before: the whole parameter.
        after: what is left; None if nothing is.
        dim: along which it was cut.
        index: of the rows that were kept.
        factors: of those rows; None for ones.
    """

    before: nn.Parameter
    after: nn.Parameter | None
    dim: int = 0
    index: Int[Tensor, " kept"] | None = None
    factors: Float[Tensor, " kept"] | None = None

    @classmethod
    def of(
        cls,
        whole: nn.Parameter,
        dim: int,
        index: Int[Tensor, " kept"],
        factors: Float[Tensor, " kept"] | None = None,
    ) -> "Shrunk":
        """Cut a parameter."""
        change = cls(whole, whole, dim, index, factors)
        return cls(whole, nn.Parameter(change.cut(whole, -1), requires_grad=whole.requires_grad), dim, index, factors)

    @classmethod
    def away(cls, whole: nn.Parameter) -> "Shrunk":
        """Take a parameter out altogether."""
        return cls(whole, None)

    @property
    def parameter(self) -> nn.Parameter:
        """What is left."""
        return cast(nn.Parameter, self.after)

    @torch.no_grad()
    def cut(self, values: Tensor, power: int) -> Tensor:
        """The same of values that go as that power of the gradient, which a factor divides; −1 is the parameter."""
        assert self.index is not None
        kept = values.detach().index_select(self.dim, self.index)
        if self.factors is None or power == 0:
            return kept
        factors = self.factors if power < 0 else torch.where(self.factors != 0, 1 / self.factors, 0.0) ** power
        shape = [1] * kept.dim()
        shape[self.dim] = -1
        return kept * factors.view(shape).to(kept)


def carry_over(optimizer: torch.optim.Optimizer, changes: Sequence[Shrunk]) -> None:
    """Let an optimizer go on with what is left of the parameters.

    Averages of gradients and of their squares are cut like the parameters and scaled like the gradients.

    Args:
        optimizer: over the whole parameters.
        changes: of some of them.
    """
    of_parameter = {id(change.before): change for change in changes}
    for group in optimizer.param_groups:
        found = [(parameter, of_parameter.get(id(parameter))) for parameter in group["params"]]
        group["params"] = [p if change is None else change.after for p, change in found]
        group["params"] = [parameter for parameter in group["params"] if parameter is not None]
    for change in changes:
        state = optimizer.state.pop(change.before, None)
        if not state or change.after is None:
            continue
        optimizer.state[change.after] = {
            name: change.cut(value, _POWERS.get(name, 0))
            if isinstance(value, Tensor) and value.shape == change.before.shape and value.dim()
            else value
            for name, value in state.items()
        }
