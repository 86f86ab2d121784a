"""Relaxation of positions and cells with ASE's optimizers and cell filters."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer

from geomlib.apply.trajectory import TrajectoryFile, snapshot
from geomlib.errors import ConfigError, DataError, MissingExtra, nearest

__all__ = [
    "CELL_CHANGES",
    "OPTIMIZERS",
    "RelaxSettings",
    "Relaxation",
    "check_settings",
    "end_of",
    "relax",
    "relax_all",
    "strain_mask",
]

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"lbfgs": LBFGS, "bfgs": BFGS, "fire": FIRE}
"""Name → ASE's optimizer."""

CELL_CHANGES = ("fixed", "full", "isotropic", "shape")
"""What may happen to the cell: nothing, anything, its volume only, anything but its volume."""

Progress = Callable[[int, float, float], None]


@dataclass(frozen=True, slots=True)
class RelaxSettings:
    """How to relax.

    Args:
        optimizer: key of `OPTIMIZERS`.
        fmax: stop when no atom has a larger force [eV/Å]; with a moving cell, the same bound holds for the gradient
            with respect to the deformation, which is −volume·(stress + pressure) [eV] of the whole cell.
        steps: give up after so many.
        cell: one of `CELL_CHANGES`. Open directions never change.
        pressure: external, for a moving cell [GPa].
        symmetry: keep the space group (needs spglib).
    """

    optimizer: str = "lbfgs"
    fmax: float = 0.01
    steps: int = 500
    cell: str = "fixed"
    pressure: float = 0.0
    symmetry: bool = False


@dataclass(frozen=True, slots=True)
class Relaxation:
    """What came of a relaxation.

    Attributes:
        atoms: the structure at the end, with energy, forces and, where there is one, stress.
        converged: whether the bound was reached.
        steps: optimizer steps.
        initial_energy: [eV].
        energy: at the end [eV].
        max_force: at the end [eV/Å].
        max_stress: largest component of stress + pressure at the end [GPa]; None without stress.
        volume_change: volume at the end / at the start − 1; None without a volume.
    """

    atoms: Atoms
    converged: bool
    steps: int
    initial_energy: float
    energy: float
    max_force: float
    max_stress: float | None
    volume_change: float | None


def relax(
    atoms: Atoms,
    settings: RelaxSettings = RelaxSettings(),
    trajectory: TrajectoryFile | None = None,
    progress: Progress | None = None,
    number: int = 0,
) -> Relaxation:
    """Relax one structure in place.

    Args:
        atoms: with a calculator.
        settings: how.
        trajectory: takes each step.
        progress: called with step, energy [eV] and largest force [eV/Å] or gradient.
        number: of the structure, for the trajectory.

    Raises:
        ConfigError: a setting out of its range.
        DataError: a cell that can't be relaxed as asked.
    """
    check_settings(settings)
    volume = abs(atoms.cell.volume)
    if settings.symmetry:
        _fix_symmetry(atoms)
    target: Any = atoms if settings.cell == "fixed" else _cell_filter(atoms, settings)
    optimizer = OPTIMIZERS[settings.optimizer](target, logfile=None)
    initial = float(atoms.get_potential_energy())
    converged = False
    for reached in optimizer.irun(fmax=settings.fmax, steps=settings.steps):
        converged = bool(reached)
        if progress is not None:
            gradient = np.linalg.norm(target.get_forces(), axis=1).max()
            progress(optimizer.nsteps, float(atoms.get_potential_energy()), float(gradient))
        if trajectory is not None:
            trajectory.write(snapshot(atoms, structure=number, step=optimizer.nsteps))
    final = snapshot(atoms, structure=number, converged=converged)
    stress = None
    if "stress" in final.calc.results:
        external = np.array([1, 1, 1, 0, 0, 0]) * settings.pressure * units.GPa
        stress = float(np.abs(final.get_stress() + external).max() / units.GPa)
    return Relaxation(
        atoms=final,
        converged=converged,
        steps=optimizer.nsteps,
        initial_energy=initial,
        energy=float(final.get_potential_energy()),
        max_force=float(np.linalg.norm(final.get_forces(), axis=1).max()),
        max_stress=stress,
        volume_change=abs(final.cell.volume) / volume - 1.0 if volume > 0 else None,
    )


def relax_all(
    structures: Iterable[Atoms],
    calculator: BaseCalculator,
    output: str | os.PathLike[str],
    settings: RelaxSettings = RelaxSettings(),
    trajectory: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Relaxation]:
    """Relax structures one after the other and write each as soon as it is done.

    Args:
        structures: any number.
        calculator: for all of them.
        output: file of the relaxed structures.
        settings: how.
        trajectory: file of all steps.
        resume: keep the structures that `output` holds already, and go on from the last frame of `trajectory` with
            the one that was interrupted. The memory of the optimizer begins anew.
        progress: see `relax`.

    Returns: one for each structure that was relaxed now.
    """
    done, interrupted = _progress_so_far(Path(output), None if trajectory is None else Path(trajectory), resume)
    results = []
    with ExitStack() as files:
        finished = files.enter_context(TrajectoryFile(output, end_of(Path(output)) if resume else None))
        steps = None
        if trajectory is not None:
            steps = files.enter_context(TrajectoryFile(trajectory, end_of(Path(trajectory)) if resume else None))
        for number, atoms in enumerate(structures):
            if number < done:
                continue
            current = atoms.copy()
            if number == done and interrupted is not None:
                current.set_cell(interrupted.cell)
                current.set_positions(interrupted.positions, apply_constraint=False)
            current.calc = calculator
            result = relax(current, settings, steps, progress, number)
            finished.write(result.atoms)
            results.append(result)
    return results


def end_of(path: Path) -> int | None:
    """Where a trajectory that goes on ends now; None if there is none."""
    if not path.is_file():
        return None
    return len(read(path, index=":")) if path.suffix == ".traj" else path.stat().st_size


def _progress_so_far(output: Path, trajectory: Path | None, resume: bool) -> tuple[int, Atoms | None]:
    """Number of finished structures, and the last frame of the one that was being relaxed."""
    if not resume:
        return 0, None
    done = len(read(output, index=":")) if output.is_file() and output.stat().st_size else 0
    if trajectory is None or not trajectory.is_file() or not trajectory.stat().st_size:
        return done, None
    (last,) = read(trajectory, index="-1:")
    return done, last if last.info.get("structure") == done else None


def check_settings(settings: RelaxSettings) -> None:
    """Raise `ConfigError` for a setting out of its range."""
    for name, value, known in (
        ("optimizer", settings.optimizer, tuple(OPTIMIZERS)),
        ("cell", settings.cell, CELL_CHANGES),
    ):
        if value not in known:
            raise ConfigError(f"{name} '{value}' is unknown{nearest(value, known)}; choose from {', '.join(known)}")
    if not settings.fmax > 0 or settings.steps < 0:
        raise ConfigError(f"fmax is {settings.fmax} and steps {settings.steps}; expected positive numbers")


def _fix_symmetry(atoms: Atoms) -> None:
    try:
        import spglib  # noqa: F401 - only to see whether it is there
    except ImportError:
        raise MissingExtra("spglib", "md", "keeping the symmetry") from None
    from ase.constraints import FixSymmetry

    atoms.set_constraint([*atoms.constraints, FixSymmetry(atoms)])


def _cell_filter(atoms: Atoms, settings: RelaxSettings) -> FrechetCellFilter:
    return FrechetCellFilter(
        atoms,
        mask=strain_mask(atoms),
        hydrostatic_strain=settings.cell == "isotropic",
        constant_volume=settings.cell == "shape",
        scalar_pressure=settings.pressure * units.GPa,
    )


def strain_mask(atoms: Atoms) -> np.ndarray:
    """1 for the components of strain that deform periodic directions only, 3 × 3.

    Raises:
        DataError: a cell that can't be relaxed.
    """
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        raise DataError(
            f"the cell of {atoms.get_chemical_formula()} can't relax: pbc is {atoms.pbc.tolist()} and it has "
            f"{atoms.cell.rank} lattice vectors; give a periodic structure with three, or keep the cell fixed"
        )
    mask = np.ones((3, 3))
    for axis in np.flatnonzero(~atoms.pbc):
        vector = np.abs(atoms.cell[axis])
        along = int(np.argmax(vector))
        others = np.delete(np.array(atoms.cell), axis, axis=0)
        if np.delete(vector, along).max() > 1e-6 or np.abs(others[:, along]).max() > 1e-6:
            raise DataError(
                f"the cell of {atoms.get_chemical_formula()} can't relax: its open lattice vector {axis} must lie "
                "along x, y or z and be perpendicular to the periodic ones; turn the structure"
            )
        mask[along, :] = mask[:, along] = 0.0
    return mask
