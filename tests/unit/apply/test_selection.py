"""Simulations with a committee: deviation in the log, stopping, frames for labelling. Budget: 10 s."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

import geomlib
import geomlib.models
from geomlib.apply.ase import Calculator
from geomlib.apply.committee import DEVIATION_COLUMNS, model_deviation
from geomlib.apply.dynamics import Settings, Simulation
from geomlib.apply.selection import FrameSelection, SelectionRule
from geomlib.apply.simulation_log import beside, read_log
from geomlib.cli import main
from geomlib.errors import ConfigError, FileFormatError
from geomlib.files.committee import write_committee
from geomlib.testing import ToyPotential
from geomlib.testing.nets import perturb_parameters

SETTINGS = Settings("langevin", timestep=2.0, temperature=900.0, damping=50.0, interval=2)


def nets() -> list[ToyPotential]:
    found = [ToyPotential(["Cu"], precision="float64") for _ in range(3)]
    for seed, net in enumerate(found):
        perturb_parameters(net, seed=seed)
    return found


def copper(calculator: Calculator | None):
    atoms = bulk("Cu", a=3.42, cubic=True)
    atoms.rattle(0.02, seed=0)
    atoms.info["charge"] = 0
    atoms.calc = calculator
    return atoms


@pytest.fixture(scope="module")
def committee() -> Calculator:
    return Calculator(nets())


@pytest.fixture(scope="module")
def course(committee) -> np.ndarray:
    """Largest deviation after each step of the simulation that all tests repeat."""
    simulation = Simulation(copper(committee), SETTINGS)
    found = []
    for step in range(41):
        simulation.run(step)
        found.append(model_deviation(committee.results).forces.max())
    return np.array(found)


def test_deviation_stands_in_the_log(tmp_path, committee, course):
    summary = Simulation(copper(committee), SETTINGS, tmp_path / "md.extxyz").run(40)
    records = read_log(tmp_path / "md.extxyz.csv")
    assert np.allclose([row["max_devi_f"] for row in records], course[::2], rtol=1e-12)
    assert set(DEVIATION_COLUMNS) <= set(records[0])
    assert summary.max_deviation == records[int(np.argmax(course[::2]))]["max_devi_f"]
    assert summary.stopped_at_deviation is None and summary.selected is None
    single = Simulation(copper(Calculator(nets()[0])), SETTINGS, tmp_path / "one.extxyz").run(4)
    assert single.max_deviation is None and not set(DEVIATION_COLUMNS) & set(read_log(tmp_path / "one.extxyz.csv")[0])


def test_stops_at_the_first_step_above_the_limit_and_goes_on_from_there(tmp_path, committee, course):
    odd = 2 * np.argmax(course[1::2]) + 1  # between two lines of the log
    limit = 0.5 * (course[odd] + max(course[:odd].max(), course[odd - 1]))
    first = int(np.flatnonzero(course > limit)[0])
    file = tmp_path / "md.extxyz"
    summary = Simulation(copper(committee), SETTINGS, file).run(40, stop_if_deviation=limit)
    assert summary.steps == first < 40
    assert summary.stopped_at_deviation == pytest.approx(course[first], rel=1e-12)
    assert read(f"{file}@-1").info["step"] == first
    straight = Simulation(copper(committee), SETTINGS)
    straight.run(40)
    resumed = Simulation.resume(file, committee)
    assert resumed.run(40).steps == 40
    assert np.array_equal(resumed.atoms.positions, straight.atoms.positions)


def test_stops_before_the_first_step(committee, course):
    summary = Simulation(copper(committee), SETTINGS).run(40, stop_if_deviation=0.9 * course[0])
    assert summary.steps == 0 and summary.stopped_at_deviation == pytest.approx(course[0])


def expected(course: np.ndarray, rule: SelectionRule) -> list[int]:
    """Steps that the rule keeps, by its words."""
    kept: list[int] = []
    for step in range(0, 41, 2):
        inside = rule.low <= course[step] <= rule.high
        if inside and (not kept or 2.0 * (step - kept[-1]) >= rule.spacing) and len(kept) < (rule.most or 99):
            kept.append(step)
    return kept


@pytest.mark.parametrize(("spacing", "most"), [(0.0, None), (12.0, None), (12.0, 2)])
def test_selects_what_the_rule_says(tmp_path, committee, course, spacing, most):
    rule = SelectionRule(*np.quantile(course, [0.3, 0.9]), spacing=spacing, most=most)
    file = tmp_path / "label.extxyz"
    with FrameSelection(file, rule) as selection:
        summary = Simulation(copper(committee), SETTINGS, tmp_path / "md.traj").run(40, selection=selection)
    frames = read(file, index=":")
    steps = expected(course, rule)
    assert [frame.info["step"] for frame in frames] == steps and len(steps) == summary.selected > 1
    for frame in frames:
        assert frame.calc is None and not frame.get_momenta().any()
        assert frame.info["max_devi_f"] == pytest.approx(course[frame.info["step"]], rel=1e-7)
        assert frame.arrays["force_deviation"].max() == pytest.approx(frame.info["max_devi_f"], rel=1e-6)
        assert frame.pbc.all() and frame.info["charge"] == 0


def test_selection_resumed_is_the_selection_of_a_straight_run(tmp_path, committee, course):
    rule = SelectionRule(*np.quantile(course, [0.2, 0.95]), spacing=8.0)

    def run(name, steps, resume=False):
        file = tmp_path / f"{name}.extxyz"
        simulation = Simulation.resume(file, committee) if resume else Simulation(copper(committee), SETTINGS, file)
        return simulation.run(steps, selection=FrameSelection(tmp_path / f"{name}-label.extxyz", rule))

    run("straight", 40)
    run("parts", 20)
    # what a killed simulation wrote after its last state
    label = tmp_path / "parts-label.extxyz"
    whole = label.read_text()
    label.write_text(whole + whole)
    assert run("parts", 40, resume=True).selected == len(read(label, index=":"))
    assert label.read_text() == (tmp_path / "straight-label.extxyz").read_text()
    label.write_text("")
    with pytest.raises(FileFormatError, match="has 0 bytes, but the saved state follows after"):
        run("parts", 44, resume=True)


def test_a_resumed_simulation_overwrites_no_foreign_file(tmp_path, committee):
    file, other = tmp_path / "md.extxyz", tmp_path / "other.extxyz"
    Simulation(copper(committee), SETTINGS, file).run(4)
    write(other, copper(None))
    before = other.read_text()
    with pytest.raises(ConfigError, match=r"other\.extxyz: exists, but this simulation did not write it"):
        Simulation.resume(file, committee).run(8, selection=FrameSelection(other))
    assert other.read_text() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.3, "high": 0.1}, "between 0.3 and 0.1 eV/Å"),
        ({"low": -0.1}, "expected 0 or more"),
        ({"spacing": -1.0}, "the time between selected frames is -1.0 fs"),
        ({"most": 0}, "at most 0 frames"),
    ],
)
def test_rules_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        SelectionRule(**options)


# -- as typed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    write("cu.xyz", copper(None))
    write_committee("committee.json", [geomlib.save(net, f"{k}.safetensors") for k, net in enumerate(nets())])
    return tmp_path


MD = ["--ensemble", "langevin", "-T", "900", "--timestep", "2", "--damping", "50", "--interval", "2"]


def test_md_stops_and_selects(capsys, folder, course):
    low, high, limit = np.quantile(course, [0.11, 0.71, 0.81]).tolist()
    words = ["--select", "label.extxyz", "--select-between", str(low), str(high), "--select-spacing", "4"]
    words = ["md", "committee.json", "cu.xyz", "--steps", "40", *MD, *words]
    assert main([*words, "--stop-if-deviation", str(limit)]) == 0
    out, err = capsys.readouterr()
    first = int(np.flatnonzero(course > limit)[0])
    assert f"stopped at step {first} of 40: the members differ by {course[first]:.3f} eV/Å" in out
    count = len(read("label.extxyz", index=":"))
    assert f"selected for labelling     {count} frames in label.extxyz" in out and count > 0
    assert f"deviation {course[0]:.3f} eV/Å" in err and "selected" in err
    assert "or go on: geomlib md committee.json --resume --output cu-md.extxyz --steps 40" in out
    del words[2]
    assert main([*words, "--resume", "-o", "cu-md.extxyz", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["steps"] == 40 and values["stopped_at_deviation"] is None and values["selected"] > count


def test_md_with_several_files(capsys, folder, course):
    words = ["md", "0.safetensors", "cu.xyz", "--committee", "1.safetensors", "2.safetensors", "--steps", "2", *MD]
    assert main(words) == 0
    assert "geomlib md 0.safetensors --committee 1.safetensors 2.safetensors --resume" in capsys.readouterr().out
    assert read_log(beside("cu-md.extxyz", ".csv"))[0]["max_devi_f"] == pytest.approx(course[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0.safetensors", "cu.xyz", "--select", "a.extxyz"], "takes a committee of two or more models"),
        (["0.safetensors", "cu.xyz", "--stop-if-deviation", "1"], "takes a committee of two or more models"),
        (["committee.json", "cu.xyz", "--stop-if-deviation", "0"], "the deviation to stop at is 0.0 eV/Å"),
        (["committee.json", "cu.xyz", "--select-max", "3"], "--select-max needs --select, the file for the frames"),
        (["committee.json", "cu.xyz", "--select", "a.traj"], "a.traj: selected frames are written as extended XYZ"),
        (["committee.json", "cu.xyz", "--select", "a.extxyz", "--select-between", "1", "0"], "between 1.0 and 0.0"),
        (["0.safetensors", "--committee", "1.safetensors", "cu.xyz"], "md needs a STRUCTURE"),
    ],
)
def test_md_in_vain(capsys, folder, words, message):
    assert main(["md", *words]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("a.extxyz").exists()
