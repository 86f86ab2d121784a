"""Steps of messages: every way of keeping gives the values, first and second derivatives that autograd gives."""

import itertools

import pytest
import torch
from torch import Tensor

from geomlib.nn import message
from geomlib.nn.activation import Activation
from geomlib.nn.message import MessageGraph, message_step
from geomlib.nn.scope import differentiating_positions

EDGES, TARGETS, SOURCES, WIDTH, MESSAGES = 23, 5, 7, 4, 3


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(message, "_CHUNK", 60)


def inputs(*, of_source: bool, residual: bool, carry: bool, messages: int, updates: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    columns, width = messages + updates, 1 if carry else WIDTH
    return [
        some(EDGES, width),
        some(columns, width),
        some(TARGETS, columns),
        some(SOURCES, columns),
        some(SOURCES if of_source else EDGES, 1) if messages else None,
        some(updates) if residual else None,
        some(updates, width) if carry else None,
    ]


def graph(*, of_source: bool) -> MessageGraph:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, TARGETS, (EDGES,), generator=generator).sort().values
    return MessageGraph(target, torch.randint(0, SOURCES, (EDGES,), generator=generator), of_source)


def derivatives(tensors: list[Tensor | None], links: MessageGraph, activation: str, messages: int, keep: str):
    """Outputs, gradients of a random direction of them, and gradients of a random direction of those."""
    step = message_step(*tensors, links, Activation(activation), messages, keep=keep)
    given = [tensor for tensor in tensors if tensor is not None]
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(out.shape, generator=generator, dtype=out.dtype, requires_grad=True) for out in step]
    first = torch.autograd.grad(step, given, directions, create_graph=True)
    again = [torch.randn(grad.shape, generator=generator, dtype=grad.dtype) for grad in first]
    second = torch.autograd.grad(first, [*given, *directions], again)
    return [*step, *first, *second]


CASES = [
    pytest.param(of_source, residual, carry, messages, updates, id="-".join(map(str, row)))
    for row in itertools.product(
        (False, True), ("plain", "residual", "carry"), ((MESSAGES, 0), (0, WIDTH), (MESSAGES, 4))
    )
    for of_source, (messages, updates) in [(row[0], row[2])]
    for residual, carry in [(row[1] != "plain" and updates > 0, row[1] == "carry" and updates > 0)]
]


@pytest.mark.parametrize("keep", ["preactivations", "inputs"])
@pytest.mark.parametrize(("of_source", "residual", "carry", "messages", "updates"), CASES)
def test_two_derivatives_are_those_of_autograd(of_source, residual, carry, messages, updates, keep):
    tensors = inputs(of_source=of_source, residual=residual, carry=carry, messages=messages, updates=updates)
    links = graph(of_source=of_source)
    expected = derivatives(tensors, links, "silut:0.5", messages, "everything")
    found = derivatives(tensors, links, "silut:0.5", messages, keep)
    assert len(expected) == len(found)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["silu", "silut:10", "silut:-0.5", "tanh", "softplus", "relu", "linear"])
def test_activations(activation):
    tensors = inputs(of_source=True, residual=True, carry=False, messages=MESSAGES, updates=WIDTH)
    links = graph(of_source=True)
    expected = derivatives(tensors, links, activation, MESSAGES, "everything")
    for a, b in zip(expected, derivatives(tensors, links, activation, MESSAGES, "inputs"), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keep", ["preactivations", "inputs"])
def test_against_finite_differences(keep):
    tensors = inputs(of_source=True, residual=True, carry=False, messages=MESSAGES, updates=WIDTH)
    links = graph(of_source=True)
    assert torch.autograd.gradgradcheck(
        lambda *values: message_step(*values, None, links, Activation("silu"), MESSAGES, keep=keep), tensors[:6]
    )


def test_third_derivative_is_refused():
    tensors = inputs(of_source=False, residual=True, carry=False, messages=MESSAGES, updates=WIDTH)
    step = message_step(*tensors, graph(of_source=False), Activation("silu"), MESSAGES, keep="inputs")
    (first,) = torch.autograd.grad(sum(out.square().sum() for out in step), tensors[0], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.square().sum().backward()


def test_forces_leave_gradients_of_parameters_out_and_losses_get_them(monkeypatch):
    tensors = inputs(of_source=False, residual=True, carry=False, messages=MESSAGES, updates=WIDTH)
    asked: list[list[bool]] = []
    forward = message._StepGradient.forward
    monkeypatch.setattr(
        message._StepGradient,
        "forward",
        lambda plan, wanted, *rest: (asked.append(list(wanted)), forward(plan, wanted, *rest))[1],
    )
    with differentiating_positions() as scope:
        step = message_step(*tensors, graph(of_source=False), Activation("silu"), MESSAGES, keep="inputs")
        energy = sum(out.square().sum() for out in step)
        scope.parameters = False
        (force,) = torch.autograd.grad(energy, tensors[0], create_graph=True)
    (energy + force.square().sum()).backward()
    matrix_and_residual = [(row[1], row[5]) for row in asked]
    assert matrix_and_residual == [(False, False), (True, True)]
    assert bool(tensors[1].grad.abs().sum() > 0)


def test_no_edges():
    tensors = inputs(of_source=False, residual=True, carry=False, messages=MESSAGES, updates=WIDTH)
    none = torch.zeros(0, dtype=torch.int64)
    tensors[0], tensors[4] = tensors[0][:0], tensors[4][:0]
    sums, edge = message_step(*tensors, MessageGraph(none, none), Activation("silu"), MESSAGES, keep="inputs")
    assert sums.tolist() == [[0.0] * MESSAGES] * TARGETS
    assert edge.shape == (0, WIDTH)
