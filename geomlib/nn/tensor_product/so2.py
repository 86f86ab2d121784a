"""Convolution with a direction in the frame of that direction, where only equal |m| couple."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.nn.tensor_product.irreps import natural_irreps, offsets, width, wigner_3j

__all__ = ["SO2Convolution", "aligned_frames", "rotation_blocks", "wigner_blocks"]


def aligned_frames(direction: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3 3"]:
    """Rotations that take the polar axis y to each direction; what they do around it is arbitrary.

    The frame is spanned by the direction and the coordinate axis farthest from it, so nothing is singular anywhere,
    which angles would be along y.

    Args:
        direction: vectors that are not zero, in the order of components of degree 1 (x, y, z of e3nn).
    """
    polar = direction / direction.norm(dim=1, keepdim=True)
    nearest = polar.detach().abs().argmin(dim=1, keepdim=True)
    helper = torch.zeros_like(polar).scatter(1, nearest, 1.0)
    first = torch.linalg.cross(helper, polar)
    first = first / first.norm(dim=1, keepdim=True)
    return torch.stack([first, polar, torch.linalg.cross(first, polar)], dim=2)


def wigner_blocks(l_max: int, rotation: Float[Tensor, "rows 3 3"]) -> list[Float[Tensor, "rows m m"]]:
    """Wigner matrices of rotations for degrees 0 to `l_max`, each from the one before: polynomials of the rotation.

    Args:
        l_max: largest degree.
        rotation: in the order of components of degree 1.
    """
    blocks = [rotation.new_ones(len(rotation), 1, 1), rotation]
    for degree in range(2, l_max + 1):
        coupling = wigner_3j(degree - 1, 1, degree).to(rotation)  # [a, b, m]
        half = blocks[-1].transpose(1, 2) @ coupling.flatten(1)  # [rows, a', b·m]
        half = rotation.transpose(1, 2).unsqueeze(1) @ half.unflatten(2, (3, 2 * degree + 1))  # [rows, a', b', m]
        blocks.append((2 * degree + 1) * half.flatten(1, 2).transpose(1, 2) @ coupling.flatten(0, 1))
    return blocks[: l_max + 1]


def rotation_blocks(l_max: int, direction: Float[Tensor, "rows 3"]) -> list[Float[Tensor, "rows m m"]]:
    """Wigner matrices, for degrees 0 to `l_max`, of a rotation that takes the polar axis y to each direction.

    Args:
        l_max: largest degree.
        direction: vectors that are not zero, in the order of components of degree 1 (x, y, z of e3nn).
    """
    return wigner_blocks(l_max, aligned_frames(direction))


class SO2Convolution(nn.Module):
    """Tensor product with all spherical harmonics of a direction, O(L³) instead of O(L⁶).

    x is turned into a frame whose polar axis is the direction, where the harmonics are zero but for m = 0; a coupling
    with all of them mixes components of equal |m| only, y_m = W⁺ x_m − W⁻ x_−m. With `parity` W⁻ is absent, which keeps
    natural parities (−1)^l under inversion.

    Args:
        l_max: degrees 0 to l_max of input and output.
        channels: of the input.
        channels_out: of the output in mode `uvw`.
        mode: `uuu`: a weight per channel; `uvw`: channels mixed.
        parity: O(3) instead of SO(3).
        weights: `shared` parameters, or `rows` given to `forward` (mode `uuu`).
    Inputs:
        x: [rows, channels, components]
        direction: [rows, 3], not zero
        weight: rows of `weight_shape`, where weights is `rows`
    Returns: [rows, channels_out, components], variance 1 for unit variance of x and weights
    Raises:
        ConfigError: weights per row in mode `uvw`.
    Source: Passaro and Zitnick 2023 (eSCN, arXiv 2302.03655).
    """

    def __init__(
        self,
        l_max: int,
        channels: int,
        channels_out: int | None = None,
        *,
        mode: Literal["uuu", "uvw"] = "uuu",
        parity: bool = True,
        weights: Literal["shared", "rows"] = "shared",
    ) -> None:
        super().__init__()
        if mode == "uvw" and weights == "rows":
            raise ConfigError("SO2Convolution: weights of each row go with mode 'uuu' only")
        self.l_max, self.channels, self.mode, self.parity, self.weights = l_max, channels, mode, parity, weights
        self.channels_out = (channels_out or channels) if mode == "uvw" else channels
        self.irreps = natural_irreps(l_max, parity=parity)
        self._ends = offsets(self.irreps)
        # (order m, first weight, degrees ≥ m, whether the weights are W⁻)
        self.blocks: list[tuple[int, int, int, bool]] = []
        count = 0
        for order in range(l_max + 1):
            for antisymmetric in (False, True):
                if antisymmetric and (order == 0 or parity):
                    continue
                degrees = l_max + 1 - order
                self.blocks.append((order, count, degrees, antisymmetric))
                count += degrees**2
        self.weight_shape = (count, channels) if mode == "uuu" else (count, channels, self.channels_out)
        if weights == "shared":
            self.weight = nn.Parameter(torch.randn(self.weight_shape))

    def forward(
        self,
        x: Float[Tensor, "rows channels components"],
        direction: Float[Tensor, "rows 3"],
        weight: Float[Tensor, "rows ..."] | None = None,
    ) -> Float[Tensor, "rows channels_out components"]:
        """Turn, mix, turn back."""
        if (weight is None) == (self.weights == "rows"):
            raise ConfigError(f"SO2Convolution has {self.weights} weights: give some to forward where they are of rows")
        weight = self.weight.unsqueeze(0) if weight is None else weight
        turns = rotation_blocks(self.l_max, direction.to(x))
        parts = [x[..., a:b] for a, b in zip(self._ends, self._ends[1:], strict=False)]
        turned = [part @ turn for part, turn in zip(parts, turns, strict=True)]  # the inverse of each turn
        out: list[list[Tensor]] = [[x] * irrep.dim for irrep in self.irreps]
        by_order = self._by_order(turned)
        for order in range(self.l_max + 1):
            plus, minus = self._mixed(order, by_order[order], weight)
            for position, degree in enumerate(range(order, self.l_max + 1)):
                out[degree][degree + order] = plus[..., position]
                if order:
                    out[degree][degree - order] = minus[..., position]
        back = [torch.stack(columns, dim=-1) @ turn.transpose(1, 2) for columns, turn in zip(out, turns, strict=True)]
        return torch.cat(back, dim=2)

    def _by_order(self, parts: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each m the components +m and −m of all degrees that have them, [rows, channels, degrees]."""
        found = []
        for order in range(self.l_max + 1):
            some = [(parts[l][..., l + order], parts[l][..., l - order]) for l in range(order, self.l_max + 1)]
            found.append((torch.stack([a for a, _ in some], -1), torch.stack([b for _, b in some], -1)))
        return found

    def _mixed(self, order: int, values: tuple[Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
        plus, minus = values
        of_plus: Tensor | None = None
        of_minus: Tensor | None = None
        kinds = [block for block in self.blocks if block[0] == order]
        for _, begin, degrees, antisymmetric in kinds:
            block = weight[:, begin : begin + degrees**2].unflatten(1, (degrees, degrees))  # [rows, out, in, channels…]
            fan = degrees * len(kinds) * (1 if self.mode == "uuu" else self.channels)
            equation = "zuj,ziju->zui" if self.mode == "uuu" else "zuj,zijuw->zwi"
            first, second = (
                torch.einsum(equation, value, block.expand(len(value), *block.shape[1:])) / math.sqrt(fan)
                for value in (plus, minus)
            )
            if antisymmetric:
                of_plus, of_minus = of_plus - second, of_minus + first  # type: ignore[operator]
            else:
                of_plus, of_minus = first, second
        assert of_plus is not None and of_minus is not None
        return of_plus, of_minus

    def flops(self) -> int:
        """Floating-point operations for one row of one channel, without making the turns."""
        turns = sum(4 * irrep.dim**2 for irrep in self.irreps)
        mixing = sum(2 * degrees**2 * (2 if order else 1) for order, _, degrees, _ in self.blocks)
        return turns + mixing

    def expressivity(self) -> int:
        """Number of independent maps that the weights reach."""
        return self.weight_shape[0]

    @property
    def components(self) -> int:
        """Number of components of a channel."""
        return width(self.irreps)
