"""Spherical node interaction: messages between atoms that lift scalars to spherical features."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.models.sphnet.gates import PairGate
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.radial import RadialNet
from geomlib.nn.spherical import EquivariantNorm, NormGate, SphericalLinear, inner_products
from geomlib.nn.tensor_product import Irrep, TensorProduct, all_paths

__all__ = ["SphericalInteraction"]


class SphericalInteraction(nn.Module):
    """One layer of messages, x ⊗ Y(direction) with weights from distances and invariants.

    Args:
        irreps_in: of the input; degree 0 alone in the first layer.
        irreps: of the output and of the harmonics.
        channels: number of channels.
        functions: radial functions.
        first: whether this is the first layer, which has no gate and no residual.
        normalization: constants of products and nets.
        norm: whether the sum of messages is normalised.
        sparsity: share of each molecule's edges that is left out; 0 has no gate.
        hidden: width of the nets that make weights.
    Inputs:
        x: [components, nodes, channels]
        index: [2, edges], row 0 receiver, row 1 sender
        radial: [edges, functions]
        harmonics: [components, edges]
        graph, graphs: molecule of each edge, and their number
    Returns: [components, nodes, channels]
    Source: Yu et al. 2023 (QHNet), Luo et al. 2025 (SPHNet); sections 2.3 and 2.5 of the specification.
    """

    def __init__(
        self,
        irreps_in: Sequence[Irrep],
        irreps: Sequence[Irrep],
        channels: int,
        functions: int,
        *,
        first: bool,
        normalization: Normalization,
        norm: bool = False,
        sparsity: float = 0.0,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        self.irreps_in, self.irreps, self.first = tuple(irreps_in), tuple(irreps), first
        if not first:
            self.invariant_map = SphericalLinear(irreps_in, channels, channels)
            self.norm_gate = NormGate(irreps_in, channels)
            self.gated_map = SphericalLinear(irreps_in, channels, channels)
        paths = all_paths(irreps_in, irreps, irreps)
        self.product = TensorProduct(
            "cg_stacked",
            irreps_in,
            irreps,
            irreps,
            channels,
            channels_y=1,
            paths=paths,
            weights="rows",
            coefficients=normalization.coefficients(paths, irreps),
        )
        count = len(paths) * channels
        scalars = (1 + len(irreps_in)) * channels  # two atoms' scalars and the inner products of the rest
        self.of_distance = RadialNet((functions, hidden, count), normalization.gain)
        self.of_invariants = RadialNet((scalars, hidden, count), normalization.gain)
        self.pair_gate = PairGate(scalars, sparsity) if sparsity else None
        self.norm = EquivariantNorm(irreps, channels) if norm else None
        self.out = SphericalLinear(irreps, channels, channels)

    def invariants(self, x: Tensor, index: Int[Tensor, "2 edges"]) -> Float[Tensor, "edges invariants"]:
        """Scalars of both atoms and inner products of their other irreps."""
        mapped = x if self.first else self.invariant_map(x)
        here, there = mapped.index_select(1, index[0]), mapped.index_select(1, index[1])
        return torch.cat([here[0], there[0], inner_products(here, there, self.irreps_in)], dim=1)

    def forward(
        self,
        x: Float[Tensor, "components nodes channels"],
        index: Int[Tensor, "2 edges"],
        radial: Float[Tensor, "edges functions"],
        harmonics: Float[Tensor, "components edges"],
        graph: Int[Tensor, " edges"],
        graphs: int,
    ) -> Float[Tensor, "components nodes channels"]:
        """Send and add up messages."""
        invariants = self.invariants(x, index)
        if self.pair_gate is not None:
            kept, invariants = self.pair_gate(invariants, graph, graphs)
            index, radial, harmonics = index[:, kept], radial[kept], harmonics[:, kept]
        receiver, sender = index
        before = x
        if not self.first:
            x = self.gated_map(self.norm_gate(x))
        weight = self.of_distance(radial) * self.of_invariants(invariants)
        weight = weight.view(len(receiver), *self.product.weight_shape).transpose(0, 1)
        message = self.product.multiply(x.index_select(1, sender), harmonics.unsqueeze(2), weight)
        total = message.new_zeros(len(message), x.shape[1], x.shape[2]).index_add(1, receiver, message)
        if self.norm is not None:
            total = self.norm(total)
        if self.first:
            return self.out(total)
        return self.out(total + x) + before
