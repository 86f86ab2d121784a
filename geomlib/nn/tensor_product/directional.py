"""Clebsch-Gordan products whose second factor is the same in all channels, such as harmonics of a direction."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import on_cpu
from geomlib.nn.tensor_product.clebsch_gordan import CouplingProduct
from geomlib.nn.tensor_product.irreps import Path

__all__ = ["DirectionalCG"]


class DirectionalCG(CouplingProduct):
    """First a matrix of each row from y, then one matrix product with all channels of x.

    Of a path with degrees l1, l2, l3 the channels meet (2·l1+1)(2·l3+1) numbers instead of a tensor product of
    (2·l1+1)(2·l2+1) components that is then contracted.

    Inputs:
        x: [components, rows, channels]
        y: [components, rows]
        weight: [paths, rows, channels], or None for ones
    Returns: [components, rows, channels]
    """

    @on_cpu
    def __init__(self, irreps: Any, paths: Sequence[Path], coefficients: Sequence[float]) -> None:
        super().__init__(irreps, paths, coefficients)
        width = self.offsets[1][-1]
        self._groups: list[tuple[int, list[int]]] = []
        for i in sorted({path.x for path in self.paths}):
            members = [number for number, path in enumerate(self.paths) if path.x == i]
            blocks = []
            for number in members:
                coupling = self.coupling(number)  # [m1, m2, m3]
                whole = coupling.new_zeros(coupling.shape[2], coupling.shape[0], width)
                whole[..., self.block(1, self.paths[number].y)] = coupling.permute(2, 0, 1)
                blocks.append(whole)
            self.register_constant(f"matrix_{len(self._groups)}", torch.cat(blocks).flatten(0, 1))  # [Σ m3·m1, dy]
            self._groups.append((i, members))

    def forward(
        self,
        x: Float[Tensor, "dx rows channels"],
        y: Float[Tensor, "dy rows"],
        weight: Float[Tensor, "paths rows channels"] | None,
    ) -> Float[Tensor, "dz rows channels"]:
        """Multiply."""
        rows, channels = x.shape[1:]
        found: list[list[Tensor]] = [[] for _ in self.irreps[2]]
        parts = x.split([irrep.dim for irrep in self.irreps[0]])
        factors: Sequence[Tensor] = [] if weight is None else weight.unbind(0)
        for position, (i, members) in enumerate(self._groups):
            dim = self.irreps[0][i].dim
            matrices = (self.get_buffer(f"matrix_{position}") @ y).unflatten(0, (-1, dim)).permute(2, 0, 1)
            columns = torch.bmm(matrices, parts[i].transpose(0, 1))  # [rows, Σ m3, channels]
            outs = [self.paths[number].out for number in members]
            for number, out, block in zip(
                members, outs, columns.split([self.irreps[2][out].dim for out in outs], dim=1), strict=True
            ):
                found[out].append(block if weight is None else block * factors[number].unsqueeze(1))
        blocks = []
        for irrep, terms in zip(self.irreps[2], found, strict=True):
            total = sum(terms[1:], start=terms[0]) if terms else x.new_zeros(rows, irrep.dim, channels)
            blocks.append(total.transpose(0, 1))
        return torch.cat(blocks)
