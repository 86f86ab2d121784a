"""Generalised coordinates of structures whose cells may change, for many at once, as ASE's `FrechetCellFilter`.

With cell₀ the lattice vectors at the start and F = exp(U) the deformation since then, the coordinates are the positions
z without the deformation, x = z Fᵀ, and three more rows n·U, n the number of atoms, which puts both on one scale.
Their forces are f F and −(∂E/∂U)/n, the derivative of the matrix exponential included.

Source: `ase.filters.FrechetCellFilter` and the note that it cites; ∂E/∂U is one matrix exponential of twice the size
(N. J. Higham, Functions of Matrices, SIAM 2008, section 3.2) instead of nine directional derivatives. One thing
differs: where the shape changes and the volume does not, open directions take no part in keeping it (in ASE they take
a third each, and the area of a slab changes).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["CellCoordinates"]


class CellCoordinates:
    """Coordinates of some structures and their cells.

    Args:
        cell_change: `"full"`, `"isotropic"` (the volume only) or `"shape"` (all but the volume).
        pressure: external [eV/Å³].
        device: of all tensors.

    Attributes:
        reference: cell₀ of each structure [Å].
        log_deformation: U of each structure.
        mask: 1 for the components of strain that may change.
        scale: n of each structure.
    """

    def __init__(self, cell_change: str, pressure: float, device: torch.device) -> None:
        self.cell_change, self.pressure = cell_change, pressure
        self.reference, self.log_deformation, self.mask = (
            torch.zeros(0, 3, 3, dtype=torch.float64, device=device) for _ in range(3)
        )
        self.scale = torch.zeros(0, dtype=torch.float64, device=device)

    def add(
        self, cell: Float[Tensor, "graphs 3 3"], mask: Float[Tensor, "graphs 3 3"], atoms: Float[Tensor, " graphs"]
    ) -> None:
        """Let structures in that are not deformed yet."""
        self.reference = torch.cat([self.reference, cell])
        self.log_deformation = torch.cat([self.log_deformation, torch.zeros_like(cell)])
        self.mask = torch.cat([self.mask, mask])
        self.scale = torch.cat([self.scale, atoms])

    def keep(self, graphs: Int[Tensor, " kept"]) -> None:
        """Let all structures go but these."""
        for name in ("reference", "log_deformation", "mask", "scale"):
            setattr(self, name, getattr(self, name)[graphs])

    def deformation(self) -> Float[Tensor, "graphs 3 3"]:
        """F of each structure."""
        return torch.linalg.matrix_exp(self.log_deformation)

    def rows(self) -> Float[Tensor, "graphs 3 3"]:
        """The coordinates of the cells, n·U."""
        return self.log_deformation * self.scale.view(-1, 1, 1)

    def move(self, step: Float[Tensor, "graphs 3 3"]) -> Float[Tensor, "graphs 3 3"]:
        """Change the coordinates of the cells by `step`; returns the new lattice vectors [Å]."""
        self.log_deformation = self.log_deformation + step / self.scale.view(-1, 1, 1)
        return self.reference @ self.deformation().mT

    def forces(
        self, virial: Float[Tensor, "graphs 3 3"], cell: Float[Tensor, "graphs 3 3"]
    ) -> Float[Tensor, "graphs 3 3"]:
        """Forces on the coordinates of the cells.

        Args:
            virial: −∂E/∂ε of each structure [eV].
            cell: its lattice vectors [Å].
        """
        identity = torch.eye(3, dtype=virial.dtype, device=virial.device)
        volume = torch.linalg.det(cell).abs().view(-1, 1, 1)
        virial = virial - self.pressure * volume * identity
        if self.cell_change == "isotropic":
            virial = _trace(virial) / 3.0 * identity
        virial = virial * self.mask
        gradient = virial @ torch.linalg.inv(self.deformation().mT)
        zero = torch.zeros_like(gradient)
        transposed = self.log_deformation.mT
        block = torch.cat([torch.cat([transposed, gradient], 2), torch.cat([zero, transposed], 2)], 1)
        force = torch.linalg.matrix_exp(block)[:, :3, 3:]
        if self.cell_change == "shape":
            free = self.mask * identity  # the volume is kept by the directions that may change
            force = force - _trace(force) / _trace(free).clamp_min(1.0) * free
        return force / self.scale.view(-1, 1, 1)


def _trace(matrix: Float[Tensor, "graphs 3 3"]) -> Float[Tensor, "graphs 1 1"]:
    return matrix.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
