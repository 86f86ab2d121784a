"""Scaling law beside synthetic runs with known constants. Budget: 15 s, 35 s with the slow one."""

import json
from pathlib import Path

import pytest

from geomlib.apply.scaling import fit_scaling
from geomlib.apply.scaling.law import Law, optimum
from geomlib.apply.scaling.point_fit import point_fit
from geomlib.apply.scaling.runs import read_runs

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mist_parity"
if not FOLDER.is_dir():
    pytest.skip(f"needs the reference numbers in {FOLDER}", allow_module_level=True)
TRUTH = json.loads((FOLDER / "scaling_truth.json").read_text())


def test_point_fit_of_the_base_runs():
    found = point_fit(Law(read_runs(FOLDER / "scaling_base.csv")))
    stored = TRUTH["point_fit_huber"]
    assert found.objective == pytest.approx(stored["objective"], rel=0.01)
    assert found.objective <= stored["objective"] * (1 + 1e-6)
    for name in ("alpha", "beta"):
        assert abs(found.values[name] - TRUTH["true"][name]) < 0.03
        assert found.values[name] == pytest.approx(stored[name], abs=1e-4)


def test_frontier_of_the_true_constants():
    import torch

    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in TRUTH["true"].items()}
    for row in TRUTH["frontier_of_true_constants"]:
        for found, key in zip(optimum(values, row["C"]), ("N_opt", "D_opt", "L_opt"), strict=True):
            assert float(found) == pytest.approx(row[key], rel=1e-9)


def test_bayesian_fit_of_the_base_runs():
    found = fit_scaling(read_runs(FOLDER / "scaling_base.csv"), draws=200, warmup=200)
    assert max(found.posterior.rhat.values()) < 1.01
    for name in ("alpha", "beta"):
        band = found.posterior.constants[name]
        assert abs(band.mean - TRUTH["true"][name]) < 0.03 and band.low < TRUTH["true"][name] < band.high


@pytest.mark.slow
def test_bayesian_fit_of_the_penalised_runs():
    found = fit_scaling(read_runs(FOLDER / "scaling_penalised.csv"))
    true = {**TRUTH["true"], **{name: value for name, value in TRUTH["penalties"].items() if name != "form"}}
    assert max(found.posterior.rhat.values()) <= 1.01
    assert set(true) == set(found.posterior.constants)
    outside = [n for n, band in found.posterior.constants.items() if not band.low <= true[n] <= band.high]
    assert len(outside) <= 2, outside  # of 16 bands of 95 %
    for row in TRUTH["frontier_of_true_constants"]:
        best = found.optimum(row["C"])
        assert best.parameters.low < row["N_opt"] < best.parameters.high
        assert best.tokens.low < row["D_opt"] < best.tokens.high
