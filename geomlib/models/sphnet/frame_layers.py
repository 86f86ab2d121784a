"""Layers on features in the frame of a pair: sums over degrees, products, gates and maps, order by order.

Inside, a feature has a complex number of each order 0, 1, … in each column (`Orders`). Weights are real, so that
reflections, which conjugate, are kept (`FrameLayout`); where they need not be, maps out have imaginary weights as well.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.models.sphnet.frame import FrameLayout

__all__ = ["FrameGate", "FrameLinear", "FrameProduct", "Orders", "sum_over_degrees"]

Orders = tuple[list[Tensor], list[Tensor]]
"""Real and imaginary parts of orders 0, 1, …, each [*rows, columns]."""


def sum_over_degrees(
    layout: FrameLayout,
    x: Float[Tensor, "*rows frame channels"],
    weight: Float[Tensor, "*rows degrees copies channels"],
) -> Orders:
    """Weighted sums over the degrees of each order, `copies` of them for each channel.

    With weights made from the distance this is the product with all spherical harmonics of the direction.

    Args:
        layout: of x; all parities (−1)^l.
        x: features in the frame.
        weight: for each order its degrees; a sum over `layout.reals` in all. Its rows are broadcast.
    Returns: orders with copies·channels columns
    """
    reals: list[Tensor] = []
    imaginaries: list[Tensor] = []
    sizes = [a + b for a, b in zip(layout.reals, layout.imaginaries, strict=True)]
    parts = zip(layout.reals, x.split(sizes, dim=-2), weight.split(layout.reals, dim=-3), strict=True)
    for order, (degrees, part, factor) in enumerate(parts):
        # [*rows, real or imaginary, degrees, 1, channels] · [*rows, 1, degrees, copies, channels]
        terms = part.unflatten(-2, (-1, degrees)).unsqueeze(-2) * factor.unsqueeze(-4)
        found = (terms.sum(-3) / math.sqrt(degrees)).flatten(-2)
        reals.append(found.select(-2, 0))
        imaginaries.append(found.select(-2, 1) if order else torch.zeros_like(reals[0]))
    return reals, imaginaries


def _signed(x: Orders) -> tuple[Float[Tensor, "orders *rows columns"], Float[Tensor, "orders *rows columns"]]:
    """Orders −l_max, …, l_max along a first axis, x_−m = x_m*."""
    reals, imaginaries = x
    return torch.stack([*reals[:0:-1], *reals]), torch.stack([*(-part for part in imaginaries[:0:-1]), *imaginaries])


class FrameProduct(nn.Module):
    """z_m = x_m + Σ_s w_ms x_s y_(m−s), over all couplings of orders −l_max ≤ s, m − s ≤ l_max, with x_(−s) = x_s*.

    Args:
        l_max: largest order.
        columns: of x and y, which have weights of their own.
    """

    def __init__(self, l_max: int, columns: int) -> None:
        super().__init__()
        self.l_max = l_max
        counts = [2 * l_max + 1 - order for order in range(l_max + 1)]
        self.weight = nn.ParameterList(torch.randn(count, columns) / math.sqrt(count) for count in counts)

    def forward(self, x: Orders, y: Orders) -> Orders:
        """Multiply."""
        x_real, x_imaginary = _signed(x)
        y_real, y_imaginary = (part.flip(0) for part in _signed(y))
        found: Orders = ([], [])
        for order, weight in enumerate(self.weight):
            count = len(weight)
            weight = weight.view(count, *[1] * (x_real.ndim - 2), -1)
            a, b = x_real[order:] * weight, x_imaginary[order:] * weight
            c, d = y_real[:count], y_imaginary[:count]
            found[0].append(x[0][order] + (a * c - b * d).sum(0))
            found[1].append(x[1][order] + (a * d + b * c).sum(0))
        return found


class FrameGate(nn.Module):
    """Every order times factors g that a net makes from the real part of order 0 and from other scalars.

    The imaginary part of order 0 has factors of its own. At the beginning g = 1 + what the weights make; zero stays
    zero.

    Args:
        l_max: largest order.
        columns: of the feature.
        scalars: number of other scalars.
        hidden: width of the net.
    """

    def __init__(self, l_max: int, columns: int, scalars: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, (l_max + 2) * columns)
        nn.init.ones_(last.bias)
        self.net = nn.Sequential(nn.Linear(columns + scalars, hidden), nn.SiLU(), last)

    def forward(self, x: Orders, scalars: Float[Tensor, "*rows scalars"]) -> Orders:
        """Gate."""
        reals, imaginaries = x
        gates = self.net(torch.cat([reals[0], scalars], dim=-1)).split(reals[0].shape[-1], dim=-1)
        return (
            [gate * part for gate, part in zip(gates[:-1], reals, strict=True)],
            [gate * part for gate, part in zip((gates[-1], *gates[1:-1]), imaginaries, strict=True)],
        )


class FrameLinear(nn.Module):
    """A matrix for each order, from its columns to every degree that has it.

    Args:
        columns: of the input.
        l_max: largest order of the input; if it is 0, the input is real.
        layout: of the result, which lacks higher orders.
        channels: of the result.
        parity: whether the weights are real; otherwise complex.
    Returns: [*rows, frame, channels]
    """

    def __init__(self, columns: int, l_max: int, layout: FrameLayout, channels: int, *, parity: bool) -> None:
        super().__init__()
        self.channels, self.parity = channels, parity
        counts = layout.reals[: l_max + 1]
        others = [] if l_max == 0 else layout.imaginaries[:1] if parity else counts  # of order 0, or imaginary weights
        scale = 1 / math.sqrt(columns if parity else 2 * columns)
        self.weight, self.other = (
            nn.ParameterList(scale * torch.randn(columns, count * channels) for count in sizes if count)
            for sizes in (counts, others)
        )

    def forward(self, x: Orders) -> Float[Tensor, "*rows frame channels"]:
        """Map."""
        found: list[Tensor] = []
        for order, (real, imaginary, weight) in enumerate(zip(*x, self.weight, strict=True)):
            if order == 0:
                found.append(real @ weight)
                if len(self.other) and self.parity:
                    found.append(imaginary @ self.other[0])
                elif len(self.other):
                    found[0] = found[0] - imaginary @ self.other[0]
            elif self.parity:
                found += [real @ weight, imaginary @ weight]
            else:
                other = self.other[order]
                found += [real @ weight - imaginary @ other, real @ other + imaginary @ weight]
        return torch.cat([part.unflatten(-1, (-1, self.channels)) for part in found], dim=-2)
