import pytest
import torch

from geomlib.tasks.meters import Meter


def test_batches_of_any_size_give_the_error_of_the_whole():
    error = torch.randn(17, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    meter = Meter(["forces", "energy"])
    for part in (error[:2], error[2:3], error[3:]):
        meter.add("forces", part)
    mae, rmse = meter.means()["forces"]
    assert mae == pytest.approx(float(error.abs().mean()), rel=1e-14)
    assert rmse == pytest.approx(float(error.square().mean().sqrt()), rel=1e-14)
    assert "energy" not in meter.means()


def test_an_interrupted_epoch_continues():
    error = torch.arange(6.0)
    straight, first, second = Meter(["a", "b"]), Meter(["a", "b"]), Meter(["b", "a"])
    straight.add("a", error)
    first.add("a", error[:2])
    second.load_state_dict(first.state_dict())
    second.add("a", error[2:])
    assert second.means() == straight.means()
    second.reset()
    assert second.means() == {}
