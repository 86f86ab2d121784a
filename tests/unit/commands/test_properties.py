"""From a table to scores on the command line: fit, test, report, evaluate, committees. Budget: 25 s."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from geomlib.cli import main
from geomlib.data.scores import scores

RECIPE = {
    "model": {
        "class_path": "PropertyTask",
        "init_args": {
            "net": {
                "class_path": "DMPNN",
                "init_args": {
                    "targets": [{"name": "size", "unit": "nm"}, {"name": "ring", "kind": "binary"}],
                    "hidden": 8,
                    "depth": 2,
                    "head_layers": [8],
                },
            }
        },
    },
    "data": {
        "class_path": "GraphDataModule",
        "init_args": {
            "store": {"class_path": "TableStore", "init_args": {"path": "table.csv"}},
            "split": {"class_path": "ColumnSplit", "init_args": {"column": "part"}},
            "batch_size": 8,
        },
    },
    "trainer": {"max_epochs": 2, "enable_progress_bar": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("properties")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "size", "ring", "part"])
        for k in range(36):
            text = ("C" * (k % 7 + 1)) + ("c1ccccc1" if k % 2 else "O") + "N" * (k // 18)
            writer.writerow([text, len(text), "" if k % 9 == 4 else k % 2, ("train", "train", "val", "test")[k % 4]])
            if k % 4 > 1:  # both classes in val and test
                writer.writerow(["F" + text, len(text) + 1, k % 2, ("train", "train", "test", "val")[k % 4]])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture
def here(run, monkeypatch):
    monkeypatch.chdir(run)
    return run


def test_fit_test_report(here, capfd):
    assert main(["fit", "-c", "recipe.yaml", "--folder", "out"]) == 0
    assert main(["test", "out"]) == 0
    assert "ROC-AUC" in capfd.readouterr().out
    found = json.loads(Path("out/test_metrics.json").read_text())
    assert found["targets"][1]["kind"] == "binary" and found["units"]["size_r2"] == ""
    with np.load("out/predictions.npz") as stored:
        label, prediction = stored["target_reference"], stored["target_prediction"]
    for k, (name, kind) in enumerate((("size", "regression"), ("ring", "binary"))):
        for score, value in scores(kind, label[:, k], prediction[:, k]).items():
            assert found["metrics"][f"{name}_{score}"] == pytest.approx(value, rel=1e-5)
    assert main(["report", "out"]) == 0
    page = Path("out/report.html").read_text()
    assert "ROC curve of ring" in page and "Predicted against true size" in page and "MAE" in page


def test_evaluate_agrees_with_the_test(here, capfd):
    if not Path("out/model.safetensors").is_file():
        test_fit_test_report(here, capfd)
    capfd.readouterr()
    words = ["evaluate", "out/model.safetensors", "table.csv", "--split", "test", "--split-column", "part"]
    assert main([*words, "--json", "--output", "out.csv", "--report", "e.html"]) == 0
    found = json.loads(capfd.readouterr().out)["targets"]
    expected = json.loads(Path("out/test_metrics.json").read_text())["metrics"]
    assert found["size"]["scores"]["rmse"]["value"] == pytest.approx(expected["size_rmse"], rel=1e-4)
    auc = found["ring"]["scores"]["auc"]
    assert auc["value"] == pytest.approx(expected["ring_auc"]) and auc["low"] <= auc["value"] <= auc["high"]
    rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"ok"} and len(rows) == found["size"]["count"]
    assert "ROC curve" in Path("e.html").read_text()
    assert main([*words[:3], "--key", "sizes=part"]) == 1
    assert "the model has the targets size, ring" in capfd.readouterr().err


@pytest.mark.slow
def test_members_make_a_committee_that_knows_its_deviation(here, capfd):
    assert main(["fit", "-c", "recipe.yaml", "--members", "2", "--folder", "team"]) == 0
    assert "geomlib evaluate" in capfd.readouterr().out
    with np.load("team/predictions.npz") as joined, np.load("team/member_1/predictions.npz") as one:
        assert joined["target_std"].shape == joined["target_prediction"].shape and (joined["target_std"] > 0).any()
        assert not np.array_equal(joined["target_prediction"], one["target_prediction"])
    assert main(["evaluate", "team/committee.json", "table.csv", "--split", "test", "--split-column", "part"]) == 0
    assert "× the deviation" in capfd.readouterr().out
    assert main(["report", "team"]) == 0
    assert "Ideal are 1 and 68" in Path("team/report.html").read_text()
