"""Scaling laws: constants come back from runs that were made with them. Budget: 15 s."""

import csv
import math
import warnings

import numpy as np
import pytest
import torch

from geomlib.apply.hamiltonian_sampler import effective_size, sample, split_rhat
from geomlib.apply.scaling import fit_scaling
from geomlib.apply.scaling.law import Law, optimum
from geomlib.apply.scaling.plot import plot
from geomlib.apply.scaling.point_fit import HUBER, point_fit
from geomlib.apply.scaling.runs import Runs, read_runs
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning

TRUE = {"A": 400.0, "alpha": 0.38, "B": 900.0, "beta": 0.31, "E": 0.5}


def made(count: int = 60, noise: float = 0.01, seed: int = 0, **extra) -> Runs:
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(math.log(3e5), math.log(1e9), count)), np.exp(rng.uniform(18, 25, count))
    loss = TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"] + TRUE["E"]
    return Runs(n, d, loss * np.exp(noise * rng.standard_normal(count)), **extra)


def test_point_fit_without_noise_gives_the_constants():
    found = point_fit(Law(made(noise=0.0)))
    for name, value in TRUE.items():
        assert found.values[name] == pytest.approx(value, rel=1e-2), name
    assert found.objective < 1e-8 and found.agreement["pearson"] > 0.999999


def test_objective_is_the_sum_of_huber_losses():
    law = Law(made(noise=0.05))
    found = point_fit(law)
    size = np.abs(law.residuals(found.coordinates).numpy())
    by_hand = sum(0.5 * r * r if r < HUBER else HUBER * (r - HUBER / 2) for r in size)
    assert found.objective == pytest.approx(by_hand, rel=1e-9)


def test_optimum_is_the_least_loss_for_its_compute():
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in TRUE.items()}
    n, d, loss = optimum(values, 1e20)
    assert float(6 * n * d) == pytest.approx(1e20)
    for factor in (0.9, 1.1):
        other = TRUE["A"] * (factor * n) ** -TRUE["alpha"] + TRUE["B"] * (d / factor) ** -TRUE["beta"] + TRUE["E"]
        assert other > loss


@pytest.mark.parametrize("shape", ["linear", "log"])
def test_penalties_are_those_of_the_text(shape):
    base = made(6, noise=0.0)
    rate, batch, ratio = np.full(6, 1e-3), np.full(6, 64.0), np.linspace(2, 6, 6)
    law = Law(Runs(base.parameters, base.tokens, base.loss, rate, batch, {"ff": ratio}), shape)
    u = law.coordinates({**TRUE, "c_lr": 0.1, "a": -8.0, "b": 0.5, "g": -0.1, "c_ff": 0.02, "ff_star": 4.0})
    best = -8.0 + 0.5 * np.log(64.0) - 0.1 * np.log(base.parameters)
    away = ratio - 4.0 if shape == "linear" else np.log(ratio / 4.0)
    expected = np.log(base.loss) + 0.1 * (np.log(1e-3) - best) ** 2 + 0.02 * away**2
    np.testing.assert_allclose(law.log_loss(u).numpy(), expected, rtol=1e-12)


def test_priors_are_densities_of_the_constants():
    law = Law(made(6))
    at = {constant.name: constant for constant in law.constants}
    u = torch.linspace(-40, 40, 200_001, dtype=torch.float64)
    for name, mean in {"alpha": 1.0, "sigma": 1.0, "E": 1e-3 * math.exp(0.5)}.items():
        density = at[name].log_prior(u).exp()
        assert float((density * at[name].value(u)).sum() / density.sum()) == pytest.approx(mean, rel=1e-3), name


def test_sampler_draws_from_a_correlated_normal_density():
    covariance = torch.tensor([[4.0, 1.2], [1.2, 0.5]], dtype=torch.float64)
    inverse = torch.linalg.inv(covariance)

    def density(x):
        return -0.5 * ((x - 3.0) @ inverse * (x - 3.0)).sum(1)

    start = torch.randn((8, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sample(density, start, torch.eye(2), draws=400, warmup=200, seed=3)
    flat = found.draws.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), torch.full((2,), 3.0, dtype=torch.float64), atol=0.15, rtol=0)
    torch.testing.assert_close(torch.cov(flat.T), covariance, atol=0.4, rtol=0.15)
    assert 0.6 < found.acceptance < 0.97 and found.divergent == 0
    assert all(split_rhat(found.draws[..., k].numpy()) < 1.02 for k in range(2))
    again = sample(density, start, torch.eye(2), draws=400, warmup=200, seed=3)
    assert torch.equal(found.draws, again.draws)


def test_diagnostics_tell_good_chains_from_bad_ones():
    rng = np.random.default_rng(0)
    good = rng.standard_normal((4, 500))
    assert split_rhat(good) < 1.01 and 1400 < effective_size(good) < 2800
    assert split_rhat(good + np.array([[0], [0], [0], [1.0]])) > 1.05
    assert split_rhat(good * np.array([[1], [1], [1], [4.0]])) > 1.05
    slow = np.empty((4, 2000))
    slow[:, 0] = rng.standard_normal(4)
    for k in range(1, 2000):
        slow[:, k] = 0.9 * slow[:, k - 1] + math.sqrt(1 - 0.81) * rng.standard_normal(4)
    assert effective_size(slow) == pytest.approx(8000 * 0.1 / 1.9, rel=0.3)


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomlibWarning)  # so few draws are not enough
        return fit_scaling(made(40), draws=120, warmup=150, chains=8)


def test_bands_hold_the_true_constants(fitted):
    assert max(fitted.posterior.rhat.values()) < 1.05
    for name in ("alpha", "beta", "E"):
        band = fitted.posterior.constants[name]
        wide = 1.5 * (band.high - band.low)
        assert abs(band.mean - TRUE[name]) < wide and 0 < band.high - band.low < 0.2 * TRUE[name] + 0.1, name
    assert fitted.posterior.constants["sigma"].low < 0.01 < fitted.posterior.constants["sigma"].high
    assert 3 < fitted.posterior.waic_parameters < 9


def test_bands_grow_beyond_the_runs_and_the_plot_is_drawn(fitted, tmp_path):
    near, far = fitted.optimum(1e17), fitted.optimum(1e24)
    width = [math.log(row.parameters.high / row.parameters.low) for row in (near, far)]
    assert width[1] > 1.5 * width[0] > 0
    assert near.rate is None
    frontier = fitted.frontier(points=5)
    assert [row.loss.mean for row in frontier] == sorted((row.loss.mean for row in frontier), reverse=True)
    assert plot(fitted, tmp_path / "law.svg").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="positive"):
        fitted.optimum(-1.0)


def test_few_draws_warn_that_chains_have_not_converged():
    with pytest.warns(GeomlibWarning, match="have not converged"):
        fit_scaling(made(20), draws=20, warmup=50, chains=4)


def test_too_few_chains_are_refused():
    with pytest.raises(ConfigError, match="at least 4 chains"):
        fit_scaling(made(20), chains=1)


def table(path, columns, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def rows_of(width: int, count: int = 8):
    return [[k + 2.0 + j for j in range(width)] for k in range(count)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["n_par", "token", "loss"], "no column 'tokens'.*did you mean 'token'"),
        (["npar", "tokens", "loss"], "how large the nets are.*n_par"),
        (["hidden", "ff", "tokens", "loss"], "no column 'n_layers'.*counted from"),
        (["n_par", "tokens", "loss", "lr"], "no column 'batch'.*learning rate"),
    ],
)
def test_missing_columns_are_named(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        read_runs(table(tmp_path / "runs.csv", columns, rows_of(len(columns))))


def test_bad_cells_and_tables_are_named(tmp_path):
    rows = rows_of(3)
    rows[2][1] = "many"
    with pytest.raises(DataError, match=r"runs.csv, row 2 \(line 4\): column 'tokens' holds 'many'"):
        read_runs(table(tmp_path / "runs.csv", ["n_par", "tokens", "loss"], rows))
    rows[2][1] = -1
    with pytest.raises(DataError, match="holds '-1'; expected a positive number"):
        read_runs(table(tmp_path / "runs.csv", ["n_par", "tokens", "loss"], rows))
    with pytest.raises(DataError, match="3 runs; a law of five constants needs"):
        read_runs(table(tmp_path / "runs.csv", ["n_par", "tokens", "loss"], rows_of(3, 3)))
    same = [[5.0, *row[1:]] for row in rows_of(3)]
    with pytest.raises(DataError, match="N is 5 in all runs"):
        read_runs(table(tmp_path / "runs.csv", ["n_par", "tokens", "loss"], same))
    with pytest.raises(FileFormatError):
        read_runs(tmp_path / "nothing.csv")


def test_columns_that_do_not_vary_are_left_out_with_a_note(tmp_path):
    columns = ["n_layers", "hidden", "ff", "heads", "tokens", "loss", "lr", "batch"]
    rows = [[k, 64, 256, 4, 1e8 * k, 3.0 - 0.1 * k, 1e-3, 32] for k in range(1, 9)]
    runs = read_runs(table(tmp_path / "runs.csv", columns, rows))
    assert runs.parameters[1] == 2 * (4 * 64**2 + 2 * 64 * 256)
    assert runs.rate is None and set(runs.shapes) == {"aspect"}
    assert [note.split(" is ")[0] for note in runs.notes] == [
        "the learning rate", "the feed-forward ratio F/H", "the head size H/heads",
    ]  # fmt: skip
