"""Pair construction: features of atoms and of pairs of atoms, products of what the atoms know."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.models.sphnet.compaction import Shrunk
from geomlib.models.sphnet.gates import PairGate
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.path_gate import PathSchedule, SparseProduct
from geomlib.models.sphnet.radial import RadialNet
from geomlib.nn.spherical import NormGate, SphericalLinear, inner_products
from geomlib.nn.tensor_product import Irrep

__all__ = ["DiagonalLayer", "PairLayer"]


class DiagonalLayer(nn.Module):
    """f_ii: each atom's features multiplied with themselves.

    y = Lin_a(Gate_a(x)) ⊗ Lin_b(Gate_b(x)) (+ x), f = Lin(Gate(y)) (+ f of the layer before)

    Args:
        irreps_in: of the atoms' features, the first of `irreps`.
        irreps: of the result.
        channels: number of channels.
        residual: whether x and the layer before are added.
        gate_width: hidden width of the gate behind the product; that of the norms which it reads by default.
        normalization: constants of the product.
        schedule: of the paths of the product; None keeps all.
        kept: numbers of the paths that are left where the choice was made for good.
    Inputs: x [components_in, nodes, channels], before [components, nodes, channels] or None
    Returns: [components, nodes, channels]
    """

    def __init__(
        self,
        irreps_in: Sequence[Irrep],
        irreps: Sequence[Irrep],
        channels: int,
        *,
        residual: bool,
        gate_width: int | None = None,
        normalization: Normalization,
        schedule: PathSchedule | None = None,
        kept: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.gate_a, self.gate_b = NormGate(irreps_in, channels), NormGate(irreps_in, channels)
        self.map_a, self.map_b = (SphericalLinear(irreps_in, channels, channels) for _ in range(2))
        self.product = SparseProduct(irreps_in, irreps, channels, normalization, schedule, kept)
        self.weight = nn.Parameter(torch.randn(len(self.product.paths), channels))
        self.gate, self.out = NormGate(irreps, channels, gate_width), SphericalLinear(irreps, channels, channels)

    def forward(
        self, x: Float[Tensor, "components_in nodes channels"], before: Tensor | None
    ) -> Float[Tensor, "components nodes channels"]:
        """Multiply."""
        active = self.product.active()
        weight = self.weight if active is None else self.weight.index_select(0, active)
        y = self.product(self.map_a(self.gate_a(x)), self.map_b(self.gate_b(x)), weight.unsqueeze(1), active)
        if self.residual:
            y = torch.cat([y[: len(x)] + x, y[len(x) :]])
        y = self.out(self.gate(y))
        return y if before is None else y + before

    @torch.no_grad()
    def compact(self) -> list[Shrunk]:
        """Keep the weights of the chosen paths only."""
        omega = cast(PathSchedule, self.product.schedule).omega
        self.product, active, shares = self.product.compacted()
        change = Shrunk.of(self.weight, 0, active, shares)
        self.weight = change.parameter
        return [change, Shrunk.away(omega)]


class PairLayer(nn.Module):
    """f_ij: the features of two atoms multiplied with each other, weights from distance and invariants.

    Args:
        irreps_in: of the atoms' features.
        irreps: of the result.
        channels: number of channels.
        functions: radial functions.
        gate_width: hidden width of the gate behind the product; that of the norms which it reads by default.
        normalization: constants of products and nets.
        schedule: of the paths of the product; None keeps all.
        kept: numbers of the paths that are left where the choice was made for good.
        sparsity: share of each molecule's pairs that is left out; 0 has no gate.
        mean_scalars: whether the invariants hold the mean of both atoms' scalars (or both, in order).
        both_orders: make f_ji as well, with the same weights; invariants must be those of the pair in any order.
    Inputs:
        x: [components_in, nodes, channels]
        index: [2, pairs], rows i and j; the product is x_j ⊗ x_i
        radial: [pairs, functions]
        graph, graphs: molecule of each pair, and their number
        before: [components, pairs, channels] or None
    Returns: [components, pairs, channels], with `both_orders` [components, 2·pairs, channels], all f_ij before all
        f_ji; pairs that are left out keep what they have
    """

    def __init__(
        self,
        irreps_in: Sequence[Irrep],
        irreps: Sequence[Irrep],
        channels: int,
        functions: int,
        *,
        gate_width: int | None = None,
        normalization: Normalization,
        schedule: PathSchedule | None = None,
        kept: Sequence[int] | None = None,
        sparsity: float = 0.0,
        mean_scalars: bool = True,
        both_orders: bool = False,
    ) -> None:
        super().__init__()
        self.irreps_in, self.mean_scalars, self.both_orders = tuple(irreps_in), mean_scalars, both_orders
        self.invariant_map = SphericalLinear(irreps_in, channels, channels)
        self.gate_in, self.map_in = NormGate(irreps_in, channels), SphericalLinear(irreps_in, channels, channels)
        self.product = SparseProduct(
            irreps_in, irreps, channels, normalization, schedule, kept, both_orders=both_orders
        )
        count = len(self.product.paths) * channels
        invariants = (len(irreps_in) + (not mean_scalars)) * channels
        self.of_distance = RadialNet((functions, channels, count), normalization.gain)
        self.of_invariants = nn.Sequential(nn.Linear(invariants, channels), nn.SiLU(), nn.Linear(channels, count))
        self.pair_gate = PairGate(invariants, sparsity) if sparsity else None
        self.gate, self.out = NormGate(irreps, channels, gate_width), SphericalLinear(irreps, channels, channels)

    def invariants(self, x: Tensor, index: Int[Tensor, "2 pairs"]) -> Float[Tensor, "pairs invariants"]:
        """Scalars of both atoms and inner products of their other irreps."""
        mapped = self.invariant_map(x)
        i, j = mapped.index_select(1, index[0]), mapped.index_select(1, index[1])
        scalars = 0.5 * (i[0] + j[0]) if self.mean_scalars else torch.cat([i[0], j[0]], dim=1)
        return torch.cat([scalars, inner_products(i, j, self.irreps_in)], dim=1)

    def forward(
        self,
        x: Float[Tensor, "components_in nodes channels"],
        index: Int[Tensor, "2 pairs"],
        radial: Float[Tensor, "pairs functions"],
        graph: Int[Tensor, " pairs"],
        graphs: int,
        before: Tensor | None,
    ) -> Float[Tensor, "components pairs channels"]:
        """Multiply."""
        invariants, pairs = self.invariants(x, index), index.shape[1]
        kept: Tensor | None = None
        if self.pair_gate is not None:
            kept, invariants = self.pair_gate(invariants, graph, graphs)
            index, radial = index[:, kept], radial[kept]
        h = self.map_in(self.gate_in(x))
        active = self.product.active()
        weight = self._weights(radial, invariants, active)
        if self.both_orders and kept is not None:
            kept = torch.cat([kept, kept + pairs])
        y = self.product(h.index_select(1, index[1]), h.index_select(1, index[0]), weight, active)
        y = self.out(self.gate(y))
        if before is None:
            return y
        return before + y if kept is None else before.index_add(1, kept, y)

    def _weights(
        self,
        radial: Float[Tensor, "pairs functions"],
        invariants: Float[Tensor, "pairs invariants"],
        active: Tensor | None,
    ) -> Float[Tensor, "active pairs channels"]:
        """Weights of the active paths; those of the others are not made."""
        columns = None if active is None else self._columns(active)
        first, last = cast(nn.Linear, self.of_invariants[0]), cast(nn.Linear, self.of_invariants[2])
        kernel = last.weight if columns is None else last.weight.index_select(0, columns)
        bias = last.bias if columns is None else last.bias.index_select(0, columns)
        made = nn.functional.linear(nn.functional.silu(first(invariants)), kernel, bias) * self.of_distance(
            radial, columns
        )
        return made.view(len(radial), made.shape[1] // self.product.channels, self.product.channels).transpose(0, 1)

    def _columns(self, active: Int[Tensor, " active"]) -> Int[Tensor, " outputs"]:
        """Outputs of the nets that belong to paths."""
        every = torch.arange(self.product.channels, device=active.device)
        return (active.unsqueeze(1) * self.product.channels + every).flatten()

    @torch.no_grad()
    def compact(self) -> list[Shrunk]:
        """Keep what makes the weights of the chosen paths only; constants of the paths go into `of_invariants`."""
        omega, last = cast(PathSchedule, self.product.schedule).omega, cast(nn.Linear, self.of_invariants[2])
        self.product, active, shares = self.product.compacted()
        columns, factors = self._columns(active), shares.repeat_interleave(self.product.channels)
        small = nn.Linear(last.in_features, len(columns), device="meta")
        rows = Shrunk.of(cast(nn.Parameter, last.weight), 0, columns, factors)
        bias = Shrunk.of(last.bias, 0, columns, factors)
        small.weight, small.bias = rows.parameter, bias.parameter
        self.of_invariants[2] = small
        second = Shrunk.of(self.of_distance.second, 1, columns)
        self.of_distance.second = second.parameter
        return [rows, bias, second, Shrunk.away(omega)]
