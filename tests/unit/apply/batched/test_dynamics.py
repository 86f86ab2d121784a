"""Molecular dynamics of many structures at once: equal to ASE one by one, files included. Budget: 10 s."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.dynamics import BatchedSimulation, Simulated, simulate_batched
from geomlib.apply.batched.waiting import Failure
from geomlib.apply.dynamics import Settings, Simulation
from geomlib.apply.simulation_log import beside, read_log
from geomlib.errors import ConfigError
from geomlib.testing import ToyPotential

SETTINGS = {
    "nve": Settings(ensemble="nve", timestep=0.5, temperature=200, interval=10, seed=3),
    "langevin": Settings(ensemble="langevin", timestep=0.5, temperature=400, damping=20.0, interval=10, seed=3),
}


@pytest.fixture(scope="module")
def calculator() -> Calculator:
    return Calculator(ToyPotential(["H", "O", "C", "Cu"]))


def structures() -> list[Atoms]:
    held = molecule("CH3OH")
    held.set_constraint(FixAtoms([0, 3]))
    crystal = bulk("Cu", cubic=True, a=3.5)
    crystal.rattle(0.02, seed=1)
    moving = molecule("CH4")
    moving.set_velocities(np.random.default_rng(0).normal(size=(5, 3)) * 0.02)
    return [molecule("H2O"), held, crystal, moving, molecule("H2O")]


def alone(
    calculator: Calculator, settings: list[Settings], steps: list[int], files: list[Path] | None = None
) -> list[Simulation]:
    simulations = []
    for k, atoms in enumerate(structures()):
        atoms.calc = calculator
        simulation = Simulation(atoms, settings[k], None if files is None else files[k])
        simulation.run(steps[k])
        simulations.append(simulation)
    return simulations


def different(ensemble: str) -> list[Settings]:
    """Settings that differ from structure to structure."""
    base = SETTINGS[ensemble]
    return [
        replace(base, seed=k, timestep=0.25 * (1 + k % 3), temperature=100.0 + 50 * k, interval=(10, 7, 4)[k % 3])
        for k in range(5)
    ]


@pytest.mark.parametrize("budget", ["auto", 9])
@pytest.mark.parametrize("ensemble", ["nve", "langevin"])
def test_moves_like_ase_one_by_one(calculator, ensemble, budget):
    settings, steps = different(ensemble), [40, 25, 33, 8, 40]
    expected = alone(calculator, settings, steps)
    found = simulate_batched(structures(), calculator, settings, steps, budget=budget)
    for one, other, last in zip(found, expected, steps, strict=True):
        assert isinstance(one, Simulated) and one.summary.steps == last
        assert np.abs(one.atoms.positions - other.atoms.positions).max() < 1e-10
        assert np.abs(one.atoms.get_momenta() - other.atoms.get_momenta()).max() < 1e-9
        assert [row["step"] for row in one.records] == [row["step"] for row in other.records]
        for row, known in zip(one.records, other.records, strict=True):
            assert row == pytest.approx(known, rel=1e-8, abs=1e-9)
    assert np.array_equal(found[1].atoms.positions[[0, 3]], structures()[1].positions[[0, 3]])


def test_seeds_differ_where_settings_are_for_all(calculator):
    pair = [structures()[0], structures()[4]]
    one, other = simulate_batched(pair, calculator, SETTINGS["langevin"], 3)
    assert not np.allclose(one.atoms.positions, other.atoms.positions)
    (alone_,) = simulate_batched(pair[1:], calculator, [replace(SETTINGS["langevin"], seed=4)], 3)
    assert np.abs(alone_.atoms.positions - other.atoms.positions).max() < 1e-12


def test_files_are_those_of_a_simulation_and_any_of_the_two_goes_on(calculator, tmp_path):
    settings = different("langevin")
    files = [tmp_path / f"alone-{k}.extxyz" for k in range(5)]
    expected = alone(calculator, settings, [24] * 5, files)
    together = [tmp_path / f"run/{k}.extxyz" for k in range(5)]
    first = simulate_batched(structures(), calculator, settings, 12, together)
    assert [(row.summary.steps, row.summary.trajectory) for row in first] == [(12, str(file)) for file in together]
    single = Simulation.resume(together[2], calculator)
    single.run(24)
    steps = []
    rest = simulate_batched(
        structures(), calculator, settings, 24, together, resume=True, progress=lambda *row: steps.append(row)
    )
    assert steps[-1] == (5, 0, 4 * 12)  # one had gone on alone
    for k, (row, simulation) in enumerate(zip(rest, expected, strict=True)):
        assert np.abs(row.atoms.positions - simulation.atoms.positions).max() < 1e-9
        logs = [read_log(beside(path, ".csv")) for path in (together[k], files[k])]
        assert [line["step"] for line in logs[0]] == sorted({line["step"] for line in logs[1]} | {12.0})
        frames = read(together[k], ":")
        assert [frame.info["step"] for frame in frames] == [line["step"] for line in logs[0]]
        assert frames[-1].get_potential_energy() == pytest.approx(row.atoms.get_potential_energy())
    again = simulate_batched(structures(), calculator, settings, 24, together, resume=True)
    assert [row.summary.steps for row in again] == [24] * 5


def test_energy_is_conserved(calculator):
    """With halved steps the error falls fourfold: second order, no drift."""
    fluctuations = []
    for timestep in (0.5, 0.25):
        settings = replace(SETTINGS["nve"], timestep=timestep, interval=4, temperature=300)
        found = simulate_batched(structures()[:4], calculator, settings, int(60 / timestep))
        for row in found:
            energies = np.array([record["conserved_eV"] for record in row.records])
            assert np.ptp(energies) < 0.05 * max(record["kinetic_eV"] for record in row.records)
        fluctuations.append([row.summary.fluctuation_meV_per_atom for row in found])
    ratio = np.array(fluctuations[0]) / np.array(fluctuations[1])
    assert np.all((ratio > 2.5) & (ratio < 6.5)), ratio


def test_temperature_of_langevin(calculator):
    many = [structures()[0].copy() for _ in range(40)]
    settings = replace(SETTINGS["langevin"], temperature=500.0, damping=10.0, interval=5)
    found = simulate_batched(many, calculator, settings, 150)
    temperatures = [record["temperature_K"] for row in found for record in row.records[10:]]
    assert np.mean(temperatures) == pytest.approx(500, abs=60)


class Fragile(ToyPotential):
    """No numbers beyond a distance of 1.15 Å between the first two atoms of a structure of five."""

    def forward(self, batch):
        out = super().forward(batch)
        sizes = torch.bincount(batch.node_graph, minlength=batch.num_graphs)
        first = sizes.cumsum(0) - sizes
        far = (batch.pos[first] - batch.pos[first + 1]).norm(dim=1) > 1.15
        out["energy"] = out["energy"] * torch.where(far & (sizes == 5), torch.nan, 1.0)
        return out


def test_one_that_fails_is_named_and_the_others_go_on(tmp_path):
    calculator = Calculator(Fragile(["H", "O", "C", "Cu"]))
    frames = structures()
    frames[3].set_velocities([[0.0, 0, 0], [0.1, 0.1, 0.1], *np.zeros((3, 3))])
    hot = molecule("H2O")
    hot.set_velocities([[0, 0, 0], [0, 0, 30.0], [0, 0, 0]])
    frames += [hot, Atoms("Ag"), molecule("O2")]
    frames[-1].positions[:, 2] = [0.0, 0.0]
    files = [tmp_path / f"{k}.traj" for k in range(8)]
    found = simulate_batched(frames, calculator, SETTINGS["nve"], 60, files)
    assert [type(row) for row in found] == [Simulated] * 3 + [Failure, Simulated] + [Failure] * 3
    assert "not finite" in found[3].reason and 0 < found[3].steps < 60
    assert f"step {found[3].steps + 1} (" in found[3].reason
    assert len(read(files[3], ":")) == 1 + found[3].steps // 10
    assert "step 1 (0.5 fs): atom 1 (H) moved" in found[5].reason and found[5].steps == 0
    assert "Ag" in found[6].reason and "overlap" in found[7].reason
    expected = alone(
        Calculator(ToyPotential(["H", "O", "C", "Cu"])),
        [replace(SETTINGS["nve"], seed=3 + k) for k in range(5)],
        [60] * 5,
    )
    for k in (0, 1, 2, 4):
        assert np.abs(found[k].atoms.positions - expected[k].atoms.positions).max() < 1e-8


def test_places_are_taken_by_those_that_wait(calculator):
    run = BatchedSimulation(structures(), calculator, SETTINGS["nve"], [20, 5, 12, 30, 7], budget=10)
    seen = []
    results = run.run(lambda done, running, steps: seen.append((done, running, steps)))
    assert [row.index for row in results] == list(range(5))
    assert run.steps == 20 + 5 + 12 + 30 + 7 == seen[-1][2] and seen[-1][:2] == (5, 0)
    assert run.batch.evaluations == run.steps + 5  # one more each, for the start


def test_no_steps_and_no_structures(calculator):
    (row,) = simulate_batched([molecule("H2O")], calculator, SETTINGS["nve"], 0)
    assert row.summary.steps == 0 and len(row.records) == 1
    assert simulate_batched([], calculator, SETTINGS["nve"], 10) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": Settings(ensemble="npt")}, "ensemble 'npt' is none for many"),
        ({"settings": [SETTINGS["nve"], SETTINGS["langevin"]]}, "the same ensemble"),
        ({"settings": [SETTINGS["nve"]] * 3}, "2 structures but 3 settings"),
        ({"steps": [1]}, "2 structures but 1 steps"),
        ({"trajectories": ["a.traj", "a.traj"]}, "a.traj: two structures"),
        ({"settings": replace(SETTINGS["nve"], timestep=0.0)}, "timestep is 0"),
        ({"settings": replace(SETTINGS["nve"], interval=0)}, "interval is 0"),
    ],
)
def test_settings_out_of_range(calculator, arguments, message):
    values = {"settings": SETTINGS["nve"], "steps": 5, **arguments}
    with pytest.raises(ConfigError, match=message):
        simulate_batched([molecule("H2O"), molecule("H2O")], calculator, **values)
