"""Relaxation: known minima, cells, files and going on. Budget: 10 s."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.io import read

from geomlib.apply import relax as module
from geomlib.apply.ase import Calculator
from geomlib.apply.relax import CELL_CHANGES, OPTIMIZERS, RelaxSettings, relax, relax_all
from geomlib.apply.trajectory import TrajectoryFile
from geomlib.errors import ConfigError, DataError, MissingExtra
from geomlib.testing import ToyPotential


def copper(a: float = 3.7) -> Atoms:
    atoms = bulk("Cu", cubic=True, a=a)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize(("optimizer", "steps"), [("fire", 44), ("bfgs", 11), ("lbfgs", 11)])
def test_known_lattice_constant(optimizer, steps):
    """EMT copper from 3.7 Å, rattled: the numbers known for ASE's optimizers."""
    atoms = copper()
    result = relax(atoms, RelaxSettings(optimizer=optimizer, cell="full"))
    assert result.converged and abs(result.steps - steps) <= 3
    assert atoms.get_volume() ** (1 / 3) == pytest.approx(3.5895, abs=1e-3)
    assert result.max_force < 0.01 and result.max_stress < 0.2
    assert result.energy < result.initial_energy
    assert result.volume_change == pytest.approx(atoms.get_volume() / 3.7**3 - 1)


def test_fixed_cell_stays():
    atoms = copper()
    result = relax(atoms)
    assert result.converged and result.volume_change == 0.0
    assert np.array_equal(atoms.cell.array, 3.7 * np.eye(3))
    assert result.atoms.get_potential_energy() == result.energy


def test_isotropic_keeps_the_shape_and_shape_keeps_the_volume():
    deformation = np.array([[1.02, 0.03, 0], [0, 0.98, 0], [0, 0, 1.01]])
    for cell in ("isotropic", "shape"):
        atoms = copper()
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        before = atoms.cell.array.copy()
        result = relax(atoms, RelaxSettings(cell=cell, steps=60))
        if cell == "isotropic":
            ratio = atoms.cell.array[before != 0] / before[before != 0]
            assert np.ptp(ratio) < 1e-9 and abs(ratio[0] - 1) > 1e-3
        else:
            assert result.volume_change == pytest.approx(0, abs=1e-6)
            assert np.abs(atoms.cell.angles() - 90).max() < 0.3  # back to a cube, the soft way


def test_pressure():
    atoms = copper(3.6)
    result = relax(atoms, RelaxSettings(cell="full", pressure=5.0, fmax=0.002))
    assert result.max_stress < 0.05
    assert -atoms.get_stress()[:3].mean() / units.GPa == pytest.approx(5.0, abs=0.05)


def test_the_vacuum_of_a_slab_is_not_relaxed():
    slab = fcc111("Cu", (1, 1, 3), a=3.7, vacuum=6.0)
    slab.pbc = [True, True, False]
    slab.calc = EMT()
    height = slab.cell[2].copy()
    result = relax(slab, RelaxSettings(cell="full"))
    assert result.converged
    assert np.allclose(slab.cell[2], height)
    assert np.linalg.norm(slab.cell[0]) < 3.66 / np.sqrt(2)


def test_slabs_that_lie_askew_are_refused():
    slab = fcc111("Cu", (1, 1, 3), vacuum=6.0)
    slab.pbc = [True, True, False]
    slab.rotate(30, "x", rotate_cell=True)
    slab.calc = EMT()
    with pytest.raises(DataError, match="open lattice vector 2 must lie along x, y or z"):
        relax(slab, RelaxSettings(cell="full"))


def test_a_molecule_has_no_cell_to_relax():
    atoms = molecule("H2O")
    atoms.calc = Calculator(ToyPotential(["H", "O"]))
    with pytest.raises(DataError, match="cell of H2O can't relax: pbc is"):
        relax(atoms, RelaxSettings(cell="full"))
    result = relax(atoms)
    assert result.converged and result.max_stress is None and result.volume_change is None


def test_symmetry_is_kept(monkeypatch):
    spglib = pytest.importorskip("spglib")
    atoms = bulk("Cu", cubic=True, a=3.5)
    atoms.calc = EMT()
    result = relax(atoms, RelaxSettings(cell="full", symmetry=True))
    assert result.converged
    assert spglib.get_spacegroup((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)) == "Fm-3m (225)"


def test_a_missing_spglib_is_explained(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spglib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'geomlib\[md\]'"):
        relax(copper(), RelaxSettings(symmetry=True))


def test_giving_up_is_said():
    result = relax(copper(), RelaxSettings(cell="full", steps=2))
    assert not result.converged and result.steps == 2
    assert result.atoms.info["converged"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RelaxSettings(optimizer="bfg"), "optimizer 'bfg' is unknown .*'bfgs'"),
        (RelaxSettings(cell="ful"), "cell 'ful' is unknown .*'full'"),
        (RelaxSettings(fmax=0.0), "fmax is 0.0"),
        (RelaxSettings(steps=-1), "steps -1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        relax(copper(), settings)
    assert set(OPTIMIZERS) == {"lbfgs", "bfgs", "fire"} and "full" in CELL_CHANGES


def test_every_step_is_in_the_trajectory_and_told(tmp_path):
    seen = []
    with TrajectoryFile(tmp_path / "steps.traj") as steps:
        result = relax(copper(), trajectory=steps, progress=lambda *values: seen.append(values))
    frames = read(tmp_path / "steps.traj", index=":")
    assert len(frames) == len(seen) == result.steps + 1
    assert [frame.info["step"] for frame in frames] == [step for step, _, _ in seen]
    assert frames[-1].get_potential_energy() == result.energy == seen[-1][1]
    assert seen[-1][2] == pytest.approx(result.max_force) and seen[0][2] > seen[-1][2]


def water(seed: int) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_an_interrupted_row_of_structures_goes_on(tmp_path, suffix, monkeypatch):
    calculator = Calculator(ToyPotential(["H", "O"]))
    structures = [water(seed) for seed in range(4)]
    output, trajectory = tmp_path / f"out{suffix}", tmp_path / f"steps{suffix}"
    straight = relax_all(structures, calculator, tmp_path / "straight.traj")
    assert len(straight) == 4 and all(result.converged for result in straight)

    class Killed(Exception):
        pass

    def die(step, energy, force):
        if len(calls) == 2 and step == 3:
            raise Killed
        if step == 0:
            calls.append(step)

    calls: list = []
    with pytest.raises(Killed):
        relax_all(structures, calculator, output, trajectory=trajectory, progress=die)
    assert len(read(output, index=":")) == 1
    starts = []
    original = module.relax

    def noting(atoms, *args):
        starts.append(atoms.positions.copy())
        return original(atoms, *args)

    monkeypatch.setattr(module, "relax", noting)
    rest = relax_all(structures, calculator, output, trajectory=trajectory, resume=True)
    assert len(rest) == 3
    last = [frame for frame in read(trajectory, index=":") if frame.info["structure"] == 1]
    assert np.allclose(starts[0], last[2].positions, atol=1e-7)  # the last frame before the end, not the beginning
    assert np.array_equal(starts[1], structures[2].positions)
    found = read(output, index=":")
    assert [frame.info["structure"] for frame in found] == [0, 1, 2, 3]
    for frame, expected in zip(found, straight, strict=True):
        assert frame.get_potential_energy() == pytest.approx(expected.energy, abs=1e-4)
    assert relax_all(structures, calculator, output, trajectory=trajectory, resume=True) == []


def test_resuming_nothing_begins(tmp_path):
    calculator = Calculator(ToyPotential(["H", "O"]))
    assert len(relax_all([water(0)], calculator, tmp_path / "out.extxyz", resume=True)) == 1
