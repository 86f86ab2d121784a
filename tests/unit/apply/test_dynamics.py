"""Simulations: ensembles, files, resuming, and how they end when physics does. Budget: 20 s."""

import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read

from geomlib.apply.ase import Calculator
from geomlib.apply.dynamics import Settings, Simulation, Unstable, draw_velocities
from geomlib.apply.integrators import ENSEMBLES, integrator
from geomlib.apply.restart import read_state, restore_generator
from geomlib.apply.simulation_log import read_log, summarize
from geomlib.apply.trajectory import TrajectoryFile, snapshot
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.testing import ToyPotential


def calculator() -> Calculator:
    return Calculator(ToyPotential(["Cu", "H", "O"]))


def copper() -> Atoms:
    atoms = bulk("Cu", a=3.4195, cubic=True)
    atoms.rattle(0.03, seed=0)
    atoms.calc = calculator()
    return atoms


def settings(ensemble: str, **options) -> Settings:
    given = {"timestep": 2.0, "temperature": 500.0, "damping": 50.0, "pressure_damping": 300.0, "interval": 5}
    return Settings(ensemble=ensemble, **{**given, **options})


def same(first: Simulation, second: Simulation) -> bool:
    a, b = first.atoms, second.atoms
    return (
        np.array_equal(a.positions, b.positions)
        and np.array_equal(a.get_momenta(), b.get_momenta())
        and np.array_equal(a.cell.array, b.cell.array)
        and a.get_potential_energy() == b.get_potential_energy()
    )


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_resuming_equals_a_straight_run_bit_for_bit(tmp_path, ensemble, suffix):
    straight = Simulation(copper(), settings(ensemble), tmp_path / f"straight{suffix}")
    straight.run(30)
    half = tmp_path / f"half{suffix}"
    stopped = Simulation(copper(), settings(ensemble), half)
    stopped.run(15)
    resumed = Simulation.resume(half, calculator())
    assert resumed.step == 15
    summary = resumed.run(30)
    assert same(straight, resumed)
    logs = [(tmp_path / f"{name}{suffix}.csv").read_text() for name in ("straight", "half")]
    assert logs[0] == logs[1]
    frames = [read(tmp_path / f"{name}{suffix}", index=":") for name in ("straight", "half")]
    assert len(frames[0]) == len(frames[1]) == 7
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(*frames, strict=True))
    assert summary.steps == 30


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_what_was_written_after_the_state_is_written_again(tmp_path, suffix):
    """As after a kill between a frame and the state that follows it."""
    straight = Simulation(copper(), settings("langevin"), tmp_path / f"straight{suffix}")
    straight.run(30)
    path = tmp_path / f"killed{suffix}"
    killed = Simulation(copper(), settings("langevin"), path)
    killed.run(10)
    state = (tmp_path / f"killed{suffix}.state.npz").read_bytes()
    killed.run(20)
    (tmp_path / f"killed{suffix}.state.npz").write_bytes(state)
    with (tmp_path / f"killed{suffix}.csv").open("a") as log:
        log.write("25,50.0,3")
    resumed = Simulation.resume(path, calculator())
    assert resumed.step == 10
    resumed.run(30)
    assert same(straight, resumed)
    assert path.with_name(path.name + ".csv").read_text() == (tmp_path / f"straight{suffix}.csv").read_text()
    assert [a.info["step"] for a in read(path, index=":")] == [0, 5, 10, 15, 20, 25, 30]


def test_running_on_in_one_process_is_the_same_too(tmp_path):
    straight = Simulation(copper(), settings("bussi"), tmp_path / "straight.extxyz")
    straight.run(20)
    parts = Simulation(copper(), settings("bussi"), tmp_path / "parts.extxyz")
    parts.run(10)
    parts.run(20)
    assert same(straight, parts)
    assert (tmp_path / "parts.extxyz").read_bytes() == (tmp_path / "straight.extxyz").read_bytes()


def test_seeds_decide_and_global_random_numbers_are_left_alone(tmp_path):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [Simulation(copper(), settings("langevin", seed=seed)) for seed in (1, 1, 2)]
    for run in runs:
        run.run(10)
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_log_and_trajectory(tmp_path):
    path = tmp_path / "new" / "md.extxyz"
    seen = []
    summary = Simulation(copper(), settings("nve"), path).run(12, seen.append)
    records = read_log(summary.log)
    assert [record["step"] for record in records] == [0, 5, 10, 12] == [record["step"] for record in seen]
    header = path.with_name("md.extxyz.csv").read_text().splitlines()[0].split(",")
    assert header[:6] == ["step", "time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV"]
    assert {"conserved_eV", "pressure_GPa", "volume_A3"} <= set(header)
    assert records == seen  # to the last bit
    for record, frame in zip(records, read(path, index=":"), strict=True):
        assert record["total_eV"] == pytest.approx(record["potential_eV"] + record["kinetic_eV"])
        assert record["time_fs"] == 2 * record["step"] == frame.info["time_fs"]
        assert frame.get_potential_energy() == pytest.approx(record["potential_eV"], abs=1e-7)
        assert np.linalg.norm(frame.get_forces(), axis=1).max() == pytest.approx(record["max_force_eV_per_A"], abs=1e-6)
        frame.calc, checked = calculator(), frame.get_stress()
        ideal = 2 * frame.get_kinetic_energy() / 3 / frame.get_volume()
        pressure = (ideal - checked[:3].mean()) / units.GPa
        assert record["pressure_GPa"] == pytest.approx(pressure, abs=1e-3)


def test_a_molecule_has_no_pressure(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = calculator()
    summary = Simulation(atoms, settings("nve", timestep=0.2), tmp_path / "w.extxyz").run(10)
    assert summary.pressure_GPa is None
    assert "pressure_GPa" not in read_log(summary.log)[0]


def test_without_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summary = Simulation(copper(), settings("nve")).run(10)
    assert summary.steps == 10 and summary.trajectory == "" and list(tmp_path.iterdir()) == []


def test_nve_conserves_energy():
    """EMT copper, 2 fs at 600 K: the numbers known for ASE's integrator."""
    atoms = bulk("Cu", a=3.5898, cubic=True) * 2
    atoms.calc = EMT()
    summary = Simulation(atoms, Settings(timestep=2.0, temperature=600.0, interval=10)).run(500)
    assert abs(summary.drift_meV_per_atom) < 0.1
    assert summary.fluctuation_meV_per_atom < 0.05
    assert 220 < summary.temperature_K < 420  # half of the kinetic energy goes into the springs


@pytest.mark.parametrize("ensemble", ["langevin", "nose-hoover", "bussi", "npt", "npt-full"])
def test_thermostats_reach_their_temperature(ensemble):
    atoms = copper()
    temperature = 300.0
    simulation = Simulation(atoms, settings(ensemble, temperature=temperature, timestep=4.0, damping=40.0, interval=2))
    simulation.run(900)
    records = simulation.records[100:]
    mean = np.mean([record["temperature_K"] for record in records])
    assert mean == pytest.approx(temperature, rel=0.2)
    if ENSEMBLES[ensemble].barostat:
        assert abs(np.mean([record["pressure_GPa"] for record in records])) < 1.0
        assert np.ptp([record["volume_A3"] for record in records]) > 0.1
        assert np.allclose(atoms.cell.angles(), 90) == (ensemble == "npt")
    if ENSEMBLES[ensemble].conserves:
        kept = np.array([record["conserved_eV"] for record in simulation.records])
        total = np.array([record["total_eV"] for record in simulation.records])
        assert np.ptp(kept) < 0.2 * np.ptp(total)


def test_velocities():
    atoms = molecule("CH3CH2OH")
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert atoms.get_temperature() == pytest.approx(300.0)
    assert np.allclose(atoms.get_momenta().sum(0), 0, atol=1e-12)
    assert np.allclose(atoms.get_angular_momentum(), 0, atol=1e-10)
    lattice = bulk("Cu") * (3, 3, 3)
    draw_velocities(lattice, 900.0, np.random.default_rng(0))
    assert np.allclose(lattice.get_momenta().sum(0), 0, atol=1e-10)
    speeds = lattice.get_velocities() * np.sqrt(lattice.get_masses())[:, None] / np.sqrt(units.kB * 900)
    assert speeds.std() == pytest.approx(1.0, abs=0.02)
    draw_velocities(lattice, 0.0, np.random.default_rng(0))
    assert not lattice.get_momenta().any()
    for atoms in (Atoms("H"), Atoms("H2", [[0, 0, 0], [0, 0, 1]])):
        draw_velocities(atoms, 300.0, np.random.default_rng(0))
        assert atoms.get_temperature() == pytest.approx(300.0)


def test_velocities_of_the_structure_are_kept():
    atoms = copper()
    momenta = np.random.default_rng(0).normal(size=(4, 3))
    atoms.set_momenta(momenta)
    simulation = Simulation(atoms, settings("nve"))
    assert np.array_equal(simulation.atoms.get_momenta(), momenta)


def test_fixed_atoms_stay_fixed_and_are_remembered(tmp_path):
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 2]))
    before = atoms.positions[[0, 2]].copy()
    Simulation(atoms, settings("langevin"), tmp_path / "md.traj").run(10)
    resumed = Simulation.resume(tmp_path / "md.traj", calculator())
    resumed.run(20)
    assert np.array_equal(resumed.atoms.positions[[0, 2]], before)
    assert not np.allclose(resumed.atoms.positions[1], copper().positions[1])


# -- ends ------------------------------------------------------------------------------------------------------------


def test_an_explosion_is_one_line_that_names_step_and_atom(tmp_path):
    atoms = copper()
    atoms.positions[2] = atoms.positions[1] + [0.3, 0, 0]
    simulation = Simulation(atoms, settings("nve", timestep=5.0), tmp_path / "md.extxyz")
    with pytest.raises(Unstable, match=r"^step 1 \(5 fs\): atom [12] \(Cu\) moved .* Å in one step.*smaller time step"):
        simulation.run(10)
    assert len(read(tmp_path / "md.extxyz", index=":")) == 1  # what was good is there
    assert Simulation.resume(tmp_path / "md.extxyz", calculator()).step == 0


def test_predictions_that_are_no_numbers_end_a_simulation():
    class Failing(EMT):
        def calculate(self, *args):
            super().calculate(*args)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 4:
                self.results["forces"][3] = np.nan

    atoms = copper()
    atoms.calc = Failing()
    with pytest.raises(Unstable, match=r"step 5 .*atom 3 \(Cu\) moved nan"):
        Simulation(atoms, settings("nve")).run(20)


def test_errors_of_the_calculator_name_the_step(monkeypatch):
    atoms = copper()
    simulation = Simulation(atoms, settings("nve"))
    simulation.run(3)

    def broken(*args):
        raise DataError("the model predicts nonsense")

    monkeypatch.setattr(Calculator, "_predict", broken)
    with pytest.raises(Unstable, match=r"step 4 \(8 fs\): the model predicts nonsense"):
        simulation.run(5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ensemble": "langevi"}, "'langevi' is unknown .*'langevin'"),
        ({"ensemble": "nve", "timestep": 0.0}, "timestep is 0.0"),
        ({"ensemble": "bussi", "temperature": -1.0}, "temperature is -1.0"),
        ({"ensemble": "langevin", "damping": 0.0}, "damping is 0.0"),
        ({"ensemble": "nve", "interval": 0}, "interval is 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Simulation(copper(), settings(**options))


def test_barostats_need_a_periodic_box():
    atoms = molecule("H2O")
    atoms.calc = calculator()
    with pytest.raises(DataError, match="needs three periodic directions"):
        Simulation(atoms, settings("npt"))
    atoms = copper()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(DataError, match="can't hold constraints"):
        Simulation(atoms, settings("npt-full"))


def test_resuming_with_another_model_is_refused(tmp_path):
    Simulation(copper(), settings("nve"), tmp_path / "md.extxyz").run(5)
    with pytest.raises(ConfigError, match="resume with the model that began"):
        Simulation.resume(tmp_path / "md.extxyz", EMT())


def test_states_that_can_not_be_read(tmp_path):
    path = tmp_path / "md.extxyz"
    with pytest.raises(FileFormatError, match=r"md\.extxyz\.state\.npz: does not exist"):
        Simulation.resume(path, calculator())
    Simulation(copper(), settings("nve"), path).run(5)
    state = tmp_path / "md.extxyz.state.npz"
    whole = state.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        state.write_bytes(content)
        with pytest.raises(FileFormatError, match="is damaged"):
            Simulation.resume(path, calculator())
    np.savez(state, header=np.array(["a", None], dtype=object))  # would need pickle
    with pytest.raises(FileFormatError, match="is damaged"):
        Simulation.resume(path, calculator())
    state.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="has 100 bytes"):
        Simulation.resume(path, calculator()).run(10)


def test_states_of_newer_versions_are_refused(tmp_path):
    path = tmp_path / "md.extxyz"
    Simulation(copper(), settings("nve"), path).run(5)
    state = tmp_path / "md.extxyz.state.npz"
    with np.load(state) as stored:
        arrays = dict(stored)
    header = json.loads(arrays["header"].tobytes())
    header["schema"] = 99
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(state, **arrays)
    with pytest.raises(FileFormatError, match="schema 99"):
        read_state(state)


def test_generators_are_restored_exactly():
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox):
        generator = np.random.Generator(kind(3))
        generator.normal(size=7)
        again = restore_generator(generator.bit_generator.state)
        assert np.array_equal(generator.normal(size=5), again.normal(size=5))
    with pytest.raises(FileFormatError, match="'os' is unknown"):
        restore_generator({"bit_generator": "os"})


def test_integrators_settings_reach_ase():
    atoms = copper()
    draw_velocities(atoms, 300, np.random.default_rng(0))
    options = {"temperature": 300.0, "pressure": 2.0, "damping": None, "pressure_damping": None}
    made = {name: integrator(atoms, name, timestep=0.5, rng=np.random.default_rng(0), **options) for name in ENSEMBLES}
    assert all(dynamics.dt == 0.5 * units.fs for dynamics in made.values())
    assert made["langevin"].fr == pytest.approx(1 / (50 * units.fs))
    assert made["bussi"].taut == pytest.approx(50 * units.fs)
    assert made["npt"]._pressure_au == pytest.approx(2 * units.GPa)
    assert made["npt"]._barostat._pdamp == pytest.approx(500 * units.fs)


# -- parts -----------------------------------------------------------------------------------------------------------


def test_summary_of_a_known_line():
    records = [
        {
            "step": k,
            "time_fs": 2.0 * k,
            "temperature_K": 300.0 + (k >= 5) * k,
            "conserved_eV": 8 + 1e-5 * k + 1e-4 * (-1) ** k,
        }
        for k in range(11)
    ]
    summary = summarize(records, atoms=4)
    assert summary.drift_meV_per_atom_per_ps == pytest.approx(1e-5 * 1e3 / 4 / 2e-3, rel=0.2)
    assert summary.drift_meV_per_atom == pytest.approx(summary.drift_meV_per_atom_per_ps * 0.02)
    assert summary.fluctuation_meV_per_atom == pytest.approx(1e-4 * 1e3 / 4, rel=0.05)
    assert summary.temperature_K == pytest.approx(307.5)
    assert summarize(records[:1], 4).drift_meV_per_atom is None
    no_line = [{key: value for key, value in row.items() if key != "conserved_eV"} for row in records]
    assert summarize(no_line, 4).drift_meV_per_atom is None


def test_logs_that_are_no_logs(tmp_path):
    (tmp_path / "log.csv").write_text("step,time_fs\n1,two\n")
    with pytest.raises(FileFormatError, match=r"log\.csv: is no log"):
        read_log(tmp_path / "log.csv")


def test_trajectories_have_known_endings(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in one of \.extxyz, \.xyz, \.traj"):
        TrajectoryFile(tmp_path / "md.pdb")


def test_snapshots_hold_results_and_no_calculator():
    frame = snapshot(copper(), step=3)
    assert frame.info["step"] == 3
    assert set(frame.calc.results) == {"energy", "forces", "stress"}
    atoms = molecule("H2O")
    atoms.calc = calculator()
    assert set(snapshot(atoms).calc.results) == {"energy", "forces"}
