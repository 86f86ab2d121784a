"""Correlation, calibration and coverage of committees; what evaluate and report say of them. Budget: 5 s."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import geomlib
import geomlib.models
from geomlib.apply.ase import Calculator
from geomlib.apply.calibration import ForceUncertainty, binned, calibration, correlation, coverage
from geomlib.apply.committee import DEVIATION_COLUMNS, model_deviation
from geomlib.apply.report import write_report
from geomlib.cli import main
from geomlib.files.committee import write_committee
from geomlib.testing import ToyPotential
from geomlib.testing.nets import perturb_parameters


def ideal(scale: float = 1.0, structures: int = 400) -> ForceUncertainty:
    """Errors that are Gaussian with exactly `scale` times the deviation as their width."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 20, structures)
    deviation = np.exp(rng.normal(-2.0, 1.0, sizes.sum()))
    return ForceUncertainty(
        deviation, scale * deviation[:, None] / np.sqrt(3) * rng.normal(size=(len(deviation), 3)), sizes
    )


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(1)
    a = rng.normal(size=50).round(1)  # with ties
    b = np.exp(a) + 0.3 * rng.normal(size=50)
    found = correlation(a, b)
    assert found.spearman == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert found.pearson == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)
    assert found.count == 50
    assert np.isnan(correlation(np.ones(3), a[:3]).spearman)
    assert np.isnan(correlation(a[:1], b[:1]).pearson)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_ideal_committee_up_to_a_factor(scale):
    forces = ideal(scale)
    found = calibration(forces)
    assert found.scale == pytest.approx(scale, rel=0.03)
    expected = np.array([0.2, 0.5, 0.8, 0.95])
    assert np.allclose(coverage(forces, expected, found.scale), expected, atol=0.02)
    assert found.coverage == pytest.approx(scipy.stats.chi2.cdf(1 / scale**2, 1), abs=0.02)
    spread, size = binned(forces)
    assert len(spread) == 12 and (np.diff(spread) > 0).all()
    assert np.allclose(size / spread, scale, rtol=0.15)
    assert 0.7 < found.atoms.spearman < 1 and found.frames.count == 400


def test_structures_are_judged_by_their_largest():
    forces = ForceUncertainty(np.array([1.0, 3.0, 2.0]), np.diag([5.0, 1.0, 4.0]), np.array([2, 1]))
    found = calibration(forces)
    assert found.frames.spearman == pytest.approx(1.0)  # (3, 2) against (5, 4)
    assert found.atoms.spearman == pytest.approx(-1.0)
    first, second = forces.halves()
    assert first.sizes.tolist() == [2] and second.deviation.tolist() == [2.0]


def test_forces_that_symmetry_fixes_do_not_spoil_it():
    forces = ideal()
    with_zeros = ForceUncertainty(
        np.append(forces.deviation, 0.0), np.vstack([forces.error, np.zeros(3)]), np.append(forces.sizes, 1)
    )
    assert calibration(with_zeros).scale == calibration(forces).scale
    none = ForceUncertainty(np.zeros(2), np.ones((2, 3)), np.array([2]))
    assert np.isnan(calibration(none).scale) and calibration(none).coverage == 0.0


# -- as typed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    nets = [ToyPotential(["Cu", "H", "O"]) for _ in range(3)]
    for seed, net in enumerate(nets):
        perturb_parameters(net, seed=seed)
    write_committee("committee.json", [geomlib.save(net, f"{k}.safetensors") for k, net in enumerate(nets)])
    frames = [bulk("Cu", cubic=True) for _ in range(6)] + [molecule("H2O")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.03 * (seed + 1), seed=seed)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    write("data.extxyz", frames)
    return tmp_path


def test_evaluate_tells_deviation_beside_error(folder, capsys):
    assert main(["evaluate", "committee.json", "data.extxyz", "-o", "p.extxyz", "--report", "r.html", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert "pairs" not in values
    frames, labelled = read("p.extxyz", index=":"), read("data.extxyz", index=":")
    predicted = Calculator("committee.json").evaluate(labelled)
    deviation = [model_deviation(row) for row in predicted]
    for frame, found in zip(frames, deviation, strict=True):
        assert np.allclose(frame.arrays["force_deviation"], found.forces, rtol=1e-5)
        assert [frame.info[name] for name in DEVIATION_COLUMNS] == pytest.approx(
            list(found.columns().values()), rel=1e-6
        )
    f = np.concatenate([row.forces for row in deviation])
    error = [row["forces"] - atoms.get_forces() for row, atoms in zip(predicted, labelled, strict=True)]
    size = np.linalg.norm(np.concatenate(error), axis=1)
    assert values["uncertainty"]["atoms"]["spearman"] == pytest.approx(
        scipy.stats.spearmanr(f, size).statistic, abs=1e-6
    )
    largest = [row.forces.max() for row in deviation], [np.linalg.norm(row, axis=1).max() for row in error]
    assert values["uncertainty"]["frames"]["pearson"] == pytest.approx(
        scipy.stats.pearsonr(*largest).statistic, abs=1e-6
    )
    page = Path("r.html").read_text()
    for heading in ("Uncertainty", "Predictions and labels", "Error by element"):
        assert f">{heading}</h2>" in page
    assert page.count("<svg") == 5 and "data.extxyz" in page

    assert main(["evaluate", "committee.json", "data.extxyz", "--report", "r.html"]) == 0
    out = capsys.readouterr().out
    assert f"by atom                       {values['uncertainty']['atoms']['spearman']:>10.3f}" in out
    assert f"errors are {values['uncertainty']['scale']:.2f} × the deviation" in out and "wrote r.html" in out


def test_evaluate_of_one_model_has_none_of_it(folder, capsys):
    assert main(["evaluate", "0.safetensors", "data.extxyz", "-o", "p.extxyz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["uncertainty"] is None
    assert "max_devi_f" not in read("p.extxyz").info


def test_evaluate_of_members_that_agree_is_valid_json(folder, capsys):
    words = ["evaluate", "0.safetensors", "data.extxyz", "--committee", "0.safetensors", "--report", "r.html", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["uncertainty"]
    assert found["scale"] is None and found["atoms"]["spearman"] is None and found["coverage"] == 0.0


def test_report_of_a_committees_run(folder):
    run = Path("runs/x/version_0")
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("seed_everything: 0\n")
    write_committee(run / "committee.json", [f"{k}.safetensors" for k in range(3)])
    forces = ideal(2.0, 30)
    atoms = int(forces.sizes.sum())
    label = np.random.default_rng(0).normal(size=(atoms, 3))
    label[: forces.sizes[0]] = np.nan  # a structure without labels
    np.savez(
        run / "predictions.npz",
        n_atoms=forces.sizes,
        atomic_number=np.full(atoms, 29),
        forces_reference=label,
        forces_prediction=label + forces.error,
        force_deviation=forces.deviation,
    )
    page = write_report(run).read_text()
    assert ">Uncertainty</h2>" in page and "3 members" in page and "seed_everything: 0" in page
    kept = forces.sizes[0]
    rest = ForceUncertainty(forces.deviation[kept:], forces.error[kept:], forces.sizes[1:])
    assert f"{calibration(rest).atoms.spearman:.2f}" in page
    assert re.search(r"metrics\.csv|config\.yaml", page.replace("config.yaml</summary>", "")) is None
