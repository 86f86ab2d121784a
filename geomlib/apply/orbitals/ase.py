"""Energies of molecules from predicted Kohn-Sham matrices, for ASE."""

from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes

from geomlib.apply.orbitals.fock import HARTREE_EV, FockPredictor
from geomlib.files.manifest import AnyNet

__all__ = ["HamiltonianCalculator"]


class HamiltonianCalculator(AseCalculator):
    """ASE calculator that gives the energy of the predicted orbitals' density: one Fock matrix, no iteration.

    The energy is that of the model's functional for the density of the predicted orbitals. It lies above the converged
    one, by an amount that is quadratic in the error of the density. There are no forces.

    Args:
        model: model file, net or predictor.
        device: e.g. `"cuda"`.
        dtype: precision of the net.

    Properties: energy, free_energy (the same) [eV], dipole [e·Å], charges (Mulliken) [e]; `results` also has `homo`,
    `lumo` and `gap` [eV]. Charge from `atoms.info["charge"]`.

    Raises:
        ConfigError: the model predicts something else than Kohn-Sham matrices.
        MissingExtra: PySCF is not installed.
    """

    implemented_properties = ["energy", "free_energy", "dipole", "charges"]  # noqa: RUF012 - ASE's own protocol

    def __init__(
        self,
        model: str | Path | AnyNet | FockPredictor,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.predictor = model if isinstance(model, FockPredictor) else FockPredictor(model, device, dtype)
        self._info: dict[str, Any] = {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last evaluation; also the charge, which ASE does not look at."""
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None and self._info != _state(atoms):
            changes.append("initial_charges")
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Evaluate; see `ase.calculators.calculator.Calculator.calculate`.

        Raises:
            DataError: an open shell, a periodic structure, or atoms that coincide.
            UnknownElement: an element that the model was not built for.
        """
        super().calculate(atoms, properties, system_changes)
        current: Any = self.atoms
        self._info = _state(current)
        molecule = self.predictor.molecule(current)
        report = self.predictor.report(molecule)
        energy = HARTREE_EV * self.predictor.energy_of(molecule, report)
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "dipole": report.dipole,
            "charges": report.charges,
            "homo": HARTREE_EV * report.homo,
            "lumo": HARTREE_EV * report.lumo,
            "gap": HARTREE_EV * (report.lumo - report.homo),
        }


def _state(atoms: Atoms) -> dict[str, Any]:
    return {name: atoms.info.get(name) for name in ("charge", "spin")}
