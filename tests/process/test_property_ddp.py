"""Two processes fit properties with missing labels as one does at the same global batch. Budget: 40 s."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from geomlib.cli import main

DRIVER = """
import sys
from geomlib.cli import main

if __name__ == "__main__":
    sys.exit(main({words!r}))
"""
RECIPE = {
    "model": {
        "class_path": "PropertyTask",
        "init_args": {
            "net": {
                "class_path": "DMPNN",
                "init_args": {
                    "targets": ["size", {"name": "ring", "kind": "binary"}],
                    **{"hidden": 8, "depth": 2, "head_layers": [8]},
                },
            }
        },
    },
    "data": {
        "class_path": "GraphDataModule",
        "init_args": {
            "store": {"class_path": "TableStore", "init_args": {"path": "table.csv"}},
            "split": {"class_path": "RangeSplit", "init_args": {"train": "0:30", "val": "30:41", "test": "41:50"}},
            "augment": True,
        },
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "log_every_n_steps": 1},
}


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Path("table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", "size", "ring"])
        for k in range(50):
            text = "C" * (k % 7 + 1) + ("c1ccccc1" if k % 3 else "OC") + "N" * (k // 25)
            writer.writerow([text, "" if k % 5 == 0 else len(text), "" if k % 4 == 1 else int(k % 3 > 0)])
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def fit(folder, batch_size):
    return ["fit", "-c", "recipe.yaml", "--folder", folder, "--data.batch_size", str(batch_size)]


def test_two_processes_equal_one(table, process):
    done = process(DRIVER.format(words=[*fit("two", 4), "--trainer.devices", "2"]))
    assert done.returncode == 0, done.stderr
    assert main(fit("one", 8)) == 0
    a, b = (
        torch.load(Path(name) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two")
    )
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-4, atol=1e-5), name
    rows = {}
    for name in ("one", "two"):
        with (Path(name) / "metrics.csv").open() as file:
            rows[name] = list(csv.DictReader(file))
    columns = [name for name in rows["one"][0] if name.startswith(("val/", "train/size"))]
    assert {"val/size_spearman", "val/ring_auc", "val/ring_ap", "val/loss", "train/size_rmse"} <= set(columns)
    for column in columns:
        one, two = ([float(row[column]) for row in rows[name] if row[column]] for name in ("one", "two"))
        assert len(one) >= 2 and two == pytest.approx(one, rel=1e-3, abs=1e-5), column
