"""`geomlib scaling` as typed. Budget: 8 s."""

import csv
import json

import numpy as np
import pytest

from geomlib.cli import main


def write_runs(path):
    rng = np.random.default_rng(2)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["n_par", "tokens", "batch", "lr", "loss"])
        for _ in range(30):
            n, d = 10 ** rng.uniform(6, 9), 10 ** rng.uniform(8, 11)
            batch, lr = 2.0 ** rng.integers(5, 10), 10 ** rng.uniform(-4, -2.5)
            away = np.log(lr) + 8.5 - 0.45 * np.log(batch) + 0.06 * np.log(n)
            loss = (400 * n**-0.4 + 700 * d**-0.33 + 0.5) * np.exp(0.03 * away**2 + 0.01 * rng.standard_normal())
            rows.writerow([n, d, batch, lr, loss])


def test_scaling_writes_table_figure_and_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "runs.csv")
    words = ["scaling", "runs.csv", "--compute", "1e20", "--batch", "128", "--point-only"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert abs(found["point"]["constants"]["alpha"] - 0.4) < 0.05
    (row,) = found["optimum"]
    assert row["batch"] == 128 and row["rate"]["mean"] > 0 and row["parameters"]["low"] == row["parameters"]["high"]
    assert json.loads((tmp_path / "scaling-runs" / "scaling.json").read_text()) == found
    with (tmp_path / "scaling-runs" / "frontier.csv").open() as file:
        frontier = list(csv.DictReader(file))
    assert len(frontier) == 33 and float(frontier[-1]["rate"]) > 0
    assert (tmp_path / "scaling-runs" / "scaling.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:the chains have not converged")  # these few draws can't
def test_posterior_is_printed_with_its_diagnostics(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "runs.csv")
    assert main(["scaling", "runs.csv", "--draws", "60", "--warmup", "100", "--chains", "8", "--out", "here"]) == 0
    text = capsys.readouterr().out
    assert "95 % band" in text and "WAIC" in text and "R̂" in text and "learning rate" in text
    assert (tmp_path / "here" / "scaling.json").is_file()


def test_a_missing_column_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.csv").write_text("n_par,tokens\n1,2\n")
    assert main(["scaling", "runs.csv"]) != 0
    assert "has no column 'loss'" in capsys.readouterr().err
