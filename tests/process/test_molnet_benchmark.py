"""The benchmark on MoleculeNet tables, on a table of forty molecules."""

import csv
import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from geomlib import save
from geomlib.models.mist.net import MIST

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "molnet.py"


@pytest.fixture(scope="module")
def molnet():
    spec = importlib.util.spec_from_file_location("molnet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["molnet"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["molnet"]


@pytest.fixture
def data(tmp_path):
    """Alkanes, alcohols and rings, whose property is their number of carbons."""
    rows = [("C" * n + end, n) for n in range(1, 14) for end in ("", "O", "N")] + [("C1CCCCC1", 6)]
    parts = ["train"] * 28 + ["val"] * 6 + ["test"] * 6
    (tmp_path / "splits").mkdir()
    with gzip.open(tmp_path / "freesolv.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([("smiles", "freesolv"), *rows])
    with gzip.open(tmp_path / "splits" / "freesolv.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([("row", "scaffold"), *enumerate(parts)])
    return tmp_path


def test_scores_by_hand(molnet):
    nan = float("nan")
    labels = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, nan], [0.0, 1.0]])
    guess = np.array([[0.1, 0.5], [0.9, 0.1], [0.1, 0.5], [0.3, 0.2]])
    assert molnet.score("binary", labels, guess) == pytest.approx((2 + 0.5 + 0) / 4)  # the second has one class only
    assert molnet.score("regression", labels[:, :1], guess[:, :1]) == pytest.approx(
        np.sqrt((0.01 + 0.01 + 0.81 + 0.09) / 4)
    )


def test_runs_are_made_once_and_averaged(molnet, data, tmp_path, monkeypatch, capsys):
    bench = molnet.Bench(data, tmp_path / "cache", epochs=2)
    first = bench.run("freesolv", "ensemble", 0)
    alone = [bench.run("freesolv", name, 0) for name in molnet.CONFIGURATIONS["ensemble"].members]
    np.testing.assert_allclose(first["test"], np.mean([run["test"] for run in alone], axis=0))
    labels = bench.parts("freesolv").labels["test"]
    assert first["score"] == pytest.approx(float(np.sqrt(np.mean((np.array(first["test"]) - labels) ** 2))))
    monkeypatch.setattr(molnet, "fit", lambda *_: pytest.fail("made again"))
    assert molnet.Bench(data, tmp_path / "cache", epochs=2).run("freesolv", "ensemble", 0) == first
    with pytest.raises(pytest.fail.Exception, match="made again"):
        molnet.Bench(data, tmp_path / "cache", epochs=3).run("freesolv", "dmpnn", 0)
    table = molnet.markdown({"freesolv": {"dmpnn": alone[:1], "ensemble": [first]}})
    assert f"| ensemble | {first['score']:.3f} ± 0.000 |" in table and "freesolv (RMSE)" in table


def test_a_pretrained_encoder_is_one_option_away(molnet, data, tmp_path):
    file = save(MIST(layers=1, width=8, heads=2, feedforward=16), tmp_path / "encoder.safetensors")
    bench = molnet.Bench(data, tmp_path / "cache", pretrained=file, epochs=2)
    tuned, scratch, combined = (bench.run("freesolv", name, 0) for name in ("mist", "mist-scratch", "combined-mist"))
    assert tuned["pretrained"] and not scratch["pretrained"] and tuned["encoder"] == scratch["encoder"]
    assert tuned["test"] != scratch["test"] and np.isfinite(combined["score"])
    assert bench.run("freesolv", "dmpnn", 0)["encoder"] == ""


def test_command_line(molnet, data, tmp_path, monkeypatch, capsys):
    words = ["--sets", "freesolv", "--configurations", "descriptors", "--seeds", "0", "1", "--epochs", "2"]
    words += ["--data", str(data), "--cache", str(tmp_path / "cache"), "--json", str(tmp_path / "runs.json")]
    monkeypatch.setattr(sys, "argv", ["molnet.py", *words])
    molnet.main()
    assert "| descriptors |" in capsys.readouterr().out
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]["freesolv"]["descriptors"]
    assert len(runs) == 2 and runs[0]["score"] != runs[1]["score"]


def test_sets_without_a_split_are_split_by_scaffold(molnet):
    smiles = ["c1ccccc1C"] * 6 + ["CC", "CCC"] + ["C1CC1", "C1CCC1"]
    parts = molnet.split_of("clintox", Path(), smiles)
    assert parts == {"train": [0, 1, 2, 3, 4, 5, 6, 7], "val": [9], "test": [8]}


def test_rows_that_are_no_molecule_are_in_no_part(molnet, capsys):
    smiles = ["NC1N=C(O[AlH3](O)O)NC1=O"] + ["c1ccccc1C"] * 6 + ["CC", "CCC"] + ["C1CC1", "C1CCC1"]
    parts = molnet.split_of("tox21", Path(), smiles)
    assert parts == {"train": [1, 2, 3, 4, 5, 6, 7, 8], "val": [10], "test": [9]}
    assert "left out: tox21, row 0" in capsys.readouterr().err


def test_what_it_asks_for(molnet, data, tmp_path):
    bench = molnet.Bench(data, tmp_path / "cache")
    with pytest.raises(SystemExit, match="--pretrained"):
        bench.run("freesolv", "mist", 0)
    with pytest.raises(SystemExit, match="GEOMLIB_CHEMPROP_PYTHON"):
        bench.run("freesolv", "chemprop", 0)
