"""Predicted Kohn-Sham matrices at work: orbitals, charges, dipole, a start for an SCF, energies without one."""

from geomlib.apply.orbitals.fock import FockPredictor, OrbitalReport, initial_guess, write_cubes

__all__ = ["FockPredictor", "OrbitalReport", "initial_guess", "write_cubes"]
