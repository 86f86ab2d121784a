"""`geomlib fit --members`: what a committee leaves, and that it goes on after a kill. Budget: 35 s."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule
from safetensors.numpy import load_file

from geomlib import Calculator
from geomlib.cli import main

WORDS = ["-c", "tiny.yaml", "--members", "2", "--trainer.max_epochs", "12", "--trainer.check_val_every_n_epoch", "4"]


def killed_in_the_second_member(folder: Path) -> None:
    run = folder / "runs" / "tiny" / "version_0"
    command = [sys.executable, "-m", "geomlib", "fit", *WORDS]
    settings = {"cwd": folder, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "start_new_session": True}
    deadline = time.monotonic() + 100
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **settings) as process:
        while time.monotonic() < deadline and not (run / "member_1/checkpoints/last.ckpt").exists():
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert not (run / "member_1/model.safetensors").exists()


def test_a_committee_goes_on_after_a_kill(here, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killed_in_the_second_member(here)
    run = Path("runs/tiny/version_0")
    first = (run / "member_0/model.safetensors").stat().st_mtime_ns
    assert main(["fit", *WORDS, "--resume", "auto"]) == 0
    said = capfd.readouterr()
    assert (run / "member_0/model.safetensors").stat().st_mtime_ns == first, "a finished member was fitted again"
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == [
        "member_0",
        "member_1",
        "member_1-resumed_1",
    ]
    members = [run / "member_0", run / "member_1-resumed_1"]

    # the second member is the straight fit with its seeds, bit for bit
    assert (
        main(["fit", "-c", str(run / "recipe.yaml"), "--seed_everything", "1", "--data.seed", "1", "--name", "s"]) == 0
    )
    straight, resumed = (load_file(path / "model.safetensors") for path in (Path("runs/s/version_0"), members[1]))
    assert straight.keys() == resumed.keys()
    assert all(np.array_equal(straight[name], resumed[name]) for name in straight)
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in members]
    assert [row["seed_everything"] for row in configs] == [0, 1]
    assert [row["data"]["init_args"]["seed"] for row in configs] == [0, 1]
    assert configs[0]["data"]["init_args"]["split"] == configs[1]["data"]["init_args"]["split"]

    # errors: of each member as its test told them, of the committee as those of the mean
    written = json.loads((run / "committee.json").read_text())
    for path, row in zip(members, written["test"]["members"], strict=True):
        assert row == json.loads((path / "test_metrics.json").read_text())["metrics"]
    stored = [np.load(path / "predictions.npz", allow_pickle=False) for path in members]
    mean = sum(arrays["forces_prediction"] for arrays in stored) / 2
    error = np.abs(mean - stored[0]["forces_reference"]).mean()
    assert written["test"]["committee"]["forces_mae"] == pytest.approx(error, rel=1e-5)
    joined = np.load(run / "predictions.npz", allow_pickle=False)
    half = 0.5 * np.linalg.norm(stored[0]["forces_prediction"] - stored[1]["forces_prediction"], axis=1)
    assert np.allclose(joined["force_deviation"], half, rtol=1e-4, atol=1e-7) and half.min() > 0
    assert f"{1e3 * error:.4g}" in said.out and "committee: runs/tiny/version_0/committee.json" in said.out

    (found,) = Calculator(run / "committee.json").evaluate([molecule("CH4")])
    assert found["forces_std"].max() > 0


@pytest.mark.slow
def test_members_at_the_same_time_from_resampled_data_end_on_sigterm(here, monkeypatch):
    run = here / "runs" / "tiny" / "version_0"
    command = [sys.executable, "-m", "geomlib", "fit", *WORDS, "--bootstrap", "--parallel-members", "2"]
    settings = {"cwd": here, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--trainer.max_epochs", "4000"], **settings) as process:
        saved = [run / f"member_{k}/checkpoints/last.ckpt" for k in (0, 1)]
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not all(path.exists() for path in saved):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "member 0: " in said and "member 1: " in said and "stopped by SIGTERM after step" in said
    assert "go on with: geomlib fit --members 2 --resume runs/tiny/version_0" in said
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["fit", "--members", "2", "--resume", str(run), "--trainer.max_epochs", "13", "--bootstrap"]) == 0
    sizes = [len(np.load(path / "predictions.npz")["sample_id"]) for path in run.glob("member_*-resumed_1")]
    assert sizes == [5, 5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "1"], "--members 1: a committee has at least two members"),
        (["--members", "0"], "--members 0: a committee has at least two members"),
        (["--members", "few"], "argument --members: invalid int value: 'few'; expected a number"),
        (["--bootstrap"], "--parallel-members and --bootstrap need --members"),
        (["--members", "2", "--parallel-members", "0"], "--parallel-members 0: expected at least 1"),
        (["--members", "2", "--trainer.max_epoch", "3"], "(did you mean 'trainer.max_epochs'?)"),
        (["--members", "2", "--resume", "nowhere"], "--resume nowhere: is no folder of a committee"),
        (["--members", "2", "--ckpt_path", "a.ckpt"], "members of a committee start on their own"),
    ],
)
def test_a_committee_in_vain(here, capfd, words, message):
    capfd.readouterr()
    assert main(["fit", "-c", "tiny.yaml", *words]) == 1
    said = capfd.readouterr().err.strip()
    assert said.startswith("geomlib: error: ") and "\n" not in said and message in said
    assert not Path("runs").exists()
