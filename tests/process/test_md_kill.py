"""A simulation that is killed goes on as if it had not been. Budget: 20 s, and 20 s slow."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write

import geomlib
from geomlib.models import DPA3

SIZES = {
    "layers": 1,
    "node_dim": 8,
    "edge_dim": 8,
    "angle_dim": 8,
    "fitting_layers": [8],
    "cutoff": 4.0,
    "cutoff_smooth": 3.5,
    "angle_cutoff": 3.0,
    "angle_cutoff_smooth": 2.5,
}


@pytest.mark.parametrize("committee", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_kill_and_resume(tmp_path, committee):
    for name in ("m", "n") if committee else "m":
        geomlib.save(DPA3(["H", "O"], **SIZES), tmp_path / f"{name}.safetensors")
    write(tmp_path / "w.xyz", molecule("H2O"))
    settings = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE}
    words = [sys.executable, "-m", "geomlib", "md", "m.safetensors", "w.xyz", "--ensemble", "langevin"]
    words += ["--interval", "10", "--steps", "400"]
    if committee:
        words += ["--committee", "n.safetensors", "--select-between", "1e-6", "9", "--select-spacing", "20"]

    def output(name):
        return ["-o", f"{name}.extxyz", *(["--select", f"{name}-label.extxyz"] if committee else [])]

    straight = subprocess.run([*words, *output("straight")], stdout=subprocess.DEVNULL, **settings)
    assert straight.returncode == 0, straight.stderr

    log, deadline = tmp_path / "killed.extxyz.csv", time.monotonic() + 60
    with subprocess.Popen([*words, *output("killed")], stdout=subprocess.DEVNULL, **settings) as killed:
        while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 10):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, "it ended before it was killed"

    resumed = subprocess.run([*words, *output("killed"), "--resume"], stdout=subprocess.DEVNULL, **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert log.read_text() == (tmp_path / "straight.extxyz.csv").read_text()
    first, second = (read(tmp_path / f"{name}.extxyz", index=":") for name in ("straight", "killed"))
    assert len(first) == len(second) == 41
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))
    if committee:
        first, second = ((tmp_path / f"{name}-label.extxyz").read_text() for name in ("straight", "killed"))
        assert first == second and first.count("max_devi_f") > 3
