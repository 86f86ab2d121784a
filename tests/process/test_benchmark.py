"""The benchmark of DPA3 as a command. Budget: 60 s (slow), three times as much where deepmd-kit is there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "dpa3.py"
SHORT = ["--layers", "1", "--repeats", "1", "--json"]


def run(*options):
    done = subprocess.run([sys.executable, str(SCRIPT), *SHORT, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_what_the_benchmark_prints():
    plain, recomputed = run(), run("--recompute", "angles")
    for result in (plain, recomputed):
        for mode in ("infer", "train"):
            assert result[f"{mode}_cpu_s"] > 0
            assert 0.1 < result[f"{mode}_peak_gib"] < 10
            assert result[f"{mode}_over_limit"] > 1, "faster than the core's arithmetic"
        assert (result["edges"], result["angles"]) == (plain["edges"], plain["angles"])
        assert "MALLOC_TRIM_THRESHOLD_" in result["allocator"]
    assert plain["train_gflop"] > 2 * plain["infer_gflop"]
    assert recomputed["train_gflop"] > plain["train_gflop"], "nothing was computed again"


@pytest.mark.slow
@pytest.mark.skipif("GEOMLIB_DEEPMD_PYTHON" not in os.environ, reason="needs GEOMLIB_DEEPMD_PYTHON")
def test_the_peer_is_measured_on_the_same_weights():
    result = run("--peer")
    assert result["energy_difference"] < 1e-4
    assert result["forces_difference"] < 1e-5 * result["forces_largest"]
    for mode in ("infer", "train"):
        ratio = result[f"{mode}_cpu_s"] / result[f"peer_{mode}_cpu_s"]
        assert result[f"{mode}_cpu_s_ratio"] == pytest.approx(ratio)
        assert result[f"peer_{mode}_gflop"] > 0


@pytest.mark.skipif(importlib.util.find_spec("deepmd") is not None, reason="this interpreter has deepmd-kit")
def test_a_peer_that_is_not_there_is_said():
    environment = {key: value for key, value in os.environ.items() if key != "GEOMLIB_DEEPMD_PYTHON"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SHORT, "--peer"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert "--peer-python" in done.stderr.splitlines()[-1]
