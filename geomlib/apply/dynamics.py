"""Molecular dynamics that can be stopped at any time and go on as if it had not been."""

import csv
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError

from geomlib.apply.committee import ModelDeviation, model_deviation
from geomlib.apply.integrators import (
    ENSEMBLES,
    conserved_energy,
    integrator,
    integrator_state,
    restore_integrator,
)
from geomlib.apply.restart import read_state, restore_generator, write_state
from geomlib.apply.selection import FrameSelection
from geomlib.apply.simulation_log import DynamicsSummary, beside, read_log, summarize
from geomlib.apply.trajectory import TrajectoryFile, snapshot
from geomlib.errors import ConfigError, DataError, GeomlibError

__all__ = ["Settings", "Simulation", "Unstable", "draw_velocities"]

Progress = Callable[[Mapping[str, float]], None]


class Unstable(GeomlibError):
    """A simulation that has left physics behind."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a simulation is.

    Args:
        ensemble: key of `geomlib.apply.integrators.ENSEMBLES`.
        timestep: [fs].
        temperature: of the thermostat, and of the velocities that are drawn at the start [K].
        pressure: of the barostat [GPa].
        damping: time constant of the thermostat [fs]; 100 steps if not given.
        pressure_damping: time constant of the barostat [fs]; 1,000 steps if not given.
        interval: a frame, a line of the log and the state are written every so many steps.
        seed: of the velocities and of stochastic thermostats.
        max_displacement: an atom that moves further than this in one step [Å] ends the simulation.
    """

    ensemble: str = "nve"
    timestep: float = 1.0
    temperature: float = 300.0
    pressure: float = 0.0
    damping: float | None = None
    pressure_damping: float | None = None
    interval: int = 10
    seed: int = 0
    max_displacement: float = 0.5


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell–Boltzmann velocities without drift and, in the open, without rotation, at exactly `temperature` [K]."""
    masses = atoms.get_masses()[:, None]
    velocities = rng.normal(size=(len(atoms), 3)) / np.sqrt(masses)
    if len(atoms) > 1 and not atoms.constraints:
        velocities -= (masses * velocities).sum(0) / masses.sum()
        if not atoms.pbc.any():
            arms = atoms.positions - atoms.get_center_of_mass()
            momentum = (masses * np.cross(arms, velocities)).sum(0)
            inertia = np.einsum("n,nab->ab", masses[:, 0], _inertia_of_unit_masses(arms))
            velocities -= np.cross(np.linalg.pinv(inertia) @ momentum, arms)
    atoms.set_momenta(masses * velocities)
    current = atoms.get_temperature()
    atoms.set_momenta(atoms.get_momenta() * (np.sqrt(temperature / current) if current > 0 else 0.0))


def _inertia_of_unit_masses(arms: np.ndarray) -> np.ndarray:
    squares = np.einsum("na,na->n", arms, arms)
    inertia: np.ndarray = squares[:, None, None] * np.eye(3) - arms[:, :, None] * arms[:, None, :]
    return inertia


class Simulation:
    """Molecular dynamics of one structure with ASE's integrators.

    Beside the trajectory stand `<trajectory>.csv`, a log with one line a frame, and `<trajectory>.state.npz`, from
    which `resume` goes on. A simulation that is resumed repeats a straight one bit for bit if the calculator gives
    the same numbers for the same structure; what was written after the last saved state is written again.

    With a committee the log has the columns of the model deviation, too; see `geomlib.apply.committee`.

    Args:
        atoms: structure with a calculator; changed in place. Its velocities are kept if it has any.
        settings: ensemble, time step and the like.
        trajectory: file for the frames, `.extxyz` or `.traj`; None writes no files at all.
    """

    def __init__(self, atoms: Atoms, settings: Settings, trajectory: str | os.PathLike[str] | None = None) -> None:
        if settings.interval < 1:
            raise ConfigError(f"interval is {settings.interval}; expected at least 1 step")
        if not settings.temperature >= 0:
            raise ConfigError(f"temperature is {settings.temperature} K; expected a positive number")
        self.atoms = atoms
        self.settings = settings
        self.step = 0
        self.rng = np.random.default_rng(settings.seed)
        self.trajectory = None if trajectory is None else Path(trajectory)
        self._keep: tuple[int, int] | None = None
        self._selected: dict[str, Any] | None = None
        if not atoms.get_momenta().any():
            draw_velocities(atoms, settings.temperature, self.rng)
        self._dynamics = self._integrator()
        self.records: list[dict[str, float]] = []

    @classmethod
    def resume(cls, trajectory: str | os.PathLike[str], calculator: BaseCalculator) -> Self:
        """The simulation that wrote `trajectory`, as it was when it saved its state last.

        Args:
            trajectory: as it was given to the simulation.
            calculator: the same as before.

        Raises:
            FileFormatError: no state, or one that can't be read.
            ConfigError: the calculator gives another energy than the one saved.
        """
        path = beside(trajectory, ".state.npz")
        atoms, meta, arrays = read_state(path)
        atoms.calc = calculator
        energy = atoms.get_potential_energy()
        if abs(energy - meta["energy"]) > 1e-4 * len(atoms):
            raise ConfigError(
                f"{path}: the energy was {meta['energy']:.6f} eV when it was saved, but this model gives {energy:.6f} "
                "eV for the same structure: resume with the model that began the simulation"
            )
        self = cls.__new__(cls)
        self.atoms = atoms
        self.settings = Settings(**meta["settings"])
        self.step = meta["step"]
        self.rng = restore_generator(meta["rng"])
        self.trajectory = Path(trajectory)
        self._keep = (meta["trajectory_end"], meta["log_end"])
        self._selected = meta.get("selection")
        self._dynamics = self._integrator()
        restore_integrator(self._dynamics, self.settings.ensemble, arrays, str(path))
        self.records = []
        return self

    def run(
        self,
        steps: int,
        progress: Progress | None = None,
        stop_if_deviation: float | None = None,
        selection: FrameSelection | None = None,
    ) -> DynamicsSummary:
        """Go on until step number `steps`, counted from the very start.

        Args:
            steps: number of the last step.
            progress: called with each record of the log.
            stop_if_deviation: end at the first step after which the members of a committee differ by more than this
                [eV/Å] about the force on some atom; frame, log and state of that step are written.
            selection: what keeps frames for labelling; it is offered those of the trajectory.

        Raises:
            Unstable: an atom moved too far in one step, or positions, energy or forces are no numbers any more.
            ConfigError: the calculator is no committee, but its deviation is asked for.
        """
        if stop_if_deviation is not None and not stop_if_deviation > 0:
            raise ConfigError(f"the deviation to stop at is {stop_if_deviation} eV/Å; expected a positive number")
        if (stop_if_deviation is not None or selection is not None) and self._deviation() is None:
            raise ConfigError("stopping and selecting by deviation takes a committee of two or more models")
        limit = np.inf if stop_if_deviation is None else stop_if_deviation
        stopped: float | None = None
        began, first = time.perf_counter(), self.step
        opened = nullcontext() if selection is None else selection.open(self._selected, self._keep is not None)
        with _Writer(self) as writer, opened:
            if self._keep is None:
                stopped = self._excess(limit)
                self._record(writer, progress, selection)
            while self.step < steps and stopped is None:
                self._advance()
                stopped = self._excess(limit)
                if self.step % self.settings.interval == 0 or self.step == steps or stopped is not None:
                    self._record(writer, progress, selection)
            self._keep = writer.ends
        taken = self.step - first
        seconds = (time.perf_counter() - began) / taken if taken else None
        records = self.records if self.trajectory is None else read_log(beside(self.trajectory, ".csv"))
        summary = summarize(records, len(self.atoms), self.trajectory, seconds)
        return replace(summary, stopped_at_deviation=stopped, selected=None if selection is None else selection.count)

    def record(self) -> None:
        """Write frame, log and state of the structure as it is now, for whoever moves it in place of `run`."""
        with _Writer(self) as writer:
            self._record(writer, None, None)
            self._keep = writer.ends

    def _deviation(self) -> ModelDeviation | None:
        """Of the structure as it is now; None if the calculator is no committee."""
        self.atoms.get_potential_energy()  # the structure may have changed since the last evaluation
        results = self.atoms.calc.results
        return model_deviation(results) if "forces_std" in results else None

    def _excess(self, limit: float) -> float | None:
        """The largest deviation of a force if it is above `limit`."""
        if limit == np.inf:
            return None
        deviation = self._deviation()
        largest = 0.0 if deviation is None else float(deviation.forces.max())
        return largest if largest > limit else None

    def _integrator(self) -> Any:
        s = self.settings
        return integrator(
            self.atoms,
            s.ensemble,
            timestep=s.timestep,
            temperature=s.temperature,
            pressure=s.pressure,
            damping=s.damping,
            pressure_damping=s.pressure_damping,
            rng=self.rng,
        )

    def _advance(self) -> None:
        before = self.atoms.get_positions()
        number = self.step + 1
        when = f"step {number} ({number * self.settings.timestep:g} fs)"
        try:
            self._dynamics.step()
        except DataError as error:
            raise Unstable(
                f"step {number} ({number * self.settings.timestep:g} fs): {error}{self._advice()}"
            ) from error
        moved = np.linalg.norm(self.atoms.positions - before, axis=1)
        wrong = np.flatnonzero(~(moved <= self.settings.max_displacement))  # also true for what is no number
        if len(wrong):
            worst = int(wrong[np.argmax(np.nan_to_num(moved[wrong], nan=np.inf))])
            raise Unstable(
                f"{when}: atom {worst} ({self.atoms.symbols[worst]}) moved {moved[worst]:.3g} Å in one step; at most "
                f"{self.settings.max_displacement} Å is physical"
                f"{self._advice()}"
            )
        self.step = number

    def _advice(self) -> str:
        kept = "" if self.trajectory is None else f"; {self.trajectory} holds what was good"
        return f". Try a smaller time step, or the model does not know such structures{kept}"

    def _record(self, writer: "_Writer", progress: Progress | None, selection: FrameSelection | None) -> None:
        record = self._measure()
        deviation = self._deviation()
        if deviation is not None:
            record |= deviation.columns()
            if selection is not None:
                selection.offer(self.atoms, deviation, self.step, record["time_fs"])
                self._selected = selection.state
        self.records.append(record)
        writer.write(record)
        if progress is not None:
            progress(record)

    def _measure(self) -> dict[str, float]:
        atoms = self.atoms
        potential, kinetic = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        record = {
            "step": self.step,
            "time_fs": self.step * self.settings.timestep,
            "temperature_K": float(atoms.get_temperature()),
            "potential_eV": potential,
            "kinetic_eV": kinetic,
            "total_eV": potential + kinetic,
            "max_force_eV_per_A": float(np.linalg.norm(atoms.get_forces(), axis=1).max()),
        }
        if ENSEMBLES[self.settings.ensemble].conserves:
            record["conserved_eV"] = conserved_energy(self._dynamics, atoms)
        if atoms.pbc.all() and atoms.cell.rank == 3:
            record["volume_A3"] = float(atoms.get_volume())
            with suppress(PropertyNotImplementedError):  # calculators without stress have no pressure column
                stress = atoms.get_stress(voigt=False, include_ideal_gas=True)
                record["pressure_GPa"] = float(-np.trace(stress) / 3 / units.GPa)
        return record

    def _save(self, path: Path, trajectory_end: int, log_end: int) -> None:
        meta = {
            "settings": asdict(self.settings),
            "step": self.step,
            "energy": float(self.atoms.get_potential_energy()),
            "rng": self.rng.bit_generator.state,
            "trajectory_end": trajectory_end,
            "log_end": log_end,
            "selection": self._selected,
        }
        write_state(path, self.atoms, meta, integrator_state(self._dynamics, self.settings.ensemble))


class _Writer:
    """The three files of a simulation, or none."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._frames: TrajectoryFile | None = None
        self.ends: tuple[int, int] = simulation._keep or (0, 0)
        if simulation.trajectory is None:
            return
        keep = simulation._keep
        self._frames = TrajectoryFile(simulation.trajectory, None if keep is None else keep[0])
        self._state = beside(simulation.trajectory, ".state.npz")
        log = beside(simulation.trajectory, ".csv")
        if keep is None:
            self._state.unlink(missing_ok=True)  # a state of an older run beside a new trajectory would mislead
        else:
            os.truncate(log, keep[1])
        self._log = log.open("w" if keep is None else "a", encoding="utf-8", newline="")

    def write(self, record: Mapping[str, float]) -> None:
        """Add a frame and a line, then the state that follows after them."""
        if self._frames is None:
            return
        simulation = self._simulation
        self._frames.write(snapshot(simulation.atoms, step=simulation.step, time_fs=record["time_fs"]))
        lines = csv.DictWriter(self._log, list(record), lineterminator="\n")
        if self._log.tell() == 0:
            lines.writeheader()
        lines.writerow({name: repr(value) for name, value in record.items()})
        self._log.flush()
        self.ends = (self._frames.position, self._log.tell())
        simulation._save(self._state, *self.ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._frames is not None:
            self._frames.close()
            self._log.close()
