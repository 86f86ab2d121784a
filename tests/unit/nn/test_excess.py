"""Curves of excess properties and the head that makes them. Budget: 5 s."""

import numpy as np
import pytest
import torch

from geomlib.errors import ConfigError
from geomlib.nn.conductivity import ConductivityHead
from geomlib.nn.excess import (
    CURVES,
    INTERACTIONS,
    TEMPERATURES,
    ExcessHead,
    chebyshev_nodes,
    component_pairs,
    lagrange,
    redlich_kister,
)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(**options):
    made = ExcessHead(6, 2, temperature_center=300.0, temperature_scale=50.0, **options).double().eval()
    with torch.no_grad():
        for k, parameter in enumerate(made.parameters()):
            parameter.copy_(0.5 * random(*parameter.shape, seed=k))
    return made


def test_pairs_of_ragged_mixtures():
    first, second = component_pairs(torch.tensor([0, 1, 1, 1, 3, 3]), 4)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 2), (1, 3), (2, 3), (4, 5)]
    empty, _ = component_pairs(torch.tensor([0, 1]), 2)
    assert len(empty) == 0


@pytest.mark.parametrize("controls", [1, 2, 3, 5])
def test_curve_goes_through_its_points_and_vanishes_at_the_ends(controls):
    nodes = chebyshev_nodes(controls)
    control = random(controls)
    everywhere = torch.cat([torch.zeros(1, dtype=torch.float64), control, torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(lagrange(control.expand(len(nodes), -1), nodes), everywhere, atol=1e-12, rtol=0)
    ends = lagrange(1e6 * control.expand(2, -1), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert bool((ends == 0).all())
    fine = np.linspace(0, 1, 7)
    polynomial = np.polynomial.Polynomial.fit(nodes.numpy(), everywhere.numpy(), controls + 1)
    found = lagrange(control.expand(7, -1), torch.from_numpy(fine))
    np.testing.assert_allclose(found.numpy(), polynomial(fine), atol=1e-10)


def test_redlich_kister_by_hand_and_exchanged():
    x = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    a = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    expected = x * (1 - x) * (2.0 - (2 * x - 1) + 0.5 * (2 * x - 1) ** 2)
    torch.testing.assert_close(redlich_kister(a.expand(4, -1), x, 1 - x), expected)
    swapped = redlich_kister((a * torch.tensor([1, -1, 1])).expand(4, -1), 1 - x, x)
    torch.testing.assert_close(swapped, expected)
    gradient = torch.autograd.functional.jacobian(lambda v: redlich_kister(a.expand(1, -1), v, 1 - v), x[2:3])
    assert bool(torch.isfinite(gradient).all())


CASES = [
    (interaction, temperature, curve)
    for interaction in INTERACTIONS
    for temperature in TEMPERATURES
    for curve in CURVES
    if interaction in ("difference", "concat") or temperature == "concat"
]


@pytest.mark.parametrize(("interactions", "temperature", "curve"), CASES)
def test_order_of_molecules_makes_no_difference(interactions, temperature, curve):
    net = head(interactions=interactions, temperature=temperature, curve=curve, relative=True)
    values, x, t = random(4, 6), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), torch.tensor([330.0])
    owner = torch.zeros(4, dtype=torch.int64)
    one = net(values, x, owner, 1, t)
    for order in ([1, 0, 2, 3], [3, 1, 0, 2], [3, 2, 1, 0]):
        other = net(values[order], x[order], owner, 1, t)
        torch.testing.assert_close(other.linear, one.linear, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(other.excess, one.excess, atol=1e-12, rtol=1e-12)
    assert float(one.excess.detach().abs().max()) > 1e-3
    if temperature != "none":
        warm = net(values, x, owner, 1, t + 40)
        assert float((warm.excess - one.excess).detach().abs().max()) > 1e-6


@pytest.mark.parametrize("curve", CURVES)
def test_pure_substances_have_no_excess_and_absent_ones_no_say(curve):
    net = head(curve=curve, temperature="concat")
    values, t = random(3, 6), torch.tensor([300.0])
    owner = torch.zeros(3, dtype=torch.int64)
    for k in range(3):
        x = torch.zeros(3, dtype=torch.float64)
        x[k] = 1.0
        parts = net(values, x, owner, 1, t)
        assert bool((parts.excess == 0).all())
        alone = net(values[k : k + 1], x[k : k + 1], owner[:1], 1, t)
        torch.testing.assert_close(parts.linear, alone.linear, atol=1e-14, rtol=1e-14)
    x = torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64)
    three, two = net(values, x, owner, 1, t), net(values[:2], x[:2], owner[:2], 1, t)
    torch.testing.assert_close(three.excess, two.excess, atol=1e-13, rtol=1e-13)


def test_gradients_are_finite_where_molecules_are_absent():
    net = head()
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    parts = net(random(3, 6), x, torch.zeros(3, dtype=torch.int64), 1)
    (parts.linear + parts.excess).sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in net.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"interactions": "sum"},
        {"temperature": "boltzmann"},
        {"curve": "spline"},
        {"controls": 0},
        {"relative": True, "linear": False},
        {"dropout": 1.0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError):
        ExcessHead(4, 1, **options)


def test_conductivity_is_continuous_where_the_decay_begins_and_finite_below_the_glass():
    net = ConductivityHead(6).double()
    values, t = random(1, 6).expand(3, -1), torch.full((3,), 300.0, dtype=torch.float64)
    alpha = float(net(values[:1], t[:1] * 0, t[:1])["alpha"].detach())
    salt = torch.tensor([alpha - 1e-9, alpha + 1e-9, min(alpha + 0.3, 1.0)], dtype=torch.float64)
    found = net(values, salt, t)
    below, above, far = found["ln_k"].tolist()
    assert below == pytest.approx(above, abs=1e-6) and abs(far - above) > 1e-6
    assert below == float(found["ln_k_dilute"][0].detach())
    cold = net(values, salt, torch.zeros(3, dtype=torch.float64))
    assert bool(torch.isfinite(cold["ln_k"]).all())
