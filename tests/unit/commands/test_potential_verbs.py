"""`geomlib evaluate | relax | md | eos | phonons` as typed. Budget: 15 s."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write

import geomlib
import geomlib.models
from geomlib.cli import main
from geomlib.commands.potential import stem
from geomlib.commands.progress import ProgressLine
from geomlib.testing import ToyPotential


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
        return str(geomlib.save(ToyPotential(["Cu", "H", "O"]), tmp_path_factory.mktemp("model") / "toy.safetensors"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    write("cu.xyz", bulk("Cu", a=3.42, cubic=True))
    water = molecule("H2O")
    water.rattle(0.05, seed=0)
    write("water.xyz", water)
    return tmp_path


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def result(capsys, *words: str) -> dict:
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


# -- evaluate --------------------------------------------------------------------------------------------------------


def labelled(count: int = 3) -> list:
    frames = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_stress()
        frames.append(atoms)
    return frames


def test_evaluate(capsys, model, folder):
    write("data.extxyz", [*labelled(), molecule("CH4")])
    code, out, _ = run(capsys, "evaluate", model, "data.extxyz", "-o", "predicted.extxyz")
    assert code == 0
    assert "3 structures of data.extxyz" in out
    assert "skipped, 1 in all:" in out and "data.extxyz, frame 3: structure (CH4) contains C" in out
    assert "wrote predicted.extxyz" in out and f"next: geomlib md {model}" in out
    assert len(read("predicted.extxyz", index=":")) == 3
    values = result(capsys, "evaluate", model, "data.extxyz")
    assert values["structures"] == 3 and len(values["skipped"]) == 1
    assert values["errors"]["forces"]["count"] == 36 and values["errors"]["forces"]["unit"] == "meV/Å"


def test_evaluate_other_formats_and_names(capsys, model):
    frames = labelled(2)
    write("data.db", frames)
    expected = result(capsys, "evaluate", model, "data.db")["errors"]
    for atoms in frames:
        atoms.info["dft"] = atoms.get_potential_energy() * 23.060547830619
        atoms.arrays["dft_forces"] = atoms.get_forces()
        atoms.calc = None
    write("data.xyz", frames, format="extxyz")
    options = ("--key", "energy=dft", "--unit", "energy=kcal/mol", "--key", "forces=dft_forces")
    found = result(capsys, "evaluate", model, "data.xyz", *options)["errors"]
    assert found["energy"]["mae"] == pytest.approx(expected["energy"]["mae"], rel=1e-6)
    assert found["forces"]["mae"] == pytest.approx(expected["forces"]["mae"], rel=1e-6)
    code, _, err = run(capsys, "evaluate", model, "data.xyz", "--key", "energy=dtf", "--key", "forces=dft_forces")
    assert code == 1 and "no structure has the label 'dtf' that --key names for 'energy'" in err


def test_evaluate_a_deepmd_system(capsys, model, folder):
    frames = labelled(2)
    system = folder / "system" / "set.000"
    system.mkdir(parents=True)
    (folder / "system" / "type.raw").write_text("0\n0\n0\n0\n")
    (folder / "system" / "type_map.raw").write_text("Cu\n")
    np.save(system / "coord.npy", np.stack([atoms.positions.ravel() for atoms in frames]))
    np.save(system / "box.npy", np.stack([atoms.cell.array.ravel() for atoms in frames]))
    np.save(system / "energy.npy", np.array([atoms.get_potential_energy() for atoms in frames]))
    np.save(system / "force.npy", np.stack([atoms.get_forces().ravel() for atoms in frames]))
    found = result(capsys, "evaluate", model, "system")["errors"]
    write("same.extxyz", frames)
    expected = result(capsys, "evaluate", model, "same.extxyz")["errors"]
    assert found["forces"]["mae"] == pytest.approx(expected["forces"]["mae"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.extxyz"], "data.extxyz: there is no such file"),
        (["cu.xyz", "--key", "energy"], "--key energy: expected FIELD=VALUE"),
        (["cu.xyz", "--split", "test"], "only data sets with a card"),
        (["cu.xyz"], "no energy, forces, stress or virial"),
        (["card:nothing-of-the-kind"], "nothing-of-the-kind"),
    ],
)
def test_evaluate_in_vain(capsys, model, words, message):
    code, _, err = run(capsys, "evaluate", model, *words)
    assert code == 1 and message in err and err.splitlines()[-1].startswith("geomlib: error: ")


# -- md --------------------------------------------------------------------------------------------------------------


def test_md(capsys, model, folder):
    code, out, err = run(capsys, "md", model, "water.xyz", "--steps", "40", "--interval", "5")
    assert code == 0
    assert "H2O, 3 atoms: nve, 0.5 fs, 40 steps" in out
    assert "energy drift" in out and "meV/atom" in out and "ns/day" in out
    assert "wrote water-md.extxyz, water-md.extxyz.csv, water-md.extxyz.state.npz" in out
    assert "next: geomlib report water-md.extxyz" in out
    assert "step 40/40" in err and " K, E " in err and "drift" in err
    assert len(read("water-md.extxyz", index=":")) == 9


def test_md_resumed_equals_md_at_once(capsys, model, folder):
    words = ["--ensemble", "langevin", "-T", "200", "--interval", "5", "--seed", "4"]
    result(capsys, "md", model, "cu.xyz", "--steps", "30", "-o", "straight.traj", *words)
    result(capsys, "md", model, "cu.xyz", "--steps", "15", "-o", "parts.traj", *words)
    values = result(capsys, "md", model, "--resume", "-o", "parts.traj", "--steps", "30")
    assert values["steps"] == 30 and values["settings"]["ensemble"] == "langevin" and values["settings"]["seed"] == 4
    first, second = (read(name, index=-1) for name in ("straight.traj", "parts.traj"))
    assert np.array_equal(first.positions, second.positions) and np.array_equal(
        first.get_momenta(), second.get_momenta()
    )
    assert Path("straight.traj.csv").read_text() == Path("parts.traj.csv").read_text()
    code, out, _ = run(capsys, "md", model, "--resume", "-o", "parts.traj", "--steps", "30")
    assert code == 0 and "resumed at step 30" in out


def test_md_settings_of_a_resumed_simulation_are_its_own(capsys, model):
    result(capsys, "md", model, "cu.xyz", "--steps", "5", "--ensemble", "nve")
    code, _, err = run(capsys, "md", model, "cu.xyz", "--resume", "--steps", "10", "--timestep", "3")
    assert code == 1 and "this simulation has timestep 1.0, not 3.0" in err and "cu-md.extxyz@-1" in err
    assert result(capsys, "md", model, "cu.xyz", "--resume", "--steps", "10", "--timestep", "1")["steps"] == 10


def test_md_keeps_velocities_unless_told(capsys, model, folder):
    result(capsys, "md", model, "cu.xyz", "--steps", "10", "-o", "a.traj")
    last = read("a.traj", index=-1)
    result(capsys, "md", model, "a.traj", "--steps", "1", "-o", "b.traj")
    assert np.allclose(read("b.traj", index=0).get_momenta(), last.get_momenta())
    result(capsys, "md", model, "a.traj", "--steps", "1", "-o", "c.traj", "--new-velocities")
    assert not np.allclose(read("c.traj", index=0).get_momenta(), last.get_momenta())


def test_md_at_constant_pressure(capsys, model):
    values = result(capsys, "md", model, "cu.xyz", "--ensemble", "npt", "-T", "100", "--pressure", "1", "--steps", "20")
    assert values["pressure_GPa"] is not None
    code, _, err = run(capsys, "md", model, "water.xyz", "--ensemble", "npt", "--steps", "5")
    assert code == 1 and "needs three periodic directions" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a STRUCTURE"),
        (["--resume"], "--resume needs --output"),
        (["cu.xyz", "--resume"], "nothing to resume"),
        (["missing.xyz"], "missing.xyz: No such file"),
        (["cu.xyz", "--timestep", "0"], "timestep is 0"),
        (["cu.xyz", "-o", "md.pdb"], "md.pdb: a trajectory ends in"),
        (["cu.xyz", "--timestep", "400", "--steps", "50"], "moved"),
    ],
)
def test_md_in_vain(capsys, model, words, message):
    code, _, err = run(capsys, "md", model, *words)
    assert code == 1 and message in err and err.splitlines()[-1].startswith("geomlib: error: ")


def test_usage_errors(capsys, model):
    assert run(capsys, "md", model, "cu.xyz", "--ensemble", "nvt")[0] == 2
    code, _, err = run(capsys, "md", model, "cu.xyz", "--temprature", "3")
    assert code == 2 and "--temperature" in err


def test_unknown_elements_are_one_line(capsys, model, folder):
    write("methane.xyz", molecule("CH4"))
    code, _, err = run(capsys, "md", model, "methane.xyz", "--steps", "2")
    assert code == 1 and "contains C, which the model was not made for; it knows Cu, H, O" in err


# -- relax, eos, phonons ---------------------------------------------------------------------------------------------


def test_relax_then_eos_then_phonons(capsys, model, folder):
    code, out, err = run(capsys, "relax", model, "cu.xyz", "--cell", "--trajectory", "steps.traj")
    assert code == 0
    assert "Cu4: converged after" in out and "volume" in out and "wrote cu-relaxed.extxyz, steps.traj" in out
    assert f"next: geomlib phonons {model} cu-relaxed.extxyz" in out
    assert "largest force" in err
    relaxed = read("cu-relaxed.extxyz")
    values = result(capsys, "eos", model, "cu-relaxed.extxyz", "--points", "7")
    assert values["volume_A3"] == pytest.approx(relaxed.get_volume(), rel=1e-3)
    assert Path(values["figure"]).stat().st_size > 1000
    assert Path(values["table"]).read_text().splitlines()[0] == "volume_A3,energy_eV"
    code, out, _ = run(capsys, "eos", model, "cu-relaxed.extxyz", "--points", "5", "--relax", "-o", "out/curve")
    assert code == 0 and "bulk modulus" in out and "GPa" in out and "wrote out/curve.csv, out/curve.png" in out
    options = ("--supercell", "3", "3", "3", "--path", "GX", "--points", "5", "--mesh", "2")
    values = result(capsys, "phonons", model, "cu-relaxed.extxyz", *options)
    assert values["supercell"] == [3, 3, 3] and len(values["special_points_THz"]["Γ"]) == 12
    saved = json.loads(Path(values["table"]).read_text())
    assert np.array(saved["frequencies"]).shape == (5, 12) and saved["unit"] == "THz"
    code, out, _ = run(capsys, "phonons", model, "cu-relaxed.extxyz", *options)
    assert code == 0 and "Γ" in out and "wrote cu-relaxed-phonons.json, cu-relaxed-phonons.png" in out


def test_relax_says_when_it_gave_up(capsys, model):
    code, out, _ = run(capsys, "relax", model, "water.xyz", "--steps", "1")
    assert code == 1 and "H2O: NOT converged after 1 steps" in out


def test_relax_many_and_resume(capsys, model, folder):
    frames = []
    for seed in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    write("many.extxyz", frames)
    values = result(capsys, "relax", model, "many.extxyz")
    assert len(values["structures"]) == 3 and all(row["converged"] for row in values["structures"])
    assert len(read("many-relaxed.extxyz", index=":")) == 3
    code, out, _ = run(capsys, "relax", model, "many.extxyz", "--resume")
    assert code == 0 and "nothing was left to do" in out
    assert len(read("many-relaxed.extxyz", index=":")) == 3


def test_eos_in_vain(capsys, model):
    code, _, err = run(capsys, "eos", model, "water.xyz")
    assert code == 1 and "needs three periodic directions" in err


# -- parts -----------------------------------------------------------------------------------------------------------


def test_models_in_float32(capsys, model):
    exact = result(capsys, "relax", model, "cu.xyz", "--fmax", "0.1")["structures"][0]["energy"]
    rounded = result(capsys, "relax", model, "cu.xyz", "--fmax", "0.1", "--dtype", "float32")["structures"][0]["energy"]
    assert 0 < abs(exact - rounded) < 1e-3
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b/water.xyz", "water"),
        ("water.extxyz.gz", "water"),
        ("many.extxyz@3", "many"),
        ("POSCAR", "POSCAR"),
        ("card:ethanol:4", "ethanol-4"),
        (".hidden", ".hidden"),
    ],
)
def test_names_of_files(source, name):
    assert stem(source) == name


def test_progress_in_a_file_is_a_line_for_each_tenth():
    stream = io.StringIO()
    line = ProgressLine(200, "step", stream)
    for step in range(201):
        line.update(step, "fine")
    line.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11 and lines[0] == "step 0/200  fine" and lines[-1] == "step 200/200  fine"
    assert "left) fine" in lines[5]


def test_progress_on_a_terminal_is_one_line():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    line = ProgressLine(3, "step", stream)
    for step in range(4):
        line.update(step, "x" * (5 - step))
    line.close()
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n") and text.count("\r") >= 2
