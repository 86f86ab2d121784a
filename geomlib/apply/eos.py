"""Equation of state: energy against volume, equilibrium volume and bulk modulus."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.eos import EquationOfState as AseEquationOfState
from ase.eos import birchmurnaghan
from numpy.typing import NDArray

from geomlib.apply.ase import Calculator
from geomlib.apply.relax import RelaxSettings, relax
from geomlib.errors import ConfigError, DataError

__all__ = ["EquationOfState", "equation_of_state", "plot"]


@dataclass(frozen=True, slots=True)
class EquationOfState:
    """A Birch–Murnaghan curve and the points it goes through.

    Attributes:
        volumes: of the cell [Å³], ascending.
        energies: at these [eV].
        volume: at the minimum [Å³].
        energy: there [eV].
        bulk_modulus: there [GPa].
        bulk_modulus_derivative: ∂B/∂P there.
        scale: factor on the lattice vectors that leads from the given cell to the minimum.
        residual: root mean square distance of the points from the curve [meV/atom].
        atoms: number of atoms in the cell.
    """

    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]
    volume: float
    energy: float
    bulk_modulus: float
    bulk_modulus_derivative: float
    scale: float
    residual: float
    atoms: int

    def curve(self, volumes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energies [eV] of the fit at `volumes` [Å³]."""
        modulus = self.bulk_modulus * units.GPa
        fit: NDArray[np.float64] = birchmurnaghan(
            volumes, self.energy, modulus, self.bulk_modulus_derivative, self.volume
        )
        return fit


def equation_of_state(
    atoms: Atoms,
    calculator: BaseCalculator,
    points: int = 11,
    strain: float = 0.06,
    relax_positions: bool = False,
    fmax: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> EquationOfState:
    """Scale the cell and fit E(V) = E₀ + (9/16) B₀V₀ {(x−1)³B₀′ + (x−1)²(6−4x)}, x = (V₀/V)^⅔.

    Args:
        atoms: a structure with a volume, near equilibrium; left as it is.
        calculator: of the energies.
        points: number of volumes.
        strain: volumes go from (1 − strain)·V to (1 + strain)·V.
        relax_positions: relax the atoms at each volume, for structures that symmetry does not hold in place.
        fmax: bound of that relaxation [eV/Å].
        progress: called with the number of volumes done and their total.

    Raises:
        ConfigError: too few points, or a strain out of its range.
        DataError: no volume, or no minimum within the volumes.
    Source: Birch, Phys. Rev. 71, 809 (1947).
    """
    if points < 5 or not 0 < strain < 0.5:
        raise ConfigError(f"points is {points} and strain {strain}; expected at least 5 points and 0 < strain < 0.5")
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise DataError(
            f"{atoms.get_chemical_formula()} has pbc {atoms.pbc.tolist()} and {atoms.cell.rank} lattice vectors; an "
            "equation of state needs three periodic directions"
        )
    structures = []
    for factor in np.linspace(1 - strain, 1 + strain, points):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
        structures.append(scaled)
    energies = _energies(structures, calculator, RelaxSettings(fmax=fmax) if relax_positions else None, progress)
    return _fit(np.array([scaled.get_volume() for scaled in structures]), energies, atoms)


def _energies(
    structures: list[Atoms],
    calculator: BaseCalculator,
    settings: RelaxSettings | None,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float64]:
    if settings is None and isinstance(calculator, Calculator):
        return np.array([results["energy"] for results in calculator.evaluate(structures)])
    energies = []
    for number, atoms in enumerate(structures, start=1):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy() if settings is None else relax(atoms, settings).energy)
        if progress is not None:
            progress(number, len(structures))
    return np.array(energies)


def _fit(volumes: NDArray[np.float64], energies: NDArray[np.float64], atoms: Atoms) -> EquationOfState:
    lowest = int(np.argmin(energies))
    fit = AseEquationOfState(volumes, energies, eos="birchmurnaghan")
    advice = "relax the cell first (geomlib relax --cell full) or widen the range (--strain)"
    if lowest in (0, len(volumes) - 1):
        raise DataError(f"the energy is lowest at the end of the volumes, {volumes[lowest]:.3f} Å³: {advice}")
    try:
        volume, energy, modulus = fit.fit(warn=False)
    except RuntimeError as error:
        raise DataError(f"no Birch–Murnaghan curve goes through the energies ({error}): {advice}") from None
    derivative = float(fit.eos_parameters[2])
    if not volumes[0] < volume < volumes[-1]:
        raise DataError(f"the minimum of the fit, {volume:.3f} Å³, lies outside the volumes: {advice}")
    misfit = birchmurnaghan(volumes, energy, modulus, derivative, volume) - energies
    return EquationOfState(
        volumes=volumes,
        energies=energies,
        volume=float(volume),
        energy=float(energy),
        bulk_modulus=float(modulus / units.GPa),
        bulk_modulus_derivative=derivative,
        scale=float((volume / atoms.get_volume()) ** (1 / 3)),
        residual=float(1e3 * np.sqrt(np.mean(misfit**2)) / len(atoms)),
        atoms=len(atoms),
    )


def plot(state: EquationOfState, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw points and curve, per atom; the ending of `path` decides the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    fine = np.linspace(state.volumes[0], state.volumes[-1], 200)
    axes.plot(fine / state.atoms, state.curve(fine) / state.atoms, label="Birch–Murnaghan")
    axes.plot(state.volumes / state.atoms, state.energies / state.atoms, "o", label="calculated")
    axes.axvline(state.volume / state.atoms, color="0.7", linewidth=1, zorder=0)
    axes.set_xlabel("volume [Å³/atom]")
    axes.set_ylabel("energy [eV/atom]")
    heading = f"V₀ = {state.volume / state.atoms:.3f} Å³/atom, B₀ = {state.bulk_modulus:.1f} GPa"
    axes.set_title(f"{title}\n{heading}" if title else heading)
    axes.legend()
    figure.savefig(path, dpi=150)
    return Path(path)
