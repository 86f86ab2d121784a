"""How orbitals, and with them matrices over orbitals, turn with a molecule."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.orbitals import shells_of
from geomlib.nn.tensor_product import Irrep, wigner_matrix

__all__ = ["turn_of_orbitals"]

_TO_HARMONICS = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
"""From (x, y, z) to the order (y, z, x) in which harmonics and orbitals agree."""


def turn_of_orbitals(
    basis: str, atomic_numbers: Sequence[int], turn: Float[Tensor, "3 3"]
) -> Float[Tensor, "orbitals orbitals"]:
    """D with M' = D M Dᵀ for the matrix M of a molecule and M' of the molecule after r' = turn r, in PySCF's order.

    Args:
        basis: basis set.
        atomic_numbers: of the atoms.
        turn: rotation, with or without a reflection, float64.
    """
    blocks = []
    for element in atomic_numbers:
        for degree in shells_of(basis, element):
            block = wigner_matrix([Irrep(degree, (-1) ** degree)], _TO_HARMONICS @ turn @ _TO_HARMONICS.T)
            order = [2, 0, 1] if degree == 1 else list(range(2 * degree + 1))  # p is stored as x, y, z
            blocks.append(block[order][:, order])
    return torch.block_diag(*blocks)
