"""Functions of pieces: values, two derivatives, and what is computed when."""

import pytest
import torch

from geomlib.nn.recompute import Piece, piecewise


def example():
    generator = torch.Generator().manual_seed(0)

    def some(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    own, gathered, matrix = some(7, 3), some(4, 3), some(3, 3)
    rows = [slice(0, 2), slice(2, 3), slice(3, 7)]
    others = [torch.tensor([0, 3]), torch.tensor([3]), torch.tensor([1, 1, 2, 0])]
    pieces = [Piece(None, (a, b, None), (a, a)) for a, b in zip(rows, others, strict=True)]
    return (own, gathered, matrix), torch.cat(others), pieces


def function(constants, own, gathered, matrix):
    product = torch.tanh(own @ matrix) * gathered
    return product, product.sin().sum(1)


def test_two_derivatives_are_those_of_the_whole():
    inputs, index, pieces = example()
    own, gathered, matrix = inputs
    results = []
    for out in (piecewise(function, pieces, inputs), function(None, own, gathered[index], matrix)):
        loss = out[0].square().sum() + (out[1] ** 3).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum((grad**3).sum() for grad in first), inputs)
        results.append([*out, *first, *second])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_against_finite_differences():
    inputs, _, pieces = example()
    assert torch.autograd.gradgradcheck(lambda *values: piecewise(function, pieces, values), inputs)


def test_pieces_are_computed_again_for_derivatives():
    inputs, _, pieces = example()
    calls = []

    def counted(constants, *values):
        calls.append(torch.is_grad_enabled())
        return function(constants, *values)

    out = piecewise(counted, pieces, inputs)
    assert calls == [False] * 3
    torch.autograd.grad(out[0].sum(), inputs[0])
    assert calls == [False] * 3 + [True] * 3


def test_third_derivative_is_refused():
    inputs, _, pieces = example()
    out = piecewise(function, pieces, inputs)[0].square().sum()
    (first,) = torch.autograd.grad(out, inputs[0], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.square().sum().backward()
