"""A resumed run is the straight run, bit for bit; what is typed on resuming holds."""

import csv
import signal
from pathlib import Path

import pytest
import torch

from geomlib.cli import main

EMA = '--trainer.callbacks+={"class_path": "EMA", "init_args": {"decay": 0.9}}'
OFTEN = '--trainer.callbacks+={"class_path": "Checkpoints", "init_args": {"every_n_steps": 3}}'
KILLER = """
import os, signal, sys
import lightning
from geomlib.cli import main

class Killer(lightning.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == {step}:
            os.kill(os.getpid(), signal.{signal})

if __name__ == "__main__":
    sys.exit(main(["fit", *{words!r}, "--trainer.callbacks+=__main__.Killer"]))
"""


def words(folder, *more):
    return ["-c", "tiny.yaml", "--folder", folder, EMA, OFTEN, *more]


def rows(folder, after):
    """Logged numbers of the steps after `after`."""
    with (Path(folder) / "metrics.csv").open() as file:
        found = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in found if int(row["step"]) >= after]


@pytest.fixture
def compare(checkpoint, same):
    """A check that two runs have the same last checkpoint, and the same numbers after a step."""

    def compare(straight, resumed, after):
        a, b = checkpoint(straight), checkpoint(resumed)
        for key in (
            "state_dict",
            "current_model_state",
            "averaging_state",
            "optimizer_states",
            "lr_schedulers",
            "meters",
        ):
            same(a[key], b[key], key)
        assert a["global_step"] == b["global_step"] and a["epoch"] == b["epoch"]
        loaders = [content["loops"]["fit_loop"]["state_dict"]["combined_loader"] for content in (a, b)]
        assert loaders[0] == loaders[1]
        best = [content["callbacks"]["Checkpoints"]["best_score"] for content in (a, b)]
        assert best[0] == best[1]
        key = lambda row: (int(row["step"]), sorted(row))  # noqa: E731
        assert sorted(rows(straight, after), key=key) == sorted(rows(resumed, after), key=key)
        assert rows(resumed, after)

    return compare


@pytest.mark.parametrize(
    ("name", "step"), [("SIGKILL", 13), ("SIGTERM", 13)], ids=["killed in mid-epoch", "asked to stop in mid-epoch"]
)
def test_a_stopped_process_goes_on_as_if_nothing_had_been(here, process, name, step, compare, checkpoint):
    done = process(KILLER.format(step=step, signal=name, words=words("stopped")))
    assert done.returncode == (-signal.SIGKILL if name == "SIGKILL" else 143), done.stderr
    saved = checkpoint("stopped")["global_step"]
    assert saved == (12 if name == "SIGKILL" else 13)
    assert saved % 8, "the checkpoint is of the middle of an epoch"
    last = "stopped/checkpoints/last.ckpt"
    assert main(["fit", *words("resumed", "--resume", last)]) == 0
    assert main(["fit", *words("straight")]) == 0
    compare("straight", "resumed", saved)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_ended_goes_on_to_more_epochs(here, workers, compare):
    steps = ["--trainer.max_epochs", "2", "--model.schedule", "Constant"]
    more = ["--data.num_workers", str(workers)]
    assert main(["fit", *words("first", *steps, *more)]) == 0
    steps[1] = "3"
    assert main(["fit", *words("resumed", *steps, *more, "--resume", "first/checkpoints/last.ckpt")]) == 0
    assert main(["fit", *words("straight", *steps)]) == 0
    compare("straight", "resumed", 16)


def test_typed_values_hold_and_a_changed_learning_rate_is_said(here, capfd, checkpoint):
    assert main(["fit", *words("first", "--trainer.max_epochs", "1")]) == 0
    capfd.readouterr()
    more = ("--model.optimizer.lr", "0.02", "--model.optimizer.weight_decay", "0.5", "--data.batch_size", "4")
    assert main(["fit", *words("second", *more, "--ckpt_path", "first/checkpoints/last.ckpt")]) == 0
    said = capfd.readouterr().err
    assert "start learning rate: the checkpoint has 0.005, the configuration 0.02; the configuration holds" in said
    assert "weight_decay: the checkpoint has 0.001, the configuration 0.5" in said
    group = checkpoint("second")["optimizer_states"][0]["param_groups"][0]
    assert group["initial_lr"] == 0.02 and group["weight_decay"] == 0.5
    assert "moments" not in said


def test_auto_finds_the_latest_checkpoint_of_the_recipe(here, capfd, checkpoint):
    assert main(["fit", "-c", "tiny.yaml", "--resume", "auto", "--trainer.max_epochs", "1"]) == 0
    assert "no checkpoint below runs/tiny" in capfd.readouterr().err
    assert main(["fit", "-c", "tiny.yaml", "--resume", "auto", "--trainer.max_epochs", "2"]) == 0
    assert checkpoint("runs/tiny/version_1")["global_step"] == 16


def test_every_resume_reads_plain_values_only(here, monkeypatch):
    assert main(["fit", *words("first", "--trainer.max_epochs", "1")]) == 0
    seen, load = [], torch.load

    def watched(*args, **options):
        seen.append(options.get("weights_only"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    last = "first/checkpoints/last.ckpt"
    assert main(["fit", *words("second", "--trainer.max_epochs", "2", "--resume", last)]) == 0
    assert main(["fit", *words("third", "--weights_only", "false", "--resume", last)]) == 0
    assert main(["test", "second"]) == 0
    assert len(seen) >= 5 and all(seen)


def test_a_poisoned_checkpoint_is_not_opened(here, capfd):
    class Poison:
        def __reduce__(self):
            return (Path("poisoned").touch, ())

    torch.save({"state_dict": {}, "payload": Poison()}, "bad.ckpt")
    for verb in (
        ["fit", *words("out", "--resume", "bad.ckpt")],
        ["test", "-c", "tiny.yaml", "--ckpt_path", "bad.ckpt"],
    ):
        assert main(verb) == 1
        said = capfd.readouterr().err.strip()
        assert said.startswith("geomlib: error: bad.ckpt: is a pickle") and "\n" not in said
    assert not Path("poisoned").exists()
