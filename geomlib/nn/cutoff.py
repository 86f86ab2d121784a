"""Switch functions that take an interaction smoothly to zero at its cutoff."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SWITCHES", "exponential_switch", "quintic_switch"]


def quintic_switch(length: Float[Tensor, " edges"], start: float, cutoff: float) -> Float[Tensor, " edges"]:
    """1 − 10u³ + 15u⁴ − 6u⁵ with u = clip((r − start)/(cutoff − start), 0, 1): exactly 0 at the cutoff, C².

    Args:
        length: r [Å].
        start: where the switch begins [Å].
        cutoff: where it reaches 0 [Å].
    """
    u = ((length - start) / (cutoff - start)).clamp(0.0, 1.0)
    return 1.0 + u.pow(3) * (-10.0 + u * (15.0 - 6.0 * u))


def exponential_switch(length: Float[Tensor, " edges"], start: float, cutoff: float) -> Float[Tensor, " edges"]:
    """exp(−exp((20/start)(r − start))) with r ≤ cutoff: C∞, and tiny but not zero at the cutoff.

    Args:
        length: r [Å].
        start: scale of the switch [Å]; at r = start it is 1/e.
        cutoff: r is clipped here [Å]. For (6.0, 5.3) the value there is 8e-7, for (4.0, 3.5) it is 3e-8.
    """
    return torch.exp(-torch.exp((20.0 / start) * (length.clamp(max=cutoff) - start)))


SWITCHES: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {
    "quintic": quintic_switch,
    "exponential": exponential_switch,
}
"""Name → switch."""
