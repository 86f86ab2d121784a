"""Phonons from finite displacements in a supercell: bands, density of states, imaginary modes."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.dft import monkhorst_pack
from ase.phonons import Phonons as AsePhonons
from numpy.typing import NDArray

from geomlib.apply.ase import Calculator
from geomlib.errors import ConfigError, DataError, GeomlibWarning, MissingExtra

__all__ = ["ForceConstants", "PhononResult", "default_supercell", "force_constants", "phonons", "plot"]

_THZ = 1e-12 * units._e / units._hplanck
"""1 eV of ħω in THz."""

_THZ_OF_ROOT = 1e-2 * np.sqrt(units._e / units._amu) / (2 * np.pi)
"""1 √(eV/Å²/u) of angular frequency in THz."""

Progress = Callable[[int, int], None]


class ForceConstants(Protocol):
    """What gives frequencies at any wave vector."""

    def frequencies(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Frequencies [THz] at fractional wave vectors, `[points, 3·atoms]` ascending; imaginary ones negative."""


@dataclass(frozen=True, slots=True)
class PhononResult:
    """Phonons along a path and on a mesh.

    Attributes:
        points: wave vectors of the path, fractional, `[points, 3]`.
        distance: place of each along the path [1/Å].
        frequencies: `[points, 3·atoms]` [THz], ascending; imaginary ones negative.
        labels: (distance, name) of the special points.
        dos_frequencies: centres of the bins [THz].
        dos: states per THz and cell; integrates to 3·atoms.
        lowest: lowest frequency on path and mesh, acoustic modes at Γ left out [THz].
        lowest_at: wave vector where it is.
        largest_force: on the undisplaced structure [eV/Å].
        supercell: repetitions.
    """

    points: NDArray[np.float64]
    distance: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    labels: list[tuple[float, str]]
    dos_frequencies: NDArray[np.float64]
    dos: NDArray[np.float64]
    lowest: float
    lowest_at: tuple[float, float, float]
    largest_force: float
    supercell: tuple[int, int, int]


def default_supercell(atoms: Atoms, length: float = 10.0) -> tuple[int, int, int]:
    """Repetitions that make periodic directions at least `length` [Å] long."""
    lengths = atoms.cell.lengths()
    repeats = [
        int(np.ceil(length / size)) if periodic else 1 for size, periodic in zip(lengths, atoms.pbc, strict=True)
    ]
    return repeats[0], repeats[1], repeats[2]


def phonons(
    atoms: Atoms,
    calculator: BaseCalculator,
    supercell: tuple[int, int, int] | None = None,
    displacement: float = 0.01,
    path: str | None = None,
    points: int = 200,
    mesh: int = 20,
    engine: str = "ase",
    progress: Progress | None = None,
) -> PhononResult:
    """Bands and density of states of a relaxed periodic structure.

    Args:
        atoms: one cell; left as it is.
        calculator: of the forces.
        supercell: repetitions in which atoms are displaced; at least 10 Å long if not given.
        displacement: of each atom, ± along x, y and z [Å].
        path: special points, e.g. `"GXWGL"`; the lattice's standard path if not given.
        points: number of wave vectors on it.
        mesh: divisions of the Brillouin zone along each periodic direction for the density of states.
        engine: `ase`, or `phonopy`, which displaces only what symmetry does not give.
        progress: called with the number of displacements done and their total.

    Raises:
        ConfigError: an unknown engine, or a value out of its range.
        DataError: a structure that is not periodic, or a path that its lattice does not have.
        MissingExtra: phonopy is not installed.
    """
    if not displacement > 0 or points < 2 or mesh < 1:
        raise ConfigError(
            f"displacement is {displacement}, points {points}, mesh {mesh}; expected positive numbers, 2 points or more"
        )
    if not atoms.pbc.any() or atoms.cell.rank < 3:
        raise DataError(
            f"{atoms.get_chemical_formula()} has pbc {atoms.pbc.tolist()} and {atoms.cell.rank} lattice vectors; "
            "phonons need a periodic structure with a full cell"
        )
    repeats = default_supercell(atoms) if supercell is None else supercell
    constants, largest_force = force_constants(atoms, calculator, repeats, displacement, engine, progress)
    try:
        band_path = atoms.cell.bandpath(path, npoints=points, pbc=atoms.pbc)
    except (ValueError, KeyError) as error:
        raise DataError(f"path '{path}' does not exist in this lattice: {error}") from None
    distance, positions, names = band_path.get_linear_kpoint_axis()
    frequencies = constants.frequencies(band_path.kpts)
    divisions = [mesh if periodic else 1 for periodic in atoms.pbc]
    grid = monkhorst_pack(divisions)
    on_grid = constants.frequencies(grid)
    lowest, lowest_at = _lowest(np.vstack([band_path.kpts, grid]), np.vstack([frequencies, on_grid]))
    dos_frequencies, dos = _density(on_grid)
    result = PhononResult(
        points=band_path.kpts,
        distance=distance,
        frequencies=frequencies,
        labels=[(float(place), "Γ" if name == "G" else name) for place, name in zip(positions, names, strict=True)],
        dos_frequencies=dos_frequencies,
        dos=dos,
        lowest=lowest,
        lowest_at=lowest_at,
        largest_force=largest_force,
        supercell=repeats,
    )
    _warn(result)
    return result


def force_constants(
    atoms: Atoms,
    calculator: BaseCalculator,
    supercell: tuple[int, int, int],
    displacement: float,
    engine: str = "ase",
    progress: Progress | None = None,
) -> tuple[ForceConstants, float]:
    """Force constants, and the largest force on the undisplaced structure [eV/Å].

    Args:
        atoms: one cell.
        calculator: of the forces.
        supercell: repetitions.
        displacement: [Å].
        engine: `ase` or `phonopy`.
        progress: see `phonons`.

    Raises:
        ConfigError: an unknown engine.
        MissingExtra: phonopy is not installed.
    """
    if engine == "ase":
        return _with_ase(atoms, calculator, supercell, displacement, progress)
    if engine == "phonopy":
        return _with_phonopy(atoms, calculator, supercell, displacement, progress)
    raise ConfigError(f"phonon engine '{engine}' is unknown; choose from ase, phonopy")


def _forces(
    structures: list[Atoms], calculator: BaseCalculator, progress: Progress | None
) -> list[NDArray[np.float64]]:
    forces = []
    for number, atoms in enumerate(structures, start=1):
        if isinstance(calculator, Calculator):
            (results,) = calculator.evaluate([atoms])
            forces.append(results["forces"])
        else:
            atoms.calc = calculator
            forces.append(atoms.get_forces(apply_constraint=False))
        if progress is not None:
            progress(number, len(structures))
    return forces


class _AseConstants:
    def __init__(self, phonons: AsePhonons) -> None:
        self._phonons = phonons

    def frequencies(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `ForceConstants`."""
        found: NDArray[np.float64] = self._phonons.band_structure(points, verbose=False) * _THZ
        return found


def _with_ase(
    atoms: Atoms,
    calculator: BaseCalculator,
    supercell: tuple[int, int, int],
    displacement: float,
    progress: Progress | None,
) -> tuple[ForceConstants, float]:
    cell = atoms.copy()
    cell.set_constraint()
    engine: Any = AsePhonons(cell, supercell=supercell, delta=displacement, name="unused")
    large = cell * supercell
    names, structures = ["eq"], [large]
    for atom in range(len(cell)):
        for axis, letter in enumerate("xyz"):
            for sign, mark in ((-1, "-"), (1, "+")):
                moved = large.copy()
                moved.positions[atom, axis] += sign * displacement
                names.append(f"{atom}{letter}{mark}")
                structures.append(moved)
    forces = _forces(structures, calculator, progress)
    largest = float(np.linalg.norm(forces[0], axis=1).max())
    # ASE keeps forces in a folder of files; a dictionary serves as well and leaves nothing behind
    engine.cache = {name: {"forces": force} for name, force in zip(names, forces, strict=True)}
    engine.read(acoustic=True)
    return _AseConstants(engine), largest


class _PhonopyConstants:
    def __init__(self, phonopy: Any) -> None:
        self._phonopy = phonopy

    def frequencies(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `ForceConstants`."""
        matrix, rows = self._phonopy.dynamical_matrix, []
        for point in points:
            matrix.run(point)
            squares = np.linalg.eigvalsh(matrix.dynamical_matrix)  # eV/Å²/u
            rows.append(np.sign(squares) * np.sqrt(np.abs(squares)))
        return _THZ_OF_ROOT * np.array(rows)


def _with_phonopy(
    atoms: Atoms,
    calculator: BaseCalculator,
    supercell: tuple[int, int, int],
    displacement: float,
    progress: Progress | None,
) -> tuple[ForceConstants, float]:
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError:
        raise MissingExtra("phonopy", "md", "the phonon engine 'phonopy'") from None
    cell = PhonopyAtoms(symbols=list(atoms.symbols), cell=np.array(atoms.cell), positions=atoms.positions)
    cell.masses = atoms.get_masses()
    engine: Any = Phonopy(cell, supercell_matrix=np.diag(supercell), primitive_matrix=np.eye(3))
    engine.generate_displacements(distance=displacement)
    structures = [
        Atoms(list(large.symbols), positions=large.positions, cell=large.cell, pbc=atoms.pbc, info=atoms.info)
        for large in [engine.supercell, *engine.supercells_with_displacements]
    ]
    forces = _forces(structures, calculator, progress)
    largest = float(np.linalg.norm(forces[0], axis=1).max())
    engine.forces = forces[1:]
    engine.produce_force_constants()
    engine.symmetrize_force_constants()
    return _PhonopyConstants(engine), largest


def _lowest(points: NDArray[np.float64], frequencies: NDArray[np.float64]) -> tuple[float, tuple[float, float, float]]:
    """The lowest frequency and where it is; at Γ the three modes nearest to zero are translations."""
    centre = np.flatnonzero(np.abs(points - np.round(points)).max(1) < 1e-8)
    lowest = frequencies.min(1)
    for index in centre:
        optical = np.delete(frequencies[index], np.argsort(np.abs(frequencies[index]))[:3])
        lowest[index] = optical.min() if len(optical) else np.inf
    where = int(np.argmin(lowest))
    a, b, c = (float(value) for value in points[where])
    return float(lowest[where]), (a, b, c)


def _density(frequencies: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States per THz, smoothed with a Gaussian of 1/100 of the range of frequencies."""
    low, high = min(0.0, float(frequencies.min())), float(frequencies.max())
    width = max((high - low) / 100, 1e-6)
    grid = np.linspace(low - 5 * width, high + 5 * width, 400)
    step = grid[1] - grid[0]
    counts, _ = np.histogram(frequencies, bins=len(grid), range=(grid[0] - step / 2, grid[-1] + step / 2))
    kernel = np.exp(-0.5 * ((grid - grid.mean()) / width) ** 2)
    kernel /= kernel.sum()
    smooth = np.convolve(counts, kernel, mode="same") / (len(frequencies) * step)
    return grid, smooth


def _warn(result: PhononResult) -> None:
    if result.largest_force > 0.05:
        warnings.warn(
            f"the structure is not relaxed: an atom has a force of {result.largest_force:.3f} eV/Å, so frequencies are "
            "not those of a minimum; run 'geomlib relax MODEL STRUCTURE --cell full' first",
            GeomlibWarning,
            stacklevel=3,
        )
    if result.lowest < -0.1:
        place = ", ".join(f"{value:.3f}" for value in result.lowest_at)
        warnings.warn(
            f"imaginary modes: the lowest frequency is {result.lowest:.2f} THz (negative means imaginary) at the wave "
            f"vector ({place}); the structure is no minimum for this model, or the supercell {result.supercell} is "
            "too small",
            GeomlibWarning,
            stacklevel=3,
        )


def plot(result: PhononResult, path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw bands and density of states side by side; the ending of `path` decides the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), layout="constrained")
    bands, density = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    bands.plot(result.distance, result.frequencies, color="C0", linewidth=1)
    for place, _ in result.labels:
        bands.axvline(place, color="0.8", linewidth=0.8, zorder=0)
    bands.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    bands.set_xticks([place for place, _ in result.labels], [name for _, name in result.labels])
    bands.set_xlim(result.distance[0], result.distance[-1])
    bands.set_ylabel("frequency [THz]")
    density.fill_betweenx(result.dos_frequencies, result.dos, alpha=0.4)
    density.plot(result.dos, result.dos_frequencies, linewidth=1)
    density.set_xlabel("states per THz")
    density.set_xlim(left=0)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150)
    return Path(path)
