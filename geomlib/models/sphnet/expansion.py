"""From spherical features to blocks of a matrix over atomic orbitals."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.nn.constants import ExactConstants
from geomlib.nn.tensor_product import Irrep
from geomlib.nn.tensor_product.irreps import wigner_3j

__all__ = ["BlockExpansion", "block_irreps"]


def block_irreps(shells: Sequence[int], irreps: Sequence[Irrep]) -> tuple[Irrep, ...]:
    """Irreps of atoms, and behind them those of the other parity that blocks between shells need.

    Args:
        shells: number of shells of each degree 0, 1, 2, …
        irreps: of the atoms, with the parities of spherical harmonics.
    """
    present = [degree for degree, count in enumerate(shells) if count]
    needed = {
        Irrep(degree, (-1) ** (la + lb))
        for la in present
        for lb in present
        for degree in range(abs(la - lb), la + lb + 1)
    }
    return (*irreps, *sorted(needed.difference(irreps)))


class BlockExpansion(ExactConstants):
    """Blocks [(u, m1), (v, m2)] = (1/C) Σ w3j(la, lb, l)[m1, m2, m] (Σ_c W[c, u, v] f[l, c, m] + [l = 0] b[u, v]).

    W and b are made from scalars of the atoms. Shells of degrees la and lb need the features of degree l between
    |la − lb| and la + lb with parity (−1)^(la + lb), where features have parities.

    Args:
        shells: number of shells of each degree 0, 1, 2, …
        irreps: of the features.
        channels: of the features.
        scalars: width of what W and b are made from.
        hidden: width of the nets that make them.
    Inputs:
        features: [components, rows, channels]
        scalars: [rows, scalars]
    Returns: [rows, orbitals, orbitals], shells by degree
    Source: Unke et al. 2021 (PhiSNet), Yu et al. 2023 (QHNet).
    """

    def __init__(
        self, shells: Sequence[int], irreps: Sequence[Irrep], channels: int, scalars: int, hidden: int
    ) -> None:
        super().__init__()
        self.shells, self.channels = tuple(shells), channels
        self.dims = [irrep.dim for irrep in irreps]
        even = all(irrep.parity == 1 for irrep in irreps)
        self.triples: list[tuple[int, int, int, int]] = []  # l, la, lb, number of the irrep
        degrees = range(len(self.shells))
        for degree in range(2 * len(self.shells) - 1):
            for la in degrees:
                for lb in degrees:
                    if not abs(la - lb) <= degree <= la + lb or not (self.shells[la] and self.shells[lb]):
                        continue
                    irrep = Irrep(degree, 1 if even else (-1) ** (la + lb))
                    self.triples.append((degree, la, lb, tuple(irreps).index(irrep)))
                    self.register_constant(f"coupling_{degree}_{la}_{lb}", wigner_3j(la, lb, degree))
        self.weight_sizes = [channels * self.shells[la] * self.shells[lb] for _, la, lb, _ in self.triples]
        self.bias_sizes = [self.shells[la] ** 2 for degree, la, lb, _ in self.triples if degree == 0]
        self.weight_net = _net(scalars, hidden, sum(self.weight_sizes))
        self.bias_net = _net(scalars, hidden, sum(self.bias_sizes))

    def forward(
        self, features: Float[Tensor, "components rows channels"], scalars: Float[Tensor, "rows scalars"]
    ) -> Float[Tensor, "rows orbitals orbitals"]:
        """Expand."""
        return self.expand(features, self.weight_net(scalars), self.bias_net(scalars))

    def expand(
        self,
        features: Float[Tensor, "components rows channels"],
        weight: Float[Tensor, "rows weights"],
        bias: Float[Tensor, "rows biases"],
    ) -> Float[Tensor, "rows orbitals orbitals"]:
        """Expand with given W and b."""
        rows, top = features.shape[1], len(self.shells)
        weights, biases = weight.split(self.weight_sizes, dim=1), iter(bias.split(self.bias_sizes, dim=1))
        blocks: list[list[Tensor | None]] = [[None] * top for _ in range(top)]
        parts = features.split(self.dims)
        for (degree, la, lb, number), flat in zip(self.triples, weights, strict=True):
            na, nb = self.shells[la], self.shells[lb]
            f = parts[number].permute(1, 0, 2)  # [rows, m, channels]
            mixed = torch.bmm(f, flat.view(rows, self.channels, na * nb))  # [rows, m, u·v]
            if degree == 0:
                mixed = mixed + next(biases).unsqueeze(1)
            coupling = getattr(self, f"coupling_{degree}_{la}_{lb}")  # [m1, m2, m]
            block = torch.matmul(coupling.flatten(0, 1), mixed)  # [rows, m1·m2, u·v]
            before = blocks[la][lb]
            blocks[la][lb] = block if before is None else before + block
        lines = []
        for la, row in enumerate(blocks):
            if not self.shells[la]:
                continue
            row_parts = []
            for lb, whole in enumerate(row):
                if whole is not None:
                    shape = (rows, 2 * la + 1, 2 * lb + 1, self.shells[la], self.shells[lb])
                    row_parts.append(whole.view(shape).permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2))
            lines.append(torch.cat(row_parts, dim=2))
        return torch.cat(lines, dim=1) / self.channels


def _net(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
