"""What every ASE calculator of a potential must do, as a suite to inherit.

    class TestMine(CalculatorTests):
        cutoffs = (6.0,)

        def make_calculator(self):
            return Calculator("mine.safetensors", dtype="float64")

        def structures(self):
            return {"water": ..., "copper": ...}

pytest then runs every check below. A calculator that can't do a thing (no stress, no batches) is skipped there.
"""

import gc
import random
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from geomlib.testing.gradients import numerical_forces, numerical_stress

__all__ = ["CalculatorTests"]


class CalculatorTests:
    """Checks of energy, forces and stress; inherit and define `make_calculator` and `structures`.

    Class attributes:
        cutoffs: distances at which pairs begin to interact, in any way [Å].
        energy_jump: largest jump of the energy there [eV].
        force_jump: largest jump of a force there [eV/Å].
        reach: atoms farther apart than this know nothing of each other [Å].
        gradient_tolerance: of forces and stress against differences, relative to the largest component.
        tolerance: of equalities that hold exactly but for rounding, per atom [eV, eV/Å].
        memory_steps: length of the simulation in which memory must not grow.
    """

    cutoffs: tuple[float, ...] = ()
    energy_jump: float = 1e-9
    force_jump: float = 1e-7
    reach: float = 25.0
    gradient_tolerance: float = 1e-6
    tolerance: float = 1e-9
    memory_steps: int = 1000

    def make_calculator(self) -> Any:
        """A fresh calculator, in float64."""
        raise NotImplementedError(f"{type(self).__name__} must define make_calculator()")

    def structures(self) -> Mapping[str, Atoms]:
        """Structures by name, off their symmetric places; at least one periodic in all directions, one in none."""
        raise NotImplementedError(f"{type(self).__name__} must define structures()")

    # -- derivatives ---------------------------------------------------------------------------------------------

    def test_forces_are_minus_the_gradient(self):
        """−∂E/∂r by central differences."""
        for name, atoms in self._ready().items():
            chosen = np.random.default_rng(1).permutation(len(atoms))[:3]
            scale = max(float(np.abs(atoms.get_forces()).max()), 1e-3)
            error = numerical_forces(atoms, chosen.tolist()) - atoms.get_forces()[chosen]
            self._within(error, self.gradient_tolerance * scale, f"{name}: forces against differences")

    def test_stress_is_the_strain_derivative(self):
        """∂E/∂ε / V by central differences."""
        self._require_stress()
        for name, atoms in self._ready().items():
            if not atoms.pbc.any() or atoms.cell.rank < 3:
                continue
            stress = atoms.get_stress()
            error = numerical_stress(atoms) - stress
            scale = max(float(np.abs(stress).max()), 1e-5)
            self._within(error, self.gradient_tolerance * scale, f"{name}: stress against differences")

    # -- symmetries ----------------------------------------------------------------------------------------------

    def test_rotation(self):
        """Energies stay, forces and stress turn along."""
        self._check_rotation(_rotation(np.random.default_rng(2)), "rotation")

    def test_reflection(self):
        """A mirror image has the same energy."""
        self._check_rotation(_rotation(np.random.default_rng(3)) @ np.diag([1.0, 1.0, -1.0]), "reflection")

    def test_translation(self):
        """No place is special, near the origin or far away."""
        for name, atoms in self._ready().items():
            for vector in ([0.37, -1.2, 2.9], [-180.0, 45.0, 77.7]):
                moved = atoms.copy()
                moved.positions += vector
                self._same(atoms, moved, f"{name}: translation by {vector}", slack=10)

    def test_permutation(self):
        """The order of atoms is of no account."""
        for name, atoms in self._ready().items():
            for order in (np.arange(len(atoms))[::-1], np.random.default_rng(4).permutation(len(atoms))):
                self._same(atoms, atoms[order], f"{name}: permutation", partial(_in_order, order))

    def test_wrapping_and_images(self):
        """Atoms may be replaced by their periodic images, one by one."""
        for name, atoms in self._periodic().items():
            hops = np.random.default_rng(5).integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc
            moved = atoms.copy()
            moved.positions += hops @ atoms.cell.array
            self._same(atoms, moved, f"{name}: images", slack=10)
            moved.wrap()
            self._same(atoms, moved, f"{name}: wrapped")

    def test_other_lattice_vectors(self):
        """Other vectors of the same lattice, skewed ones and a left-handed set too."""
        for name, atoms in self._periodic().items():
            if not atoms.pbc.all():
                continue
            for change in ([[1, 0, 0], [2, 1, 0], [-1, 1, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]]):
                other = atoms.copy()
                other.set_cell(np.array(change) @ atoms.cell.array)
                self._same(atoms, other, f"{name}: lattice vectors {change}")

    def test_supercell(self):
        """Twice the cell has twice the energy and the same forces and stress."""
        for name, atoms in self._periodic().items():
            for axis in np.flatnonzero(atoms.pbc):
                repeats = np.ones(3, dtype=int)
                repeats[axis] = 2
                large = atoms * repeats
                large.calc = self.make_calculator()
                energy = large.get_potential_energy() / 2 - atoms.get_potential_energy()
                self._within(energy, self.tolerance * len(atoms), f"{name}: energy of a supercell along {axis}")
                forces = large.get_forces() - np.tile(atoms.get_forces(), (2, 1))
                self._within(forces, self.tolerance, f"{name}: forces of a supercell along {axis}")
                if self._stress(atoms) is not None:
                    stress = large.get_stress() - atoms.get_stress()
                    self._within(stress, self.tolerance, f"{name}: stress of a supercell along {axis}")

    # -- smoothness ----------------------------------------------------------------------------------------------

    def test_smooth_at_the_cutoffs(self):
        """Energy and forces have no jump where a pair comes into reach."""
        if not self.cutoffs:
            raise SkipTest("no cutoffs are stated")
        for name, atoms in self._open().items():
            for cutoff in self.cutoffs:
                energy, forces = self._jump(atoms, cutoff)
                self._within(energy, self.energy_jump, f"{name}: jump of the energy at {cutoff} Å")
                self._within(forces, self.force_jump, f"{name}: jump of the forces at {cutoff} Å")

    # -- boundaries ----------------------------------------------------------------------------------------------

    def test_slabs(self):
        """An open direction counts for nothing: neither the vacuum, nor the lattice vector, nor its absence."""
        for name, atoms in self._bulk().items():
            height = float(np.ptp(atoms.positions[:, 2])) + self.reach
            normal = np.cross(atoms.cell[0], atoms.cell[1])
            normal /= np.linalg.norm(normal)
            self._check_open_axes(atoms, (True, True, False), [height * normal, 2.7 * height * normal], name, "slab")

    def test_wires(self):
        """As slabs, with one periodic direction."""
        for name, atoms in self._bulk().items():
            size = 2 * float(np.ptp(atoms.positions, axis=0).max()) + self.reach
            self._check_open_axes(atoms, (True, False, False), [size * np.eye(3)[2]], name, "wire")

    def test_zero_and_dummy_cells(self):
        """Without periodic directions the cell counts for nothing."""
        for name, atoms in self._open().items():
            for cell in (np.zeros((3, 3)), np.eye(3), [[9, 1, 0], [0, 0.1, 5], [3, 0, 0.2]], -7 * np.eye(3)):
                other = atoms.copy()
                other.set_cell(cell)
                self._same(atoms, other, f"{name}: cell {np.asarray(cell).tolist()}", stress=False)

    def test_no_stress_without_volume(self):
        """Asking for a stress that does not exist is refused, and harms nothing."""
        self._require_stress()
        for name, atoms in self._open().items():
            bare = atoms.copy()
            bare.set_cell(np.zeros((3, 3)))
            bare.calc = self.make_calculator()
            try:
                stress = bare.get_stress()
            except PropertyNotImplementedError:
                self._within(bare.get_potential_energy() - atoms.get_potential_energy(), self.tolerance, name)
                continue
            raise AssertionError(f"{name}: has no volume, but a stress of {stress}")

    def test_single_atoms(self):
        """One atom alone feels nothing; neither does one in a lattice of its images."""
        for number in self._numbers():
            atom = Atoms(numbers=[number], positions=[[0.3, -2.0, 11.0]], calculator=self.make_calculator())
            assert np.isfinite(atom.get_potential_energy()), f"element {number}: energy of one atom"
            self._within(atom.get_forces(), self.tolerance, f"element {number}: force on one atom")
            lattice = Atoms(numbers=[number], cell=[[0, 2, 2.1], [2, 0, 2], [2.2, 2, 0]], pbc=True)
            lattice.calc = self.make_calculator()
            self._within(lattice.get_forces(), self.tolerance, f"element {number}: force in a lattice of one atom")

    def test_far_fragments(self):
        """Energies of fragments out of reach add up, and their forces are their own."""
        fragments = list(self._open().values())
        fragments += [Atoms(numbers=[number], calculator=self.make_calculator()) for number in self._numbers()]
        together, energy, forces, shift = Atoms(), 0.0, [], 0.0
        for fragment in fragments:
            moved = fragment.copy()
            moved.set_cell(None)
            moved.positions += [shift - moved.positions[:, 0].min(), 0, 0]
            shift = moved.positions[:, 0].max() + 2 * self.reach
            together += moved
            energy += fragment.get_potential_energy()
            forces.append(fragment.get_forces())
        together.calc = self.make_calculator()
        difference = together.get_potential_energy() - energy
        self._within(difference, 10 * self.tolerance * len(together), "energy of far fragments")
        self._within(together.get_forces() - np.concatenate(forces), 10 * self.tolerance, "forces on far fragments")

    # -- use -----------------------------------------------------------------------------------------------------

    def test_energies_of_atoms_sum_to_the_energy(self):
        """If there are energies of atoms."""
        if "energies" not in self.make_calculator().implemented_properties:
            raise SkipTest("the calculator has no energies of atoms")
        for name, atoms in self._ready().items():
            difference = atoms.get_potential_energies().sum() - atoms.get_potential_energy()
            self._within(difference, self.tolerance * len(atoms), f"{name}: energies of atoms")

    def test_results_follow_the_structure(self):
        """A calculator that is used on and on gives what a fresh one gives: nothing is stale."""
        calculator = self.make_calculator()
        rng = np.random.default_rng(6)
        for name, atoms in self._ready().items():
            current = atoms.copy()
            current.calc = calculator
            for step in range(6):
                if step % 2 and current.pbc.all():
                    current.set_cell(current.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=bool(step % 4 == 1))
                else:
                    current.positions += 0.15 * rng.normal(size=current.positions.shape)
                fresh = current.copy()
                fresh.calc = self.make_calculator()
                if step % 2 == 0:  # in another order each time
                    self._within(current.get_forces() - fresh.get_forces(), self.tolerance, f"{name}: forces anew")
                if self._stress(fresh) is not None:
                    self._within(current.get_stress() - fresh.get_stress(), self.tolerance, f"{name}: stress anew")
                difference = current.get_potential_energy() - fresh.get_potential_energy()
                self._within(difference, self.tolerance * len(atoms), f"{name}: energy anew")

    def test_batches_equal_single_evaluations(self):
        """`evaluate` of many structures gives what one after the other does."""
        calculator = self.make_calculator()
        if not hasattr(calculator, "evaluate"):
            raise SkipTest("the calculator has no evaluate(structures)")
        structures = list(self._ready().values())
        structures += [atoms[:1] for atoms in structures[:2]] + structures[:1]
        for max_atoms in (1, 7, 10_000):
            results = calculator.evaluate(structures, max_atoms=max_atoms)
            assert len(results) == len(structures)
            for position, (atoms, result) in enumerate(zip(structures, results, strict=True)):
                single = atoms.copy()
                single.calc = self.make_calculator()
                what = f"structure {position} in batches of {max_atoms} atoms"
                difference = result["energy"] - single.get_potential_energy()
                self._within(difference, self.tolerance * len(atoms), f"{what}: energy")
                self._within(result["forces"] - single.get_forces(), self.tolerance, f"{what}: forces")
                stress = self._stress(single)
                assert ("stress" in result) == (stress is not None), f"{what}: stress"
                if stress is not None:
                    self._within(result["stress"] - stress, self.tolerance, f"{what}: stress")

    def test_memory_is_flat_in_a_simulation(self):
        """Many steps need no more memory than few."""
        atoms = min(self._ready().values(), key=len)
        noise = np.random.default_rng(7).normal(size=(len(atoms), 3))
        atoms.set_momenta(noise * np.sqrt(units.kB * 100 * atoms.get_masses())[:, None])
        dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
        dynamics.run(self.memory_steps // 4)
        peak, objects = _peak_bytes(), _live_objects()
        dynamics.run(self.memory_steps - self.memory_steps // 4)
        grown = _live_objects() - objects
        assert grown < 100, f"{grown} more Python objects after {self.memory_steps} steps"
        resident = _peak_bytes() - peak
        assert resident < 16 * 2**20, f"the process grew by {resident / 2**20:.1f} MiB in {self.memory_steps} steps"

    def test_process_state_is_untouched(self):
        """Default dtype, threads, random numbers and gradient mode are the user's."""
        with _unchanged_process_state():
            calculator = self.make_calculator()
            for atoms in self.structures().values():
                current = atoms.copy()
                current.calc = calculator
                current.get_forces()

    # -- what the checks are made of -----------------------------------------------------------------------------

    def _ready(self) -> dict[str, Atoms]:
        ready = {}
        for name, atoms in self.structures().items():
            ready[name] = atoms.copy()
            ready[name].calc = self.make_calculator()
        assert any(atoms.pbc.all() for atoms in ready.values()), "structures() has none with three periodic directions"
        assert any(not atoms.pbc.any() for atoms in ready.values()), "structures() has none without periodic directions"
        return ready

    def _periodic(self) -> dict[str, Atoms]:
        return {name: atoms for name, atoms in self._ready().items() if atoms.pbc.any()}

    def _bulk(self) -> dict[str, Atoms]:
        return {name: atoms for name, atoms in self._ready().items() if atoms.pbc.all()}

    def _open(self) -> dict[str, Atoms]:
        return {name: atoms for name, atoms in self._ready().items() if not atoms.pbc.any()}

    def _numbers(self) -> list[int]:
        return sorted({int(number) for atoms in self.structures().values() for number in atoms.numbers})

    def _require_stress(self) -> None:
        if "stress" not in self.make_calculator().implemented_properties:
            raise SkipTest("the calculator has no stress")

    def _stress(self, atoms: Atoms) -> Any:
        """Stress, or None where the calculator or the structure has none."""
        if "stress" not in atoms.calc.implemented_properties or not atoms.pbc.any() or atoms.cell.rank < 3:
            return None
        return atoms.get_stress()

    def _within(self, difference: Any, bound: float, what: str) -> None:
        worst = float(np.abs(difference).max())
        assert worst <= bound, f"{what}: differs by {worst:.3g}, allowed are {bound:.3g}"

    def _same(
        self,
        atoms: Atoms,
        other: Atoms,
        what: str,
        forces: Callable[[Any], Any] = lambda forces: forces,
        stress: bool = True,
        slack: float = 1.0,
    ) -> None:
        other.calc = self.make_calculator()
        bound = slack * self.tolerance
        self._within(other.get_potential_energy() - atoms.get_potential_energy(), bound * len(atoms), f"{what}: energy")
        self._within(other.get_forces() - forces(atoms.get_forces()), bound, f"{what}: forces")
        if stress and self._stress(atoms) is not None:
            self._within(other.get_stress() - atoms.get_stress(), bound, f"{what}: stress")

    def _check_rotation(self, matrix: Any, what: str) -> None:
        for name, atoms in self._ready().items():
            turned = atoms.copy()
            turned.set_cell(atoms.cell.array @ matrix.T)
            turned.set_positions(atoms.positions @ matrix.T)
            self._same(atoms, turned, f"{name}: {what}", lambda forces: forces @ matrix.T, stress=False)
            stress = self._stress(atoms)
            if stress is not None:
                expected = full_3x3_to_voigt_6_stress(matrix @ voigt_6_to_full_3x3_stress(stress) @ matrix.T)
                self._within(turned.get_stress() - expected, self.tolerance, f"{name}: {what}: stress")

    def _check_open_axes(
        self, atoms: Atoms, pbc: tuple[bool, bool, bool], vectors: list[Any], name: str, what: str
    ) -> None:
        """A structure with `pbc` is the same for every choice of its open lattice vectors."""
        axes = np.flatnonzero(~np.array(pbc))
        reference = atoms.copy()
        cell = atoms.cell.array.copy()
        cell[axes] = 0.0
        reference.set_cell(cell)
        reference.set_pbc(pbc)
        reference.calc = self.make_calculator()
        dummies = np.random.default_rng(8).normal(size=(len(axes), 3))
        for rows in (dummies, 1e3 * dummies, atoms.cell.array[axes]):
            other = reference.copy()
            cell[axes] = rows
            other.set_cell(cell)
            self._same(reference, other, f"{name} as {what}: open lattice vectors {rows.tolist()}", stress=False)
        if what != "slab":
            return
        virials = []
        for vector in vectors:
            for periodic in (pbc, (True, True, True)):  # vacuum beyond reach is as good as an open direction
                other = reference.copy()
                cell[axes] = vector
                other.set_cell(cell)
                other.set_pbc(periodic)
                length = float(np.linalg.norm(vector))
                self._same(reference, other, f"{name} as {what}: vacuum of {length:.0f} Å", stress=False)
                if self._stress(other) is not None:
                    virials.append(other.get_stress() * abs(other.cell.volume))
        for virial in virials[1:]:
            self._within(virial - virials[0], 100 * self.tolerance * len(atoms), f"{name} as {what}: virial")

    def _jump(self, atoms: Atoms, cutoff: float, step: float = 1e-5) -> tuple[float, Any]:
        """Jumps of energy and forces when one more atom, beyond the others, crosses `cutoff` of the outermost atom."""
        centre = atoms.positions.mean(0)
        outermost = int(np.argmax(np.linalg.norm(atoms.positions - centre, axis=1)))
        away = atoms.positions[outermost] - centre
        away = away / np.linalg.norm(away) if np.linalg.norm(away) > 1e-8 else np.array([0.0, 0.0, 1.0])
        values = {}
        for multiple in (-2, -1, 1, 2):
            both = atoms.copy()
            both.append(atoms[outermost])
            both.positions[-1] = atoms.positions[outermost] + (cutoff + multiple * step) * away
            both.calc = self.make_calculator()
            values[multiple] = both.get_potential_energy(), both.get_forces()
        # what changes linearly with the distance cancels, a jump does not
        jumps = [2 * (values[1][k] - values[-1][k]) - (values[2][k] - values[-2][k]) for k in range(2)]
        return float(jumps[0]), jumps[1]


def _in_order(order: Any, forces: Any) -> Any:
    return forces[order]


def _rotation(rng: np.random.Generator) -> Any:
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = matrix * np.sign(np.diag(upper))
    if np.linalg.det(matrix) < 0:
        matrix[:, 0] = -matrix[:, 0]
    return matrix


def _live_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def _unchanged_process_state() -> Iterator[None]:
    def state() -> dict[str, Any]:
        legacy: Any = np.random.get_state()  # noqa: NPY002 - to see that nobody draws from it
        return {
            "default dtype": torch.get_default_dtype(),
            "default device": torch.get_default_device(),
            "threads": torch.get_num_threads(),
            "gradient mode": torch.is_grad_enabled(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
            "torch's random numbers": torch.get_rng_state().tolist(),
            "numpy's random numbers": (legacy[1].tolist(), legacy[2:]),
            "Python's random numbers": random.getstate(),
            "numpy's error handling": np.geterr(),
        }

    before = state()
    yield
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed for the whole process: {', '.join(changed)}"
