"""`geomlib relax` and `evaluate --max-atoms auto` on many structures, as typed. Budget: 8 s."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

import geomlib
import geomlib.models
from geomlib.cli import main
from geomlib.testing import ToyPotential


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    frames = []
    for seed, name in enumerate(["H2O", "CH3OH", "H2O", "CH4"]):
        atoms = molecule(name)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    write("many.extxyz", frames)
    frames[2].positions[1] = frames[2].positions[0]
    write("bad.extxyz", frames)
    return str(geomlib.save(ToyPotential(["C", "H", "O"]), tmp_path / "toy.safetensors"))


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_at_once_and_one_by_one_are_the_same(capsys, model):
    code, out, err = run(capsys, "relax", model, "many.extxyz", "--json")
    assert code == 0 and "structure 4/4" in err
    together = json.loads(out)
    code, out, err = run(capsys, "relax", model, "many.extxyz", "--no-batch", "-o", "alone.extxyz", "--json")
    assert code == 0 and "step" in err
    alone = json.loads(out)
    assert together["batched"] and not alone["batched"]
    for one, other in zip(together["structures"], alone["structures"], strict=True):
        assert one["status"] == "converged" and one["steps"] == other["steps"] and one["reason"] is None
        assert one["energy"] == pytest.approx(other["energy"], abs=1e-8)
    for one, other in zip(read("many-relaxed.extxyz", ":"), read("alone.extxyz", ":"), strict=True):
        assert np.allclose(one.positions, other.positions, atol=1e-6)


def test_a_failure_is_a_row_and_the_exit_code(capsys, model):
    code, out, err = run(capsys, "relax", model, "bad.extxyz", "--optimizer", "fire", "--max-atoms", "8")
    assert code == 1 and "4/4" in err
    lines = out.splitlines()
    assert [("converged" in line, "FAILED" in line) for line in lines[:4]] == [(k != 2, k == 2) for k in range(4)]
    assert lines[2].startswith("H2O: FAILED, structure 2: step 0:") and "atoms 0 and 1 overlap" in lines[2]
    code, out, _ = run(capsys, "relax", model, "bad.extxyz", "--json")
    rows = json.loads(out)["structures"]
    assert code == 1 and [row["status"] for row in rows] == ["converged", "converged", "failed", "converged"]
    assert "overlap" in rows[2]["reason"] and rows[2]["energy"] is None and not rows[2]["converged"]
    frames = read("bad-relaxed.extxyz", ":")
    assert len(frames) == 4 and "overlap" in frames[2].info["failure"]


def test_giving_up_is_told(capsys, model):
    code, out, _ = run(capsys, "relax", model, "many.extxyz", "--steps", "2", "--json")
    assert code == 1 and {row["status"] for row in json.loads(out)["structures"]} == {"not converged"}


def test_long_reports_are_shortened_but_name_failures(capsys, model):
    frames = read("bad.extxyz", ":")
    write("long.extxyz", [frames[0]] * 22 + [frames[2]])
    code, out, _ = run(capsys, "relax", model, "long.extxyz", "--steps", "3", "--cell", "fixed")
    lines = out.splitlines()
    assert code == 1 and "FAILED, structure 22" in lines[20]
    assert lines[21] == "23 structures in all, 22 not converged, 1 failed"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--trajectory", "steps.traj"], "--trajectory needs one structure after the other"),
        (["--symmetry"], "--symmetry needs"),
        (["--optimizer", "bfgs"], "--optimizer bfgs needs"),
    ],
)
def test_what_can_not_be_batched(capsys, model, options, reason):
    code, _, err = run(capsys, "relax", model, "many.extxyz", "--batch", *options)
    assert code == 1 and reason in err and err.count("\n") == 1


def test_one_by_one_where_asked_for_by_another_option(capsys, model):
    code, out, _ = run(capsys, "relax", model, "many.extxyz@:2", "--trajectory", "steps.traj", "--json")
    assert code == 0 and not json.loads(out)["batched"] and Path("steps.traj").is_file()
    code, out, _ = run(capsys, "relax", model, "many.extxyz@0", "--batch", "--json")
    assert code == 0 and json.loads(out)["batched"]


def test_evaluate_by_what_fits(capsys, model):
    run(capsys, "relax", model, "many.extxyz", "-o", "labelled.extxyz")
    code, out, err = run(capsys, "evaluate", model, "labelled.extxyz", "--max-atoms", "auto", "--json")
    assert code == 0, err
    errors = json.loads(out)["errors"]
    assert errors["energy"]["mae"] < 1e-3 and errors["forces"]["count"] == 3 * (3 + 6 + 3 + 5)


@pytest.mark.parametrize("word", ["0", "-3", "some", "1.5"])
def test_batches_of_no_size(capsys, model, word):
    for verb in ("evaluate", "relax"):
        assert main([verb, model, "many.extxyz", f"--max-atoms={word}"]) == 2
        assert f"'{word}': expected a number of atoms, at least 1, or auto" in capsys.readouterr().err
