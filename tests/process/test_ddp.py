"""Two processes give what one gives at the same global batch."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geomlib.cli import main

DRIVER = """
import sys
from geomlib.cli import main

if __name__ == "__main__":
    sys.exit(main({words!r}))
"""
PRECISE = ["--model.net.precision", "float64", "--trainer.max_epochs", "2"]


def fit(folder, *more):
    return ["fit", "-c", "tiny.yaml", "--folder", folder, *PRECISE, *more]


def two(words):
    return DRIVER.format(words=[*words, "--trainer.devices", "2"])


def weights(folder):
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def metrics(folder, column):
    with (Path(folder) / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def test_two_processes_equal_one_at_the_same_global_batch(here, process):
    # 30 graphs of 3 to 6 atoms in global batches of 8: the ranks have different numbers of atoms, the last batch is odd
    done = process(two(fit("two", "--data.batch_size", "4")))
    assert done.returncode == 0, done.stderr
    assert main(fit("one", "--data.batch_size", "8")) == 0
    a, b = weights("one"), weights("two")
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-6, atol=1e-8), name
    for column in ("train/loss", "train/forces_mae", "val/forces_mae", "val/energy_rmse", "val/loss"):
        assert metrics("two", column) == pytest.approx(metrics("one", column), rel=1e-6), column
        assert len(metrics("two", column)) >= 2


def test_a_loss_on_forces_alone_does_not_stop_two_processes(here, process):
    words = fit("two", "--model.terms", '[{"field": "forces", "weight": 1.0}]', "--trainer.max_epochs", "1")
    done = process(two(words))
    assert done.returncode == 0, done.stderr
    assert metrics("two", "train/forces_loss")[0] > 0
    bias = weights("two")["net.net.fitting.layers.2.bias"]
    assert torch.isfinite(bias).all()


@pytest.mark.slow
def test_resuming_two_processes_continues_the_epoch(here, process):
    often = (
        '--trainer.callbacks+={"class_path": "Checkpoints", "init_args": {"every_n_steps": 3, "every_n_epochs": 99}}'
    )
    words = fit("first", often, "--trainer.max_steps", "3", "--model.schedule", "Constant")
    words[words.index("--trainer.max_epochs") + 1] = "1"
    done = process(two(words))
    assert done.returncode == 0, done.stderr
    rest = fit("resumed", "--model.schedule", "Constant", "--resume", "first/checkpoints/last.ckpt")
    done = process(two(rest))
    assert done.returncode == 0, done.stderr
    assert main(fit("straight", "--model.schedule", "Constant", "--data.batch_size", "8")) == 0
    a, b = weights("straight"), weights("resumed")
    assert all(torch.allclose(a[name], b[name], rtol=1e-6, atol=1e-8) for name in a)
    assert metrics("resumed", "train/forces_mae") == pytest.approx(metrics("straight", "train/forces_mae"), rel=1e-6)


@pytest.mark.slow
def test_two_processes_test_every_graph_once(here, process):
    assert main(fit("one")) == 0
    words = ["test", "-c", "tiny.yaml", "--ckpt_path", "one/checkpoints/best.ckpt", *PRECISE[:2]]
    done = process(two([*words, "--folder", "two"]))
    assert done.returncode == 0, done.stderr
    assert main(["test", "one"]) == 0
    one, both = (json.loads((here / name / "test_metrics.json").read_text()) for name in ("one", "two"))
    assert both["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    first, second = (np.load(here / name / "predictions.npz") for name in ("one", "two"))
    assert first["sample_id"].tolist() == second["sample_id"].tolist() == list(range(35, 40))
    assert np.allclose(first["forces_prediction"], second["forces_prediction"], rtol=1e-5, atol=1e-7)
