"""Ensembles of molecular dynamics: which of ASE's integrators, with what settings, and what makes up its state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from geomlib.errors import ConfigError, DataError, FileFormatError, nearest

__all__ = ["ENSEMBLES", "Ensemble", "conserved_energy", "integrator", "integrator_state", "restore_integrator"]


@dataclass(frozen=True, slots=True)
class Ensemble:
    """An ensemble by the name it has on the command line.

    Args:
        cls: ASE's integrator.
        state: attributes of the integrator, dotted, that evolve with time and are not in the atoms.
        thermostat: whether a temperature is kept.
        barostat: whether a pressure is kept.
        random: whether it draws random numbers.
        conserves: whether `conserved_energy` means something.
    """

    cls: type[MolecularDynamics]
    state: tuple[str, ...] = ()
    thermostat: bool = True
    barostat: bool = False
    random: bool = False
    conserves: bool = True


_CHAIN = ("_thermostat._eta", "_thermostat._p_eta", "_q", "_p")
_CELL_CHAIN = ("_barostat._xi", "_barostat._p_xi")

ENSEMBLES: Mapping[str, Ensemble] = {
    "nve": Ensemble(VelocityVerlet, thermostat=False),
    "langevin": Ensemble(Langevin, random=True, conserves=False),
    "nose-hoover": Ensemble(NoseHooverChainNVT, _CHAIN),
    "bussi": Ensemble(Bussi, ("transferred_energy",), random=True),
    "npt": Ensemble(IsotropicMTKNPT, (*_CHAIN, *_CELL_CHAIN, "_eps", "_p_eps", "_volume0", "_cell0"), barostat=True),
    "npt-full": Ensemble(MTKNPT, (*_CHAIN, *_CELL_CHAIN, "_h", "_p_g"), barostat=True),
}
"""Name → ensemble. `npt` keeps the shape of the cell, `npt-full` does not."""


def integrator(
    atoms: Atoms,
    ensemble: str,
    timestep: float,
    temperature: float,
    pressure: float,
    damping: float | None,
    pressure_damping: float | None,
    rng: np.random.Generator,
) -> MolecularDynamics:
    """ASE's integrator of an ensemble.

    Args:
        atoms: with momenta and calculator.
        ensemble: key of `ENSEMBLES`.
        timestep: [fs].
        temperature: [K].
        pressure: [GPa].
        damping: time constant of the thermostat [fs]; 100 steps if not given.
        pressure_damping: time constant of the barostat [fs]; 1,000 steps if not given.
        rng: for stochastic thermostats.

    Raises:
        ConfigError: an unknown ensemble, or a value out of its range.
        DataError: an ensemble that the structure can't have.
    """
    if ensemble not in ENSEMBLES:
        hint = nearest(ensemble, ENSEMBLES)
        raise ConfigError(f"ensemble '{ensemble}' is unknown{hint}; choose from {', '.join(ENSEMBLES)}")
    kind = ENSEMBLES[ensemble]
    damping = 100.0 * timestep if damping is None else damping
    pressure_damping = 1000.0 * timestep if pressure_damping is None else pressure_damping
    _require_positive(timestep=timestep, damping=damping, pressure_damping=pressure_damping)
    settings: dict[str, Any] = {"timestep": timestep * units.fs}
    if kind.thermostat:
        _require_positive(temperature=temperature)
        settings["temperature_K"] = temperature
    if kind.barostat:
        if not atoms.pbc.all() or atoms.cell.rank < 3:
            raise DataError(
                f"ensemble '{ensemble}' changes the volume, but {atoms.get_chemical_formula()} has pbc "
                f"{atoms.pbc.tolist()} and {atoms.cell.rank} lattice vectors; it needs three periodic directions"
            )
        if atoms.constraints:
            raise DataError(f"ensemble '{ensemble}' can't hold constraints; remove them or choose another ensemble")
        settings |= {"pressure_au": pressure * units.GPa, "pdamp": pressure_damping * units.fs}
    if kind.cls is Langevin:
        settings |= {"friction": 1.0 / (damping * units.fs), "fixcm": False}
    elif kind.cls is Bussi:
        settings["taut"] = damping * units.fs
    elif kind.thermostat:
        settings["tdamp"] = damping * units.fs
    if kind.random:
        settings["rng"] = rng
    return kind.cls(atoms, **settings)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name.replace('_', ' ')} is {value}; expected a positive number")


def conserved_energy(dynamics: MolecularDynamics, atoms: Atoms) -> float:
    """The energy [eV] that exact integration of the ensemble would keep constant."""
    if isinstance(dynamics, (NoseHooverChainNVT, IsotropicMTKNPT, MTKNPT)):
        return float(dynamics.get_conserved_energy())
    total = float(atoms.get_total_energy())
    return total - float(dynamics.transferred_energy) if isinstance(dynamics, Bussi) else total


def integrator_state(dynamics: MolecularDynamics, ensemble: str) -> dict[str, np.ndarray]:
    """Copies of everything in an integrator that evolves."""
    return {name: np.array(_attribute(dynamics, name)) for name in ENSEMBLES[ensemble].state}


def restore_integrator(dynamics: MolecularDynamics, ensemble: str, state: Mapping[str, np.ndarray], where: str) -> None:
    """Inverse of `integrator_state`.

    Raises:
        FileFormatError: a part is missing, or of another shape.
    """
    for name in ENSEMBLES[ensemble].state:
        current = _attribute(dynamics, name)
        if name not in state or np.shape(state[name]) != np.shape(current):
            raise FileFormatError(
                f"{where}: the state '{name}' of ensemble '{ensemble}' is missing or of another shape"
            )
        owner, _, last = name.rpartition(".")
        value = np.array(state[name])
        setattr(_attribute(dynamics, owner) if owner else dynamics, last, value if value.ndim else value.item())


def _attribute(dynamics: MolecularDynamics, name: str) -> Any:
    value: Any = dynamics
    for part in name.split("."):
        value = getattr(value, part)
    return value
