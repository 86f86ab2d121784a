"""What `geomlib validate` prints: a table of errors, or, of text, the scores that there are."""

import argparse
from types import SimpleNamespace

import pytest

from geomlib.commands import fit


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"val/loss": 0.46, "val/accuracy": 0.9026}, "accuracy 0.9026, loss 0.46"),
        ({"val/loss": 0.46, "val/logp_mae": 0.25}, "logp 0.25"),
    ],
)
def test_validation_prints_its_scores(monkeypatch, capsys, metrics, expected):
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics=metrics)
    done = SimpleNamespace(trainer=trainer, model=SimpleNamespace(metric_unit=lambda name: ""))
    monkeypatch.setattr("geomlib.training.cli.run_verb", lambda *_, **__: done)
    assert fit.run(argparse.Namespace(verb="validate", rest=[], verbose=False)) == 0
    assert " ".join(capsys.readouterr().out.splitlines()[-1].split()) == expected
