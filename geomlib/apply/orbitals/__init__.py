"""Predicted Kohn-Sham matrices at work: orbitals, charges, dipole, a start for an SCF, energies without one."""

from geomlib.apply.orbitals.fock import (
    FockPredictor,
    Guess,
    OrbitalReport,
    choose_guess,
    initial_guess,
    write_cubes,
)

__all__ = ["FockPredictor", "Guess", "OrbitalReport", "choose_guess", "initial_guess", "write_cubes"]
