"""A simulation that is killed goes on as if it had not been. Budget: 20 s."""

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


@pytest.mark.parametrize("ensemble", ["langevin"])
def test_kill_and_resume(tmp_path, ensemble):
    geomlib.save(DPA3(["H", "O"], **SIZES), tmp_path / "m.safetensors")
    write(tmp_path / "w.xyz", molecule("H2O"))
    settings = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE}
    words = [sys.executable, "-m", "geomlib", "md", "m.safetensors", "w.xyz", "--ensemble", ensemble]
    words += ["--interval", "10", "--steps", "400", "-o"]
    straight = subprocess.run([*words, "straight.extxyz"], stdout=subprocess.DEVNULL, **settings)
    assert straight.returncode == 0, straight.stderr

    log, deadline = tmp_path / "killed.extxyz.csv", time.monotonic() + 60
    with subprocess.Popen([*words, "killed.extxyz"], stdout=subprocess.DEVNULL, **settings) as killed:
        while time.monotonic() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 10):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, "it ended before it was killed"

    resumed = subprocess.run([*words, "killed.extxyz", "--resume"], stdout=subprocess.DEVNULL, **settings)
    assert resumed.returncode == 0, resumed.stderr
    assert log.read_text() == (tmp_path / "straight.extxyz.csv").read_text()
    first, second = (read(tmp_path / f"{name}.extxyz", index=":") for name in ("straight", "killed"))
    assert len(first) == len(second) == 41
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))
