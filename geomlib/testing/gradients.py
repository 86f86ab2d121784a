"""Forces and stress by finite differences of the energy."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

__all__ = ["numerical_forces", "numerical_stress"]

_STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))
"""Central difference of fourth order."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Components of a symmetric tensor in ASE's order."""


def numerical_forces(atoms: Atoms, indices: Sequence[int], step: float = 5e-4) -> NDArray[np.float64]:
    """−∂E/∂r [eV/Å] of the atoms at `indices`, `[len(indices), 3]`.

    Args:
        atoms: with a calculator; left as it is.
        indices: which atoms.
        step: displacement [Å]; the error goes with its fourth power.
    """
    moved = atoms.copy()
    moved.calc = atoms.calc
    forces = np.zeros((len(indices), 3))
    for row, index in enumerate(indices):
        for axis in range(3):
            for multiple, weight in _STENCIL:
                moved.positions[index, axis] = atoms.positions[index, axis] + multiple * step
                forces[row, axis] -= weight * moved.get_potential_energy() / step
            moved.positions[index, axis] = atoms.positions[index, axis]
    return forces


def numerical_stress(atoms: Atoms, step: float = 1e-4) -> NDArray[np.float64]:
    """∂E/∂ε / V [eV/Å³] for the six symmetric strains, in Voigt order.

    Args:
        atoms: with a calculator and a cell with a volume; left as it is.
        step: strain; the error goes with its fourth power.
    """
    strained = atoms.copy()
    strained.calc = atoms.calc
    stress = np.zeros(6)
    for component, (a, b) in enumerate(VOIGT):
        for multiple, weight in _STENCIL:
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5 * multiple * step
            strain[b, a] += 0.5 * multiple * step
            deformation = np.eye(3) + strain
            strained.set_cell(atoms.cell.array @ deformation)
            strained.set_positions(atoms.positions @ deformation, apply_constraint=False)
            stress[component] += weight * strained.get_potential_energy() / step
    result: NDArray[np.float64] = stress / abs(atoms.cell.volume)
    return result
