import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from geomlib.errors import ConfigError
from geomlib.nn.activation import Activation

NAMES = ["silu", "silut:3", "custom_silu:3.0", "silut", "tanh", "gelu", "softplus", "sigmoid", "linear", "none"]


def plain_silut(x: torch.Tensor, threshold: float) -> torch.Tensor:
    gate = 1 / (1 + math.exp(-threshold))
    slope, offset = gate + threshold * gate * (1 - gate), threshold * gate
    return torch.where(x < threshold, x * torch.sigmoid(x), torch.tanh(slope * (x - threshold)) + offset)


@pytest.mark.parametrize("threshold", [0.5, 3.0, 10.0])
def test_silut_is_its_formula_with_two_derivatives(threshold: float) -> None:
    x = torch.linspace(-12, 15, 301, dtype=torch.float64).requires_grad_()
    values = []
    for function in (Activation(f"silut:{threshold}"), lambda y: plain_silut(y, threshold)):
        value = function(x)
        (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        values.append((value, first, second))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_silut_has_equal_value_and_slope_on_both_sides_of_its_threshold() -> None:
    x = torch.tensor([3.0 - 1e-9, 3.0 + 1e-9], dtype=torch.float64).requires_grad_()
    value = Activation("silut:3")(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert abs(float((value[0] - value[1]).detach())) < 1e-8
    assert abs(float(slope[0] - slope[1])) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_agree_with_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (4 * torch.randn(40, dtype=torch.float64, generator=generator)).requires_grad_()
    assert gradcheck(Activation(name), x)
    assert gradgradcheck(Activation(name), x)


def test_silut_works_inside_functional_transforms() -> None:
    x = torch.linspace(-2, 5, 9, dtype=torch.float64)
    gradient = torch.func.grad(lambda y: Activation("silut:3")(y).sum())(x)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(plain_silut(y, 3.0).sum(), y)[0])


def test_layout_of_the_input_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(2)
    x = 6 * torch.randn(7, 5, dtype=torch.float64, generator=generator)
    for view in (x.T, x[:, ::2], x[:1].expand(3, -1)):
        leaf = view.detach().requires_grad_()
        value = Activation("silut:3")(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
        plain = view.contiguous().requires_grad_()
        expected = plain_silut(plain, 3.0)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(slope, torch.autograd.grad(expected.sum(), plain)[0])


def test_empty_input() -> None:
    assert Activation("silut:10")(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(("name", "hint"), [("sillu", "silu"), ("tanh:3", "known"), ("silut:x", "no number")])
def test_unknown_name_says_what_is_known(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        Activation(name)
