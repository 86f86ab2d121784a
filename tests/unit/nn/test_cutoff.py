import pytest
import torch

from geomlib.nn.cutoff import SWITCHES, exponential_switch, quintic_switch


def test_quintic_goes_from_one_to_zero_with_two_vanishing_derivatives() -> None:
    r = torch.tensor([2.0, 5.3, 6.0, 7.0], dtype=torch.float64).requires_grad_()
    value = quintic_switch(r, 5.3, 6.0)
    torch.testing.assert_close(
        value.detach(), torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-14, rtol=0
    )
    (first,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert first.abs().max() < 1e-12
    assert second.abs().max() < 1e-12


@pytest.mark.parametrize(("start", "cutoff", "end"), [(5.3, 6.0, 8e-7), (3.5, 4.0, 3e-8)])
def test_exponential_is_tiny_at_the_cutoff(start: float, cutoff: float, end: float) -> None:
    value = exponential_switch(torch.tensor([0.5, start, cutoff], dtype=torch.float64), start, cutoff)
    assert abs(float(value[0]) - 1) < 1e-6
    assert abs(float(value[1]) - 0.36787944117144233) < 1e-12
    assert float(value[2]) == pytest.approx(end, rel=0.3)


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_fall_monotonically(name: str) -> None:
    value = SWITCHES[name](torch.linspace(0.1, 6.0, 500, dtype=torch.float64), 5.3, 6.0)
    assert bool((value.diff() <= 1e-15).all())
