"""Relaxation of many structures at once: those that are done leave the batch and waiting ones take their places."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from torch import Tensor

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.batch import Member, Predictions, StructureBatch, frame_of
from geomlib.apply.batched.cell import CellCoordinates
from geomlib.apply.batched.optimizers import BATCHED_OPTIMIZERS, longest_row
from geomlib.apply.batched.waiting import Failure, Waiting
from geomlib.apply.budget import Budget
from geomlib.apply.relax import Relaxation, RelaxSettings, check_settings, end_of, strain_mask
from geomlib.apply.trajectory import TrajectoryFile
from geomlib.errors import ConfigError, nearest

__all__ = ["BatchedRelaxation", "relax_all_batched", "relax_batched", "relax_batched_iter"]

Progress = Callable[[int, int, float], None]

DEFAULTS = RelaxSettings(optimizer="fire")

LARGEST_FORCE = 1e6
"""A structure with a larger force [eV/Å] is given up: its atoms lie on each other, or it explodes."""

LARGEST_VOLUME_RATIO = 20.0
"""A cell that grows or shrinks by more than this factor is given up."""


def relax_batched(
    structures: Iterable[Atoms],
    calculator: Calculator,
    settings: RelaxSettings = DEFAULTS,
    budget: Budget | int | str = "auto",
    skin: float = 0.5,
    progress: Progress | None = None,
) -> list[Relaxation | Failure]:
    """Relax many structures at once.

    Each takes the same steps as alone, as `geomlib.apply.relax.relax` would with ASE's optimizer of the same name
    (rounding apart). They need not be alike, nor take equally many steps.

    Args:
        structures: not changed. `FixAtoms` is kept; other constraints are a failure.
        calculator: of the potential.
        settings: how; `optimizer` is `"fire"` or `"lbfgs"`, and symmetries are not kept.
        budget: how many at once: a budget, a number of atoms, or `"auto"` for what memory and speed allow.
        skin: extra radius of the neighbour lists [Å]; each is built anew only when its structure has moved.
        progress: called after each step with the number of structures that are done, that are in the batch, and the
            largest force among these [eV/Å].

    Returns:
        What came of each, in the order of the structures: a `Relaxation`, or a `Failure` with the reason.

    Raises:
        ConfigError: a setting out of its range.
    """
    listed = list(structures)
    results: list[Relaxation | Failure | None] = [None] * len(listed)
    for index, result in relax_batched_iter(listed, calculator, settings, budget, skin, progress):
        results[index] = result
    return [result for result in results if result is not None]


def relax_batched_iter(
    structures: Sequence[Atoms],
    calculator: Calculator,
    settings: RelaxSettings = DEFAULTS,
    budget: Budget | int | str = "auto",
    skin: float = 0.5,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Relaxation | Failure]]:
    """As `relax_batched`, but each structure comes with its index as soon as it is done."""
    yield from BatchedRelaxation(structures, calculator, settings, budget, skin).run(progress)


def relax_all_batched(
    structures: Sequence[Atoms],
    calculator: Calculator,
    output: str | os.PathLike[str],
    settings: RelaxSettings = DEFAULTS,
    budget: Budget | int | str = "auto",
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Relaxation | Failure]:
    """Relax many structures at once and write each, in their order, as soon as it and those before it are done.

    A structure that failed is written as it came, with `failure` in its `info`.

    Args:
        structures: any number.
        calculator: of the potential.
        output: file of the relaxed structures.
        settings: how.
        budget: how many at once.
        resume: keep the structures that `output` holds already.
        progress: see `relax_batched`.

    Returns: one for each structure that was relaxed now.
    """
    path = Path(output)
    done = len(read(path, index=":")) if resume and path.is_file() and path.stat().st_size else 0
    run = BatchedRelaxation(structures, calculator, settings, budget, first=done)
    results: dict[int, Relaxation | Failure] = {}
    written = done
    with TrajectoryFile(path, end_of(path) if resume else None) as file:
        for index, result in run.run(progress):
            results[index] = result
            while written in results:
                file.write(_frame(results[written]))
                written += 1
    return [results[index] for index in sorted(results)]


def _frame(result: Relaxation | Failure) -> Atoms:
    if isinstance(result, Relaxation):
        return result.atoms
    frame: Atoms = result.atoms.copy()
    frame.info.update(structure=result.index, converged=False, failure=result.reason)
    return frame


class BatchedRelaxation:
    """The state of a relaxation of many structures; see `relax_batched` for the arguments.

    Args:
        structures: all of them.
        calculator: of the potential.
        settings: how.
        budget: how many at once.
        skin: extra radius of the neighbour lists [Å].
        first: structures before this one are left out.

    Attributes:
        batch: the structures that are being relaxed now.
        steps: steps that were taken by all structures together.
    """

    def __init__(
        self,
        structures: Sequence[Atoms],
        calculator: Calculator,
        settings: RelaxSettings = DEFAULTS,
        budget: Budget | int | str = "auto",
        skin: float = 0.5,
        first: int = 0,
    ) -> None:
        check_settings(settings)
        if settings.optimizer not in BATCHED_OPTIMIZERS:
            raise ConfigError(
                f"optimizer '{settings.optimizer}' can't relax many structures at once"
                f"{nearest(settings.optimizer, BATCHED_OPTIMIZERS)}; choose from {', '.join(BATCHED_OPTIMIZERS)}"
            )
        if settings.symmetry:
            raise ConfigError("symmetries can't be kept for many structures at once: relax them one by one")
        self.settings = settings
        kind = Budget.of(budget)
        self.batch = StructureBatch(calculator, kind, skin)
        moving = settings.cell != "fixed"
        self._waiting = Waiting(calculator, structures, kind, strain_mask if moving else None, first)
        pressure = settings.pressure * units.GPa
        self._cells = CellCoordinates(settings.cell, pressure, calculator.device) if moving else None
        self._optimizer = BATCHED_OPTIMIZERS[settings.optimizer](calculator.device)
        self._taken: list[int] = []
        self._first_energy: list[float | None] = []
        self.steps = 0
        self._done = 0
        self._arrange()

    def run(self, progress: Progress | None = None) -> Iterator[tuple[int, Relaxation | Failure]]:
        """Relax, and give each structure back as soon as it is done."""
        while self._waiting or self.batch.members:
            for failure in self._refill():
                self._done += 1
                yield failure.index, failure
            if not self.batch.members:
                continue
            predictions = self.batch.evaluate()
            forces = self._forces(predictions)
            largest = longest_row(forces, self._owner, len(self.batch))
            finished = self._finished(predictions, largest)
            for _, index, result in finished:
                self._done += 1
                yield index, result
            if progress is not None:
                worst = torch.nan_to_num(largest, nan=0.0, posinf=0.0).max()
                progress(self._done, len(self.batch) - len(finished), float(worst))
            if finished:
                forces = self._keep({position for position, _, _ in finished}, forces)
            if self.batch.members:
                self._step(forces)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _refill(self) -> list[Failure]:
        came, failures = self._waiting.refill(self.batch)
        if not came:
            return failures
        atoms = sum(len(member.atoms) for member in came)
        self._taken += [0] * len(came)
        self._first_energy += [None] * len(came)
        self._optimizer.add(len(came), atoms if self._cells is None else atoms + 3 * len(came))
        if self._cells is not None:
            like = self.batch.cell
            masks = torch.from_numpy(np.stack([strain_mask(member.atoms) for member in came])).to(like)
            counts = torch.tensor([float(len(member.atoms)) for member in came]).to(like)
            self._cells.add(like[-len(came) :], masks, counts)
        self._arrange()
        return failures

    def _arrange(self) -> None:
        """Which rows of the coordinates are atoms and which are cells: each structure's atoms, then its cell."""
        graphs, extra = len(self.batch), 0 if self._cells is None else 3
        node_graph = self.batch.node_graph
        device = node_graph.device
        atoms = torch.arange(len(node_graph), device=device)
        self._atom_rows = atoms + extra * node_graph
        counts = torch.bincount(node_graph, minlength=graphs)
        ends = counts.cumsum(0) + extra * torch.arange(graphs, device=device)
        self._cell_rows = (ends.unsqueeze(1) + torch.arange(extra, device=device)).reshape(-1)
        self._owner = torch.repeat_interleave(torch.arange(graphs, device=device), counts + extra)

    def _rows(self, atoms: Tensor, cells: Tensor | None) -> Tensor:
        """Rows of atoms and cells as one array."""
        rows = atoms.new_zeros(len(self._owner), 3)
        rows[self._atom_rows] = atoms
        if cells is not None:
            rows[self._cell_rows] = cells.reshape(-1, 3)
        return rows

    def _forces(self, predictions: Predictions) -> Tensor:
        """Generalised forces on all rows."""
        forces = predictions.forces * self.batch.free.unsqueeze(1)
        if self._cells is None:
            return forces
        forces = torch.einsum("nc,ncd->nd", forces, self._cells.deformation()[self.batch.node_graph])
        return self._rows(forces, self._cells.forces(predictions.virial, self.batch.cell))

    def _step(self, forces: Tensor) -> None:
        batch, cells = self.batch, self._cells
        self.steps += len(batch)
        self._taken = [taken + 1 for taken in self._taken]
        if cells is None:
            batch.pos = batch.pos + self._optimizer.step(batch.pos, forces, self._owner)
            return
        inverse = torch.linalg.inv(cells.deformation().mT)[batch.node_graph]
        coordinates = self._rows(torch.einsum("nc,ncd->nd", batch.pos, inverse), cells.rows())
        step = self._optimizer.step(coordinates, forces, self._owner)
        batch.cell = cells.move(step[self._cell_rows].view(-1, 3, 3))
        moved = (coordinates + step)[self._atom_rows]
        batch.pos = torch.einsum("nc,ncd->nd", moved, cells.deformation().mT[batch.node_graph])

    def _keep(self, gone: set[int], forces: Tensor) -> Tensor:
        """Let structures go; returns the forces of those that stay."""
        kept = [position for position in range(len(self.batch)) if position not in gone]
        graphs = torch.tensor(kept, dtype=torch.int64, device=forces.device)
        stays = torch.zeros(len(self.batch), dtype=torch.bool, device=forces.device)
        stays[graphs] = True
        rows = stays[self._owner].nonzero().squeeze(1)
        self._optimizer.keep(graphs, rows)
        if self._cells is not None:
            self._cells.keep(graphs)
        self.batch.keep(kept)
        self._taken = [self._taken[position] for position in kept]
        self._first_energy = [self._first_energy[position] for position in kept]
        self._arrange()
        return forces[rows]

    def _finished(self, predictions: Predictions, largest: Tensor) -> list[tuple[int, int, Relaxation | Failure]]:
        """(position, index, result) of the structures that leave."""
        finished: list[tuple[int, int, Relaxation | Failure]] = []
        energies, bounds = predictions.energy.tolist(), largest.tolist()
        ratios = None
        if self._cells is not None:
            ratios = (torch.linalg.det(self.batch.cell) / torch.linalg.det(self._cells.reference)).tolist()
        for position, member in enumerate(self.batch.members):
            problem = predictions.problems.get(position)
            if problem is None and not bounds[position] < LARGEST_FORCE:
                problem = f"explodes: the largest force is {bounds[position]:.3g} eV/Å"
            if problem is None and ratios is not None:
                ratio = ratios[position]
                if not 1 / LARGEST_VOLUME_RATIO < ratio < LARGEST_VOLUME_RATIO:
                    problem = f"its cell runs away: the volume is {ratio:.3g} times that at the start"
            if problem is not None:
                when = f"step {self._taken[position]}: {problem}"
                failure = Failure(member.index, when, self._taken[position], member.atoms)
                finished.append((position, member.index, failure))
                continue
            if self._first_energy[position] is None:
                self._first_energy[position] = energies[position]
            converged = bounds[position] < self.settings.fmax
            if converged or self._taken[position] >= self.settings.steps:
                result = self._result(position, member, predictions, converged)
                finished.append((position, member.index, result))
        return finished

    def _result(self, position: int, member: Member, predictions: Predictions, converged: bool) -> Relaxation:
        final = frame_of(self.batch, position, predictions)
        final.info.update(structure=member.index, converged=converged)
        stress = None
        if "stress" in final.calc.results:
            external = np.array([1, 1, 1, 0, 0, 0]) * self.settings.pressure * units.GPa
            stress = float(np.abs(final.get_stress() + external).max() / units.GPa)
        volume = abs(member.atoms.cell.volume)
        energy = float(final.get_potential_energy())
        first = self._first_energy[position]
        return Relaxation(
            atoms=final,
            converged=converged,
            steps=self._taken[position],
            initial_energy=energy if first is None else first,
            energy=energy,
            max_force=float(np.linalg.norm(final.get_forces(), axis=1).max()),
            max_stress=stress,
            volume_change=abs(final.cell.volume) / volume - 1.0 if volume > 0 else None,
        )
