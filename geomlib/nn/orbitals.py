"""Orbital energies and coefficients from matrices over atomic orbitals, and how two sets of orbitals compare."""

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["OrbitalErrors", "Orbitals", "compare_orbitals", "generalised_eigenproblem", "settled_orbitals"]

_FLOOR = 1e-8
"""Least eigenvalue of an overlap matrix."""

_SAME_LEVEL = 1e-5
"""Neighbouring energies closer than this are one level [Hartree]; integration grids split true degeneracies by less."""


class Orbitals(NamedTuple):
    """Energies [..., n, Hartree], ascending, and coefficients [..., n, n] with orbitals as columns, CᵀSC = 1."""

    energies: Tensor
    coefficients: Tensor


class OrbitalErrors(NamedTuple):
    """How predicted orbitals differ from the true ones.

    Args:
        occupied: errors of the energies of the occupied orbitals [occupied, Hartree].
        homo, lumo, gap: errors of the levels at the gap and of the gap [Hartree].
        cosine: mean |cos| between coefficients of each occupied orbital and its partner; falls where levels are close.
        subspace: tr(P S P' S)/occupied, 1 where the occupied spaces are equal.
    """

    occupied: Tensor
    homo: Tensor
    lumo: Tensor
    gap: Tensor
    cosine: Tensor
    subspace: Tensor


def generalised_eigenproblem(
    hamiltonian: Float[Tensor, "*batch n n"], overlap: Float[Tensor, "*batch n n"]
) -> Orbitals:
    """Solve H C = S C ε in float64.

    Args:
        hamiltonian: symmetric [Hartree].
        overlap: of the orbitals, positive; eigenvalues below 1e-8 are raised to it.
    """
    values, vectors = torch.linalg.eigh(overlap.double())
    root = vectors * values.clamp_min(_FLOOR).rsqrt().unsqueeze(-2)
    h = root.mT @ hamiltonian.double() @ root
    energies, rotated = torch.linalg.eigh(0.5 * (h + h.mT))
    return Orbitals(energies, root @ rotated)


def compare_orbitals(
    predicted: Orbitals, true: Orbitals, overlap: Float[Tensor, "n n"], occupied: int
) -> OrbitalErrors:
    """Compare the orbitals of one molecule.

    Args:
        predicted: of one matrix.
        true: of the other.
        overlap: of the atomic orbitals.
        occupied: number of doubly occupied orbitals, at least one.
    """
    error = predicted.energies - true.energies
    lumo = min(occupied, len(error) - 1)
    mine, theirs = predicted.coefficients[:, :occupied], true.coefficients[:, :occupied]
    cosine = (mine * theirs).sum(0).abs() / (mine.norm(dim=0) * theirs.norm(dim=0))
    shared = mine.T @ overlap.double() @ theirs
    return OrbitalErrors(
        occupied=error[:occupied],
        homo=error[occupied - 1],
        lumo=error[lumo],
        gap=error[lumo] - error[occupied - 1],
        cosine=cosine.mean(),
        subspace=shared.square().sum() / occupied,
    )


@torch.no_grad()
def settled_orbitals(
    orbitals: Orbitals, perturbation: Float[Tensor, "*batch n n"], closeness: float = _SAME_LEVEL
) -> Float[Tensor, "*batch n n"]:
    """Coefficients whose orbitals of one level are those that diagonalise a perturbation among themselves.

    An eigensolver returns any basis of a degenerate level. With this one, that of degenerate perturbation theory, the
    perturbation's elements between orbitals, Cᵀ P C, don't depend on which one came, but for signs.

    Args:
        orbitals: of the unperturbed matrices.
        perturbation: symmetric [Hartree].
        closeness: energies closer than this to their neighbour are of the same level [Hartree].
    """
    energies, coefficients = orbitals
    size = energies.shape[-1]
    joined = energies.diff(dim=-1) < closeness
    if not bool(joined.any()):
        return coefficients
    settled = coefficients.clone()
    rows = zip(
        settled.view(-1, size, size), joined.view(-1, size - 1), perturbation.reshape(-1, size, size), strict=True
    )
    for c, same, p in rows:
        borders = [0, *((~same).nonzero().squeeze(1) + 1).tolist(), size]
        for begin, end in pairwise(borders):
            if end - begin > 1:
                part = c[:, begin:end].clone()
                c[:, begin:end] = part @ torch.linalg.eigh(part.T @ p.double() @ part).eigenvectors
    return settled
