"""Paths that are chosen in three phases and then gone: resumed in any phase bit for bit, and equal on two processes."""

import pytest
import torch

import geomlib
from geomlib.cli import main

DRIVER = """
import sys
from geomlib.cli import main

if __name__ == "__main__":
    sys.exit(main({words!r}))
"""
OFTEN = '--trainer.callbacks+={"class_path": "Checkpoints", "init_args": {"every_n_steps": 1, "every_n_epochs": 99}}'
PRECISE = ["--trainer.precision", "64-true"]
EMA = '--trainer.callbacks+={"class_path": "EMA", "init_args": {"decay": 0.9}}'


def fit(folder, steps, *more):
    """Words of a fit whose paths are explored for 3 steps and compete for 4."""
    words = ["fit", "-c", "sphnet/smoke", "--folder", folder, "--trainer.max_epochs", "2"]
    words += ["--trainer.max_steps", str(steps), "--model.schedule", "Constant"]
    words += ["--model.net.channels", "8", "--model.net.path_sparsity", "0.6", "--model.net.path_steps", "[3, 4]"]
    return [*words, "--model.net.pair_sparsity", "0.3", "--trainer.enable_progress_bar", "false", OFTEN, *more]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("average", [[], [EMA]], ids=["plain", "averaged"])
def test_every_phase_is_taken_up_bit_for_bit(folder, average, checkpoint, same):
    assert main(fit("straight", 10, *average)) == 0
    straight = checkpoint("straight")
    kept = straight["geomlib"]["config"]["kept_paths"]
    assert all(0 < len(numbers) < 20 for numbers in kept)
    assert not [name for name in straight["state_dict"] if "omega" in name]
    for step in (7, 8) if average else (2, 5, 8):  # exploring, competing, at the border, when the paths are gone
        first, then = f"first{step}", f"then{step}"
        assert main(fit(first, step, *average)) == 0
        assert (checkpoint(first)["geomlib"]["config"]["kept_paths"] is None) == (step < 8)
        assert main(fit(then, 10, *average, "--resume", f"{first}/checkpoints/last.ckpt")) == 0
        resumed = checkpoint(then)
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state", "averaging_state"):
            if key in straight:
                same(straight[key], resumed[key], f"{step} {key}")
        assert resumed["geomlib"]["config"]["kept_paths"] == kept
    # what is shipped, tested and started from has no other paths
    net = geomlib.load("straight/checkpoints/last.ckpt")
    assert net.config["kept_paths"] == kept
    assert main(["test", "straight", "--ckpt_path", "straight/checkpoints/last.ckpt"]) == 0
    geomlib.save(net, "small.safetensors")
    assert main(fit("tuned", 2, "--model.weights", "small.safetensors")) == 0
    assert checkpoint("tuned")["geomlib"]["config"]["kept_paths"] == kept


def test_two_processes_choose_the_same_paths_and_go_on_alike(folder, process, checkpoint):
    done = process(DRIVER.format(words=fit("two", 10, *PRECISE, "--data.batch_size", "8", "--trainer.devices", "2")))
    assert done.returncode == 0, done.stderr
    assert main(fit("one", 10, *PRECISE, "--data.batch_size", "16")) == 0
    one, two = checkpoint("one"), checkpoint("two")
    assert one["geomlib"]["config"]["kept_paths"] == two["geomlib"]["config"]["kept_paths"]
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][name], rtol=1e-6, atol=1e-8), name
