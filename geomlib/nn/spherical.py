"""Layers on spherical features: for every irrep one copy in each channel, stored components first.

A feature is a tensor [components, rows, channels]: maps of the channels are batched matrix products over the
components, and tensor products (`geomlib.nn.tensor_product`) need no rearrangement.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.nn.constants import on_cpu
from geomlib.nn.tensor_product.irreps import Irrep, offsets

__all__ = ["EquivariantNorm", "NormGate", "SphericalLinear", "inner_products", "invariants"]


@on_cpu
def _irrep_of_component(irreps: Sequence[Irrep]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(irreps)), torch.tensor([irrep.dim for irrep in irreps]))


def _blocks(x: Tensor, irreps: Sequence[Irrep]) -> tuple[Tensor, ...]:
    """Components of each irrep; `split`, whose derivative puts them together in one go, where slices would not."""
    return x.split([irrep.dim for irrep in irreps])


def _is_scalar(irrep: Irrep) -> bool:
    return irrep == (0, 1)


class SphericalLinear(nn.Module):
    """Equivariant linear map: one matrix of channels for each irrep, a bias for scalars.

    Args:
        irreps: of input and output.
        channels_in, channels_out: numbers of channels.
        bias: whether scalars (degree 0, even) get a bias.
    Inputs: x [components, rows, channels_in]
    Returns: [components, rows, channels_out]; unit variance stays at initialisation
    """

    component: Tensor

    def __init__(self, irreps: Sequence[Irrep], channels_in: int, channels_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(irreps), channels_in, channels_out) / channels_in**0.5)
        self.register_buffer("component", _irrep_of_component(irreps), persistent=False)
        begins = offsets(irreps)
        self.scalars = [begin for irrep, begin in zip(irreps, begins, strict=False) if _is_scalar(irrep)]
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias and self.scalars else None

    def forward(self, x: Float[Tensor, "components rows channels"]) -> Float[Tensor, "components rows channels_out"]:
        """Map the channels."""
        y = torch.bmm(x, self.weight.index_select(0, self.component))
        if self.bias is None:
            return y
        (first,) = self.scalars
        before, scalar, after = y.split([first, 1, len(y) - first - 1])
        return torch.cat([before, scalar + self.bias, after])


def invariants(
    x: Float[Tensor, "components rows channels"], irreps: Sequence[Irrep]
) -> Float[Tensor, "rows irreps_channels"]:
    """Scalars as they are and the norms of all other irreps, irrep after irrep."""
    parts = []
    for irrep, block in zip(irreps, _blocks(x, irreps), strict=True):
        if _is_scalar(irrep):
            parts.append(block[0])
        else:
            square = block.square().sum(0)
            # the slope of a norm at zero is taken as zero
            parts.append(torch.where(square > 0, square, 1).sqrt() * (square > 0))
    return torch.cat(parts, dim=1)


def inner_products(
    x: Float[Tensor, "components rows channels"],
    y: Float[Tensor, "components rows channels"],
    irreps: Sequence[Irrep],
) -> Float[Tensor, "rows irreps_channels"]:
    """Products (1/(2l+1)) Σ_m x_m y_m of all irreps but scalars, irrep after irrep."""
    blocks = zip(irreps, _blocks(x, irreps), _blocks(y, irreps), strict=True)
    parts = [(a * b).mean(0) for irrep, a, b in blocks if not _is_scalar(irrep)]
    return torch.cat(parts, dim=1) if parts else x.new_zeros(x.shape[1], 0)


class NormGate(nn.Module):
    """Gates made of scalars and norms: y⁰ = g⁰, yˡ = gˡ ⊙ xˡ with g = W₂ silu(W₁ [x⁰ ‖ |x¹| ‖ …]).

    Args:
        irreps: of the feature.
        channels: number of channels.
        hidden: width between W₁ and W₂; that of the norms by default.
    Inputs: x [components, rows, channels]
    Returns: [components, rows, channels]
    Source: Yu et al. 2023 (arXiv 2306.04922), QHNet.
    """

    def __init__(self, irreps: Sequence[Irrep], channels: int, hidden: int | None = None) -> None:
        super().__init__()
        self.irreps, self.channels = tuple(irreps), channels
        size = len(self.irreps) * channels
        hidden = size if hidden is None else hidden
        self.gate = nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, size))
        self.is_scalar = [_is_scalar(irrep) for irrep in self.irreps]

    def forward(self, x: Float[Tensor, "components rows channels"]) -> Float[Tensor, "components rows channels"]:
        """Gate."""
        gates = self.gate(invariants(x, self.irreps)).view(x.shape[1], len(self.irreps), self.channels).transpose(0, 1)
        rows = zip(self.is_scalar, gates.split(1), _blocks(x, self.irreps), strict=True)
        return torch.cat([gate if is_scalar else gate * block for is_scalar, gate, block in rows])


class EquivariantNorm(nn.Module):
    """Each irrep divided by its root mean square over components and channels, times a scale for each channel.

    Args:
        irreps: of the feature.
        channels: number of channels.
        epsilon: added to the mean square.
    Inputs: x [components, rows, channels]
    Returns: [components, rows, channels]
    """

    component: Tensor

    def __init__(self, irreps: Sequence[Irrep], channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(len(irreps), channels))
        self.epsilon, self.irreps = epsilon, tuple(irreps)
        self.register_buffer("component", _irrep_of_component(irreps), persistent=False)

    def forward(self, x: Float[Tensor, "components rows channels"]) -> Float[Tensor, "components rows channels"]:
        """Normalise."""
        square = x.square().mean(2)
        means = [block.mean(0) for block in _blocks(square, self.irreps)]
        factor = (torch.stack(means) + self.epsilon).rsqrt().unsqueeze(2) * self.scale.unsqueeze(1)
        return x * factor.index_select(0, self.component)
