"""Molecular dynamics of many structures at once, each with its own time step, temperature, random numbers and files."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from numpy.typing import NDArray
from torch import Tensor

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.batch import Predictions, StructureBatch, frame_of
from geomlib.apply.batched.waiting import Failure, Waiting
from geomlib.apply.budget import Budget
from geomlib.apply.dynamics import Settings, Simulation
from geomlib.apply.simulation_log import DynamicsSummary, beside, read_log, summarize
from geomlib.errors import ConfigError, nearest

__all__ = ["BATCHED_ENSEMBLES", "BatchedSimulation", "Simulated", "simulate_batched"]

BATCHED_ENSEMBLES = ("nve", "langevin")
"""Ensembles that many structures can be simulated in at once; keys of `geomlib.apply.integrators.ENSEMBLES`."""

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of one simulation.

    Attributes:
        index: position of the structure among all.
        atoms: at the last step, with velocities, energy and forces.
        summary: means and drift; `seconds_per_step` is the time of all simulations divided by all their steps.
        records: lines of the log of this part.
    """

    index: int
    atoms: Atoms
    summary: DynamicsSummary
    records: list[dict[str, float]]


def simulate_batched(
    structures: Iterable[Atoms],
    calculator: Calculator,
    settings: Settings | Sequence[Settings],
    steps: int | Sequence[int],
    trajectories: Sequence[str | os.PathLike[str]] | None = None,
    budget: Budget | int | str = "auto",
    skin: float = 0.5,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Simulated | Failure]:
    """Simulate many structures at once.

    Each moves as `geomlib.apply.dynamics.Simulation` would move it alone with the same settings and seed (rounding
    apart), and leaves the same files, from which it can go on alone or in another batch.

    Args:
        structures: not changed. Velocities are kept where there are some and drawn otherwise; `FixAtoms` is kept, other
            constraints are a failure.
        calculator: of the potential. Deviations of a committee are not in the logs.
        settings: for all, where structure k gets the seed `settings.seed + k`, or for each. The ensemble is `"nve"` or
            `"langevin"`, one for all.
        steps: number of the last step, for all or for each.
        trajectories: a file for each; none are written if not given.
        budget: how many at once: a budget, a number of atoms, or `"auto"` for what memory and speed allow.
        skin: extra radius of the neighbour lists [Å].
        resume: go on with those of which there is a state beside the trajectory.
        progress: called now and then with the number of simulations that are done, that are in the batch, and all
            their steps so far.

    Returns:
        What came of each, in the order of the structures. One that becomes unstable is a `Failure`; its files hold what
        was good.

    Raises:
        ConfigError: a setting out of its range, or lists of different lengths.
        FileFormatError: a state that can't be read.
    """
    run = BatchedSimulation(list(structures), calculator, settings, steps, trajectories, budget, skin, resume)
    return run.run(progress)


class BatchedSimulation:
    """The state of many simulations; see `simulate_batched` for the arguments.

    Attributes:
        batch: the structures that move now.
        steps: steps that were taken by all structures together.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        calculator: Calculator,
        settings: Settings | Sequence[Settings],
        steps: int | Sequence[int],
        trajectories: Sequence[str | os.PathLike[str]] | None = None,
        budget: Budget | int | str = "auto",
        skin: float = 0.5,
        resume: bool = False,
    ) -> None:
        self._structures = list(structures)
        count = len(self._structures)
        self._settings = _for_each(settings, count)
        self._last = [steps] * count if isinstance(steps, int) else list(steps)
        self._files: list[Path | None] = [None] * count if trajectories is None else [Path(f) for f in trajectories]
        for name, values in (("settings", self._settings), ("steps", self._last), ("trajectories", self._files)):
            if len(values) != count:
                raise ConfigError(f"there are {count} structures but {len(values)} {name}; give one for each")
        names = [str(file) for file in self._files if file is not None]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{twice}: two structures can't have the same trajectory")
        self._langevin = _is_langevin(self._settings)
        self._simulations: dict[int, Simulation] = {}
        if resume:
            for index, file in enumerate(self._files):
                if file is not None and beside(file, ".state.npz").is_file():
                    simulation = Simulation.resume(file, calculator)
                    self._simulations[index], self._structures[index] = simulation, simulation.atoms.copy()
        self._resumed = set(self._simulations)
        kind = Budget.of(budget)
        self.batch = StructureBatch(calculator, kind, skin)
        self._waiting = Waiting(calculator, self._structures, kind)
        self._results: dict[int, Simulated | Failure] = {}
        self._moving: list[bool] = []  # whether a structure is in the middle of a step
        nothing = torch.zeros(0, 1, dtype=torch.float64, device=calculator.device)
        self._rows = dict.fromkeys(_COLUMNS, nothing)
        self._momenta = self._kick = nothing.expand(0, 3)
        self.steps = 0
        self._began = 0.0

    def run(self, progress: Progress | None = None) -> list[Simulated | Failure]:
        """Simulate all; see `simulate_batched`."""
        self._began = time.perf_counter()
        while self._waiting or self.batch.members:
            self._refill()
            if not self.batch.members:
                continue
            predictions = self.batch.evaluate()
            forces = predictions.forces * self.batch.free.unsqueeze(1)
            self._second_half(forces)
            leaving = self._book(predictions)
            if progress is not None:
                progress(len(self._results), len(self.batch) - len(leaving), self.steps)
            forces = self._keep(leaving, forces)
            if self.batch.members:
                self._keep(self._first_half(forces), forces)
        return [self._results[index] for index in range(len(self._structures))]

    # -- inside --------------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        came, failures = self._waiting.refill(self.batch)
        self._results.update({failure.index: failure for failure in failures})
        for member in came:
            index = member.index
            if index not in self._simulations:
                self._simulations[index] = Simulation(member.atoms.copy(), self._settings[index], self._files[index])
            simulation = self._simulations[index]
            columns = _columns(simulation.atoms, simulation.settings)
            for name in _COLUMNS:
                new = torch.from_numpy(columns[name]).to(self._momenta)
                self._rows[name] = torch.cat([self._rows[name], new])
            momenta = torch.from_numpy(simulation.atoms.get_momenta()).to(self._momenta)
            self._momenta = torch.cat([self._momenta, momenta])
            self._kick = torch.cat([self._kick, torch.zeros_like(momenta)])
            self._moving.append(False)

    def _first_half(self, forces: Tensor) -> set[int]:
        """Half a step of velocities and a whole one of positions; returns who moved too far."""
        batch, rows = self.batch, self._rows
        mass, dt = rows["mass"], rows["dt"]
        if self._langevin:
            xi, eta = self._noise()
            self._kick = rows["c3"] * xi - rows["c4"] * eta
            shift = rows["c5"] * eta
            velocity = self._momenta / mass
            velocity = velocity + (rows["c1"] * forces / mass - rows["c2"] * velocity + self._kick)
            moved = torch.where(batch.free.unsqueeze(1), batch.pos + dt * velocity + shift, batch.pos)
            self._momenta = (moved - batch.pos - shift) / dt * mass
        else:
            self._momenta = self._momenta + 0.5 * dt * forces
            moved = batch.pos + dt * self._momenta / mass
        distance = (moved - batch.pos).norm(dim=1)
        batch.pos = moved
        self._moving = [True] * len(batch)
        far = ~(distance <= rows["limit"].squeeze(1))  # also true for what is no number
        runaways = set(batch.node_graph[far].unique().tolist())
        for position in runaways:
            member, own = batch.members[position], distance[batch.node_slice(position)]
            worst = int(torch.nan_to_num(own, nan=torch.inf).argmax())
            limit = self._simulations[member.index].settings.max_displacement
            self._fail(
                position,
                f"atom {worst} ({member.atoms.symbols[worst]}) moved {float(own[worst]):.3g} Å in one step; at most "
                f"{limit} Å is physical",
            )
        return runaways

    def _second_half(self, forces: Tensor) -> None:
        """The other half of the velocities, of the structures that are in the middle of a step."""
        rows, mass = self._rows, self._rows["mass"]
        if self._langevin:
            velocity = self._momenta / mass
            momenta = mass * (velocity + (rows["c1"] * forces / mass - rows["c2"] * velocity + self._kick))
        else:
            momenta = self._momenta + 0.5 * rows["dt"] * forces
        moving = torch.tensor(self._moving, device=forces.device)[self.batch.node_graph]
        changes = (moving & self.batch.free).unsqueeze(1)
        stays = torch.where(self.batch.free.unsqueeze(1), self._momenta, 0.0)
        self._momenta = torch.where(changes, momenta, stays)

    def _noise(self) -> tuple[Tensor, Tensor]:
        """Two normal numbers for each coordinate, from the generator of each structure, in the order of ASE."""
        xi, eta = [], []
        for member in self.batch.members:
            rng = self._simulations[member.index].rng
            xi.append(rng.standard_normal(size=(len(member.atoms), 3)))
            eta.append(rng.standard_normal(size=(len(member.atoms), 3)))
        first, second = (torch.from_numpy(np.concatenate(values)).to(self._momenta) for values in (xi, eta))
        return first, second

    def _book(self, predictions: Predictions) -> set[int]:
        """Count steps, write what is due; returns who is done or has failed."""
        leaving = set()
        for position, member in enumerate(self.batch.members):
            simulation = self._simulations[member.index]
            if position in predictions.problems:
                self._fail(position, predictions.problems[position])
                leaving.add(position)
                continue
            if self._moving[position]:
                simulation.step += 1
                self.steps += 1
            done = simulation.step >= self._last[member.index]
            due = done or simulation.step % simulation.settings.interval == 0
            if due and (self._moving[position] or member.index not in self._resumed):
                frame = frame_of(self.batch, position, predictions)
                momenta = self._momenta[self.batch.node_slice(position)].cpu().numpy()
                simulation.atoms.set_positions(frame.positions, apply_constraint=False)
                simulation.atoms.set_momenta(momenta, apply_constraint=False)
                simulation.atoms.calc = frame.calc
                simulation.record()
            if done:
                self._finish(member.index)
                leaving.add(position)
        return leaving

    def _keep(self, leaving: set[int], forces: Tensor) -> Tensor:
        """Let structures go; returns the forces on those that stay."""
        if not leaving:
            return forces
        kept = [position for position in range(len(self.batch)) if position not in leaving]
        stays = torch.zeros(len(self.batch), dtype=torch.bool, device=forces.device)
        stays[torch.tensor(kept, dtype=torch.int64, device=forces.device)] = True
        nodes = stays[self.batch.node_graph]
        self._rows = {name: values[nodes] for name, values in self._rows.items()}
        self._momenta, self._kick = self._momenta[nodes], self._kick[nodes]
        self._moving = [self._moving[position] for position in kept]
        self.batch.keep(kept)
        return forces[nodes]

    def _fail(self, position: int, reason: str) -> None:
        member = self.batch.members[position]
        simulation = self._simulations[member.index]
        number = simulation.step + int(self._moving[position])
        when = f"step {number} ({number * simulation.settings.timestep:g} fs): {reason}"
        self._results[member.index] = Failure(member.index, when, simulation.step, member.atoms)

    def _finish(self, index: int) -> None:
        simulation = self._simulations[index]
        seconds = (time.perf_counter() - self._began) / self.steps if self.steps else None
        file = simulation.trajectory
        records = simulation.records if file is None else read_log(beside(file, ".csv"))
        summary = summarize(records, len(simulation.atoms), file, seconds)
        self._results[index] = Simulated(index, simulation.atoms, summary, simulation.records)


_COLUMNS = ("mass", "dt", "limit", "c1", "c2", "c3", "c4", "c5")


def _columns(atoms: Atoms, settings: Settings) -> dict[str, NDArray[np.float64]]:
    """What the integrators need to know of each atom, in ASE's units.

    The c are those of the Langevin integrator of E. Vanden-Eijnden and G. Ciccotti, Chem. Phys. Lett. 429, 310 (2006),
    eq. 23, as `ase.md.langevin.Langevin` names them.
    """
    mass = atoms.get_masses()[:, None]
    one = np.ones_like(mass)
    dt, kt = settings.timestep * units.fs, settings.temperature * units.kB
    damping = 100.0 * settings.timestep if settings.damping is None else settings.damping
    friction = 1.0 / (damping * units.fs)
    sigma = np.sqrt(2 * kt * friction / mass)
    c5 = dt**1.5 * sigma / (2 * np.sqrt(3))
    return {
        "mass": mass,
        "dt": dt * one,
        "limit": settings.max_displacement * one,
        "c1": (dt / 2 - dt * dt * friction / 8) * one,
        "c2": (dt * friction / 2 - dt * dt * friction * friction / 8) * one,
        "c3": np.sqrt(dt) * sigma / 2 - dt**1.5 * friction * sigma / 8,
        "c4": friction / 2 * c5,
        "c5": c5,
    }


def _for_each(settings: Settings | Sequence[Settings], count: int) -> list[Settings]:
    if isinstance(settings, Settings):
        return [replace(settings, seed=settings.seed + index) for index in range(count)]
    return list(settings)


def _is_langevin(settings: Sequence[Settings]) -> bool:
    """Check the settings of all; whether their ensemble is Langevin's."""
    for each in settings:
        if each.ensemble not in BATCHED_ENSEMBLES:
            raise ConfigError(
                f"ensemble '{each.ensemble}' is none for many structures at once"
                f"{nearest(each.ensemble, BATCHED_ENSEMBLES)}; choose from {', '.join(BATCHED_ENSEMBLES)}"
            )
        if each.ensemble != settings[0].ensemble:
            raise ConfigError("all structures of a batch need the same ensemble; simulate them in two batches")
        Simulation(Atoms("H", velocities=[[1.0, 0.0, 0.0]]), each)  # checks the rest
    return bool(settings) and settings[0].ensemble == "langevin"
