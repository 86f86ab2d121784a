"""Relaxation of many structures at once: equal to ASE one by one, in order, whatever happens to one. Budget: 15 s."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.batch import fixed_atoms
from geomlib.apply.batched.cell import CellCoordinates
from geomlib.apply.batched.optimizers import BatchedFIRE, BatchedLBFGS
from geomlib.apply.batched.relax import BatchedRelaxation, relax_all_batched, relax_batched, relax_batched_iter
from geomlib.apply.batched.waiting import Failure
from geomlib.apply.budget import Budget, Size
from geomlib.apply.relax import Relaxation, RelaxSettings, relax
from geomlib.errors import ConfigError
from geomlib.models import DPA3
from geomlib.nn.derivative import Derivatives
from geomlib.testing import ToyPotential, perturb_parameters

FIRE = RelaxSettings(optimizer="fire")


def shaken(name: str, seed: int, by: float = 0.1) -> Atoms:
    atoms = molecule(name)
    atoms.rattle(by, seed=seed)
    return atoms


def molecules() -> list[Atoms]:
    return [shaken("H2O", 1), shaken("CH3OH", 2), shaken("CH4", 3), shaken("H2O", 4, 0.02), shaken("C2H6", 5)]


def crystals() -> list[Atoms]:
    frames = []
    for seed, (a, cubic) in enumerate([(3.5, True), (3.6, False), (3.7, True)]):
        atoms = bulk("Cu", cubic=cubic, a=a)
        atoms.rattle(0.05, seed=seed)
        strain = 0.02 * np.random.default_rng(seed).normal(size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        frames.append(atoms)
    slab = fcc111("Cu", (1, 2, 3), a=3.7, vacuum=6.0)
    slab.pbc = [True, True, False]
    slab.rattle(0.05, seed=1)
    slab.set_constraint(FixAtoms([0]))
    return [*frames, slab]


def alone(structures: list[Atoms], calculator: Calculator, settings: RelaxSettings) -> list[Relaxation]:
    """ASE's optimizer and filter, one after the other."""
    results = []
    for atoms in structures:
        copy = atoms.copy()
        copy.calc = calculator
        results.append(relax(copy, settings))
    return results


def require_equal(found: list[Relaxation | Failure], expected: list[Relaxation], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Relaxation), one
        assert (one.steps, one.converged) == (other.steps, other.converged)
        assert np.abs(one.atoms.positions - other.atoms.positions).max() < tolerance
        assert np.abs(one.atoms.cell.array - other.atoms.cell.array).max() < tolerance
        assert one.energy == pytest.approx(other.energy, abs=tolerance)
        assert one.initial_energy == pytest.approx(other.initial_energy, abs=1e-10)
        assert one.max_force == pytest.approx(other.max_force, abs=1e3 * tolerance)
        assert (one.max_stress is None) == (other.max_stress is None)
        assert (one.volume_change is None) == (other.volume_change is None)


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
def test_molecules_take_the_steps_of_ase(optimizer):
    calculator = Calculator(ToyPotential(["H", "O", "C"]))
    settings = RelaxSettings(optimizer=optimizer, fmax=0.03)
    expected = alone(molecules(), calculator, settings)
    assert len({result.steps for result in expected}) > 3 and all(result.converged for result in expected)
    require_equal(relax_batched(molecules(), calculator, settings), expected, 1e-8)


def test_a_network_takes_the_steps_of_ase():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {"layers": 1, "node_dim": 8, "edge_dim": 8, "angle_dim": 8, "fitting_layers": [8]}
        net = DPA3(["H", "O", "C"], precision="float64", max_neighbors=20, max_angle_neighbors=20, **small)
    perturb_parameters(net, 0.3)
    calculator = Calculator(net)
    settings = RelaxSettings(optimizer="fire", steps=20)
    expected = alone(molecules(), calculator, settings)
    assert max(np.abs(r.atoms.positions - a.positions).max() for r, a in zip(expected, molecules(), strict=True)) > 0.01
    require_equal(relax_batched(molecules(), calculator, settings), expected, 1e-8)


@pytest.mark.parametrize("optimizer", ["fire", "lbfgs"])
@pytest.mark.parametrize(("cell", "pressure"), [("full", 1.0), ("isotropic", 0.0)])
def test_cells_take_the_steps_of_ase(optimizer, cell, pressure):
    calculator = Calculator(ToyPotential(["Cu"]))
    settings = RelaxSettings(optimizer=optimizer, cell=cell, pressure=pressure, steps=25)
    expected = alone(crystals(), calculator, settings)
    require_equal(relax_batched(crystals(), calculator, settings, budget=8), expected, 1e-7)


def test_shape_keeps_the_volume_and_the_vacuum():
    calculator = Calculator(ToyPotential(["Cu"]))
    settings = RelaxSettings(optimizer="fire", cell="shape", steps=300)
    bulks, slab = crystals()[:3], crystals()[3]
    found = relax_batched([*bulks, slab], calculator, settings)
    require_equal(found[:3], alone(bulks, calculator, settings), 1e-8)
    for result in found:
        assert result.converged and result.volume_change == pytest.approx(0, abs=1e-9)
    assert np.allclose(found[3].atoms.cell[2], slab.cell[2], atol=1e-12)
    assert np.abs(found[3].atoms.cell[:2, :2] - slab.cell[:2, :2]).max() > 1e-3


def test_forces_on_the_cell_are_the_derivative():
    """With respect to U, by differences of E(exp U) = tr(A exp(U)ᵀ exp(U)), through the virial."""
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(rng.normal(size=(3, 3)))
    cells = CellCoordinates("full", 0.0, torch.device("cpu"))
    one = torch.ones(1, 3, 3, dtype=torch.float64)
    cells.add(4.0 * torch.eye(3, dtype=torch.float64)[None], one, torch.tensor([2.0], dtype=torch.float64))
    cells.log_deformation = torch.from_numpy(0.2 * rng.normal(size=(1, 3, 3)))

    def energy(log: torch.Tensor, strain: torch.Tensor | None = None) -> torch.Tensor:
        deformation = torch.linalg.matrix_exp(log)
        if strain is not None:
            deformation = (torch.eye(3, dtype=torch.float64) + (strain + strain.mT) / 2) @ deformation
        return torch.trace(matrix @ deformation[0].T @ deformation[0])

    strain = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    (virial,) = torch.autograd.grad(-energy(cells.log_deformation, strain), strain)
    log = cells.log_deformation.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(-energy(log) / 2.0, log)
    assert torch.allclose(cells.forces(virial, cells.reference @ cells.deformation().mT), expected, atol=1e-12)


def test_places_are_taken_by_those_that_wait_and_results_are_in_order():
    calculator = Calculator(ToyPotential(["H", "O", "C"]))
    structures = [*molecules(), *molecules()[:3]]
    run = BatchedRelaxation(structures, calculator, FIRE, Budget(12))
    seen, sizes, done = [], [], []
    evaluate = run.batch.evaluate

    def noting():
        seen.append([member.index for member in run.batch.members])
        sizes.append(sum(len(member.atoms) for member in run.batch.members))
        return evaluate()

    run.batch.evaluate = noting
    results = list(run.run(lambda finished, running, force: done.append((finished, running))))
    assert max(sizes) <= 12 and len(seen[0]) == 2
    joined = [after for before, after in pairwise(seen) if set(before) & set(after) and set(after) - set(before)]
    assert joined, "no structure came in beside one that had been there before"
    assert [index for index, _ in results] != sorted(index for index, _ in results)
    assert done[-1] == (8, 0)
    together = relax_batched(structures, calculator, FIRE, 12)
    require_equal(together, alone(structures, calculator, FIRE), 1e-8)
    assert [result.atoms.info["structure"] for result in together] == list(range(8))
    assert run.steps == sum(result.steps for result in together)


def test_lists_are_built_only_for_those_that_moved():
    calculator = Calculator(ToyPotential(["H", "O", "C"]))
    settings = RelaxSettings(optimizer="fire", steps=30, fmax=1e-9)
    with_skin = BatchedRelaxation(molecules(), calculator, settings, skin=0.5)
    without = BatchedRelaxation(molecules(), calculator, settings, skin=0.0)
    results = [dict(run.run()) for run in (with_skin, without)]
    assert without.batch.rebuilds == without.batch.evaluations == 5 * 31
    assert 5 <= with_skin.batch.rebuilds < 30
    require_equal([results[0][k] for k in range(5)], [results[1][k] for k in range(5)], 1e-10)


@pytest.mark.parametrize("cell", ["fixed", "full"])
def test_one_that_fails_is_named_and_the_others_go_on(cell):
    calculator = Calculator(ToyPotential(["Cu"]))
    good = crystals()
    overlapping, flat, unknown, lost = (good[0].copy() for _ in range(4))
    overlapping.positions[1] = overlapping.positions[0]
    flat.cell[2] = flat.cell[1]
    unknown.symbols[0] = "Ag"
    lost.positions[2, 1] = np.nan
    held = bulk("Cu", cubic=True)
    held.set_constraint(FixBondLength(0, 1))
    structures = [good[0], overlapping, good[1], flat, unknown, good[2], lost, held, good[3], molecule("H2O")]
    settings = RelaxSettings(optimizer="fire", steps=25, cell=cell)
    found = relax_batched(structures, calculator, settings)
    failed = {row.index: row.reason for row in found if isinstance(row, Failure)}
    assert set(failed) == {1, 3, 4, 6, 7, 9}
    assert "step 0" in failed[1] and "atoms 0 and 1 overlap" in failed[1]
    assert "span no volume" in failed[3] or "lattice vectors" in failed[3]
    assert "structure 4" in failed[4] and "Ag" in failed[4]
    assert "position of atom 2" in failed[6]
    assert "FixBondLength" in failed[7]
    assert "H" in failed[9]
    rest = [structures[k] for k in (0, 2, 5, 8)]
    require_equal([found[k] for k in (0, 2, 5, 8)], alone(rest, calculator, settings), 1e-8)


class Exploding(ToyPotential):
    """Energies that are no numbers, or forces that are huge, for structures with that many atoms."""

    def forward(self, batch):
        out = super().forward(batch)
        sizes = torch.bincount(batch.node_graph, minlength=batch.num_graphs)
        out["energy"] = out["energy"] * torch.where(sizes == 5, torch.nan, torch.where(sizes == 8, 1e9, 1.0))
        return out


def test_numbers_that_are_none_and_explosions_are_failures():
    found = relax_batched(molecules(), Calculator(Exploding(["H", "O", "C"])), FIRE)
    assert [type(row) for row in found] == [Relaxation, Relaxation, Failure, Relaxation, Failure]
    assert "not finite" in found[2].reason and found[2].index == 2
    assert "explodes" in found[4].reason and found[4].steps == 0


class Picky(ToyPotential):
    """Refuses batches with methane in them."""

    def forward(self, batch):
        from geomlib.errors import DataError

        if 5 in torch.bincount(batch.node_graph, minlength=batch.num_graphs).tolist():
            raise DataError("no methane, please")
        return super().forward(batch)


def test_one_that_the_net_refuses_is_found():
    found = relax_batched(molecules(), Calculator(Picky(["H", "O", "C"])), FIRE)
    assert [type(row) for row in found].count(Failure) == 1
    assert "no methane" in found[2].reason


class SmallMemory(ToyPotential):
    """Runs out of memory beyond 12 atoms."""

    def forward(self, batch):
        if batch.num_nodes > 12:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().forward(batch)


def test_running_out_of_memory_halves_the_batch():
    calculator, few = Calculator(SmallMemory(["H", "O", "C"])), RelaxSettings(optimizer="fire", steps=12)
    expected = alone(molecules(), Calculator(ToyPotential(["H", "O", "C"])), few)
    budget = Budget("auto", memory=2**30)
    run = BatchedRelaxation(molecules(), calculator, few, budget)
    results = dict(run.run())
    require_equal([results[k] for k in range(5)], expected, 1e-8)
    assert not budget.fits(Size(13), calculator.device) and run.batch.evaluations < 6 * 13
    (failed, fine) = relax_batched([molecule("C60"), shaken("H2O", 1)], calculator, FIRE)
    assert "does not fit in memory (60 atoms)" in failed.reason and fine.converged


def test_other_errors_are_not_swallowed():
    class Broken(ToyPotential):
        def forward(self, batch):
            raise RuntimeError("shapes (3) and (4) don't match")

    with pytest.raises(RuntimeError, match="don't match"):
        relax_batched(molecules(), Calculator(Broken(["H", "O", "C"])), FIRE)


def test_with_and_without_charge_go_apart(monkeypatch):
    calls, forward = [], Derivatives.forward
    monkeypatch.setattr(
        Derivatives, "forward", lambda self, batch: calls.append(batch.num_graphs) or forward(self, batch)
    )
    structures = molecules()
    for atoms in structures[::2]:
        atoms.info["charge"] = 0
        atoms.info["spin"] = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {"layers": 1, "node_dim": 8, "edge_dim": 8, "angle_dim": 8, "fitting_layers": [8]}
        net = DPA3(["H", "O", "C"], charge_spin_embedding=True, default_charge_spin=[0, 1], **small)
    found = relax_batched(structures, Calculator(net, dtype="float64"), RelaxSettings(optimizer="fire", steps=3))
    assert [row.atoms.info["structure"] for row in found] == list(range(5))
    assert [row.atoms.info.get("charge") for row in found] == [0, None, 0, None, 0]
    assert calls == [2] * 4 + [3] * 4  # the start and three steps of each kind


def test_nothing_to_do():
    calculator = Calculator(ToyPotential(["H"]))
    assert relax_batched([], calculator) == []
    assert next(relax_batched_iter([Atoms()], calculator))[1].reason == "structure 0 has no atoms"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RelaxSettings(optimizer="bfgs"), "optimizer 'bfgs' can't relax many .*'lbfgs'"),
        (RelaxSettings(optimizer="fire", symmetry=True), "one by one"),
        (RelaxSettings(optimizer="fire", fmax=0), "fmax is 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        relax_batched(molecules(), Calculator(ToyPotential(["H", "O", "C"])), settings)


@pytest.mark.parametrize("cls", [BatchedFIRE, BatchedLBFGS])
def test_memories_are_kept_apart(cls):
    """A structure that comes later, beside one that leaves, moves as it would alone."""

    def forces(x: torch.Tensor) -> torch.Tensor:
        return -x * torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64) - x**3

    rng = np.random.default_rng(0)
    starts = [torch.from_numpy(rng.normal(size=(rows, 3))) for rows in (2, 3, 4)]

    def path(start: torch.Tensor, steps: int) -> torch.Tensor:
        optimizer = cls()
        optimizer.add(1, len(start))
        x = start
        for _ in range(steps):
            x = x + optimizer.step(x, forces(x), torch.zeros(len(x), dtype=torch.int64))
        return x

    optimizer = cls()
    optimizer.add(2, 5)
    x, owner = torch.cat(starts[:2]), torch.tensor([0, 0, 1, 1, 1])
    for _ in range(8):
        x = x + optimizer.step(x, forces(x), owner)
    assert torch.allclose(x, torch.cat([path(start, 8) for start in starts[:2]]), atol=1e-12)
    optimizer.keep(torch.tensor([1]), torch.tensor([2, 3, 4]))
    optimizer.add(1, 4)
    x, owner = torch.cat([x[2:], starts[2]]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    for _ in range(7):
        x = x + optimizer.step(x, forces(x), owner)
    assert torch.allclose(x[:3], path(starts[1], 15), atol=1e-12)
    assert torch.allclose(x[3:], path(starts[2], 7), atol=1e-12)


def test_other_constraints_are_refused():
    atoms = molecule("H2O")
    atoms.set_constraint([FixAtoms([0]), FixAtoms([2])])
    assert fixed_atoms(atoms).tolist() == [True, False, True]


def test_files_are_in_order_and_go_on(tmp_path):
    calculator = Calculator(ToyPotential(["H", "O", "C"]))
    structures = molecules()
    structures[1].positions[1] = structures[1].positions[0]
    straight = relax_all_batched(structures, calculator, tmp_path / "straight.traj", FIRE)
    assert [type(row) for row in straight] == [Relaxation, Failure, Relaxation, Relaxation, Relaxation]
    output = tmp_path / "out.extxyz"

    class Killed(Exception):
        pass

    def die(done, running, force):
        if done >= 3:
            raise Killed

    with pytest.raises(Killed):
        relax_all_batched(structures, calculator, output, FIRE, 12, progress=die)
    kept = read(output, index=":")
    assert 0 < len(kept) < 5 and [frame.info["structure"] for frame in kept] == list(range(len(kept)))
    rest = relax_all_batched(structures, calculator, output, FIRE, resume=True)
    assert len(rest) == 5 - len(kept)
    frames = read(output, index=":")
    assert [frame.info["structure"] for frame in frames] == list(range(5))
    assert "overlap" in frames[1].info["failure"] and not frames[1].info["converged"]
    for frame, result in zip(frames, straight, strict=True):
        assert np.allclose(frame.positions, result.atoms.positions, atol=1e-7)
    assert relax_all_batched(structures, calculator, output, FIRE, resume=True) == []
