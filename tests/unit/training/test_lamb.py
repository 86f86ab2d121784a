"""LAMB: its step by hand, who is left out, and that it resumes."""

import copy

import pytest
import torch

from geomlib.errors import ConfigError
from geomlib.training.lamb import LAMB


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in ((3, 2), (3,))
    ]


def backward(weights, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64)


def test_first_step_by_hand():
    matrix, vector = parameters()
    backward([matrix, vector])
    before = [matrix.detach().clone(), vector.detach().clone()]
    LAMB([matrix, vector], lr=0.1, weight_decay=0.5).step()
    sign = matrix.grad / (matrix.grad.abs() + 1e-8)  # bias correction makes Adam's first step one of signs
    update = sign + 0.5 * before[0]
    expected = before[0] - 0.1 * before[0].norm() / update.norm() * update
    torch.testing.assert_close(matrix.detach(), expected, rtol=0, atol=1e-14)
    plain = before[1] - 0.1 * vector.grad / (vector.grad.abs() + 1e-8)
    torch.testing.assert_close(vector.detach(), plain, rtol=0, atol=1e-14)


def test_ratio_is_kept_within_its_range_and_shown():
    matrix, vector = parameters()
    optimizer = LAMB([matrix, vector], ratio_range=(2.0, 3.0), exclude_vectors=False)
    with torch.no_grad():
        matrix.mul_(1e3)
        vector.mul_(0.0)
    backward([matrix, vector])
    optimizer.step()
    assert float(optimizer.state[matrix]["ratio"]) == 3.0
    assert float(optimizer.state[vector]["ratio"]) == 1.0


def test_goes_on_from_its_state():
    once, again = parameters(), parameters()
    first, second = LAMB(once, lr=0.1), LAMB(again, lr=0.1)
    for seed in range(3):
        backward(once, seed)
        first.step()
    for seed in range(3):
        backward(again, seed)
        second.step()
        state = copy.deepcopy(second.state_dict())
        second = LAMB(again, lr=0.1)
        second.load_state_dict(state)
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"ratio_range": (0.0, 1.0)}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ConfigError, match="LAMB"):
        LAMB(parameters(), **wrong)
