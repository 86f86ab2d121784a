"""Training two data sets at once: a killed run goes on bit for bit, two processes give what one gives."""

import csv
import signal
from pathlib import Path

import pytest
import torch
import yaml

from geomlib.cli import main

OFTEN = '--trainer.callbacks+={"class_path": "Checkpoints", "init_args": {"every_n_steps": 3}}'
KILLER = """
import os, signal, sys
import lightning
from geomlib.cli import main

class Killer(lightning.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 11:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    sys.exit(main(["fit", *{words!r}, "--trainer.callbacks+=__main__.Killer"]))
"""
TWO = """
import sys
from geomlib.cli import main

if __name__ == "__main__":
    sys.exit(main({words!r}))
"""


@pytest.fixture
def joint(here):
    """`joint.yaml`: two parts of the tiny data set as the data sets of two heads, 8 batches an epoch."""
    recipe = yaml.safe_load(Path("tiny.yaml").read_text())
    model = recipe["model"]["init_args"]
    model["net"]["class_path"] = "MultiHeadDPA3"
    model["net"]["init_args"] |= {"heads": ["one", "two"], "fitting": "separate", "fitting_layers": [9, 9]}
    one, two = (yaml.safe_load(Path("tiny.yaml").read_text())["data"] for _ in range(2))
    one["init_args"]["split"]["init_args"] = {"train": "0:14", "val": "30:35", "test": "35:40"}
    two["init_args"]["split"]["init_args"] = {"train": "14:30", "val": "30:35"}
    two["init_args"]["batch_size"] = 8
    recipe["data"] = {
        "class_path": "MultiDataModule",
        "init_args": {"sets": {"one": one, "two": two}, "weights": {"one": 3.0, "two": 1.0}, "steps_per_epoch": 8},
    }
    Path("joint.yaml").write_text(yaml.safe_dump(recipe))
    return here


def rows(folder, after):
    with (Path(folder) / "metrics.csv").open() as file:
        found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return sorted((row for row in found if int(row["step"]) >= after), key=lambda row: (int(row["step"]), sorted(row)))


def test_a_killed_run_goes_on_as_if_nothing_had_been(joint, process, checkpoint):
    words = ["-c", "joint.yaml", OFTEN, "--folder"]
    done = process(KILLER.format(words=[*words, "stopped"]))
    assert done.returncode == -signal.SIGKILL, done.stderr
    saved = checkpoint("stopped")["global_step"]
    assert saved == 9  # the second batch of the second epoch
    assert main(["fit", *words, "resumed", "--resume", "stopped/checkpoints/last.ckpt"]) == 0
    assert main(["fit", *words, "straight"]) == 0
    a, b = checkpoint("straight"), checkpoint("resumed")
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for key, moments in a["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["optimizer_states"][0]["state"][key][name]))
    assert all(torch.equal(value, b["meters"][name]) for name, value in a["meters"].items())
    assert rows("straight", saved) == rows("resumed", saved) and rows("resumed", saved)
    epochs = [row for row in rows("straight", 0) if "train/one/forces_loss" in row]
    assert len(epochs) == 3 and all("train/two/forces_mae" in row for row in epochs)


@pytest.mark.slow
def test_two_processes_equal_one_at_the_same_global_batch(joint, process, checkpoint):
    words = ["fit", "-c", "joint.yaml", "--trainer.max_epochs", "1", "--model.net.precision", "float64"]
    done = process(TWO.format(words=[*words, "--folder", "two", "--trainer.devices", "2"]))
    assert done.returncode == 0, done.stderr
    recipe = yaml.safe_load(Path("joint.yaml").read_text())
    for data in recipe["data"]["init_args"]["sets"].values():
        data["init_args"]["batch_size"] *= 2
    Path("wide.yaml").write_text(yaml.safe_dump(recipe))
    assert main([*words[:2], "wide.yaml", *words[3:], "--folder", "one"]) == 0
    a, b = checkpoint("one")["state_dict"], checkpoint("two")["state_dict"]
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-6, atol=1e-8), name
