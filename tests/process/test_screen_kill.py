"""A screening that is killed goes on as if it had not been. Budget: 15 s."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"  # ended, whether or not somebody has asked


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children of a process are read from /proc")
def test_kill_and_rerun(tmp_path):
    names = ["CCO", "c1ccccc1O", "C(", "CC(=O)Oc1ccccc1C(=O)O", "", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"]
    (tmp_path / "in.csv").write_text("smiles,id\n" + "".join(f"{names[k % 6]},{k}\n" for k in range(3000)))
    words = [sys.executable, "-m", "geomlib", "screen", "in.csv"]
    rules = [
        "--chunk-rows",
        "20",
        "--workers",
        "2",
        "--preset",
        "veber",
        "--alerts",
        "PAINS",
        "--objective",
        "max logP",
    ]
    settings = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE}

    parts, deadline = tmp_path / "killed.csv.parts", time.monotonic() + 90
    with subprocess.Popen([*words, "killed.csv", *rules], stdout=subprocess.DEVNULL, **settings) as killed:
        while time.monotonic() < deadline and len(list(parts.glob("chunk-*"))) < 10:
            time.sleep(0.01)
        workers = _children(killed.pid)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed.csv").exists()
    assert workers
    while (left := [pid for pid in workers if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, "workers outlive the process that started them"
    done = len(list(parts.glob("chunk-*")))
    assert 10 <= done < 150, "it was not in the middle"

    for name, more in (("killed.csv", []), ("straight.csv", ["--workers", "1"])):
        run = subprocess.run([*words, name, *rules, *more], stdout=subprocess.DEVNULL, check=False, **settings)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "straight.csv").read_bytes()
    assert not parts.exists()
