import math

import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError, UnknownField
from geomlib.tasks.terms import Term


def batch(**labels):
    """Two graphs with 2 and 3 atoms."""
    graphs = []
    for k, nodes in enumerate((2, 3)):
        fields = {"atomic_number": torch.ones(nodes, dtype=torch.int64), "pos": torch.zeros(nodes, 3)}
        for name, values in labels.items():
            fields[name] = torch.as_tensor(values[k], dtype=torch.float64)
        graphs.append(GraphData(**fields))
    return collate(graphs)


def loss(term, prediction, graphs, **options):
    total, count = term.sums(torch.as_tensor(prediction, dtype=torch.float64), graphs, **options)
    return float(total / count)


ENERGY = batch(energy=([1.0], [2.0]))
FORCES = batch(forces=(torch.zeros(2, 3), torch.zeros(3, 3)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ((0.2 / 2) ** 2 + (0.6 / 3) ** 2) / 2),
        ({"normalization": "legacy"}, (0.2**2 / 2 + 0.6**2 / 3) / 2),
        ({"loss": "mae"}, (0.2 / 2 + 0.6 / 3) / 2),
        ({"loss": "mae", "normalization": "legacy"}, (0.2 / 2 + 0.6 / 3) / 2),
        ({"loss": "huber", "delta": 0.15}, (0.5 * 0.1**2 + 0.15 * (0.2 - 0.075)) / 2),
        ({"loss": "huber", "delta": 0.15, "normalization": "legacy"}, (0.5 * 0.1**2 + 0.15 * (0.2 - 0.075)) / 2),
    ],
)
def test_energy_is_normalised_by_the_atoms_of_its_graph(options, expected):
    assert loss(Term("energy", **options), [1.2, 1.4], ENERGY) == pytest.approx(expected, rel=1e-12)


def test_forces_are_averaged_over_components_of_all_atoms():
    prediction = torch.arange(15.0).view(5, 3)
    assert loss(Term("forces"), prediction, FORCES) == pytest.approx(float(prediction.square().mean()))
    lengths = prediction.norm(dim=1)
    assert loss(Term("forces", loss="mae", norm=True), prediction, FORCES) == pytest.approx(float(lengths.mean()))


def test_the_norm_of_a_vanishing_error_has_a_gradient():
    prediction = torch.zeros(5, 3, dtype=torch.float64, requires_grad=True)
    total, _ = Term("forces", loss="mae", norm=True).sums(prediction, FORCES)
    (gradient,) = torch.autograd.grad(total, prediction)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_stress_is_never_divided_and_virial_is():
    graphs = batch(stress=(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)), virial=(torch.zeros(1, 3, 3),) * 2)
    ones = torch.ones(2, 3, 3)
    assert loss(Term("stress"), ones, graphs) == 1.0
    assert loss(Term("virial"), ones, graphs) == pytest.approx((1 / 4 + 1 / 9) / 2)
    assert loss(Term("virial", normalization="legacy"), ones, graphs) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_the_prefactor_follows_the_learning_rate():
    term = Term("energy", weight=0.2, weight_limit=20.0)
    assert [term.prefactor(ratio) for ratio in (1.0, 0.5, 0.0)] == pytest.approx([0.2, 10.1, 20.0])
    assert Term("energy", weight=3.0).prefactor(0.1) == 3.0
    assert not Term("energy", weight=0.0).active
    assert Term("energy", weight=0.0, weight_limit=1.0).active


def test_missing_labels_count_only_where_the_field_is_partial():
    graphs = batch(energy=([1.0], [math.nan]), forces=(torch.zeros(2, 3), torch.full((3, 3), math.nan)))
    assert loss(Term("energy"), [1.2, 5.0], graphs, partial=True) == pytest.approx(0.01)
    prediction = torch.ones(5, 3, dtype=torch.float64, requires_grad=True)
    total, count = Term("forces").sums(prediction, graphs, partial=True)
    assert float(count) == 6.0
    (gradient,) = torch.autograd.grad(total, prediction)
    assert torch.isfinite(gradient).all() and gradient[2:].abs().max() == 0
    assert math.isnan(loss(Term("energy"), [1.2, 5.0], graphs))


def test_a_missing_label_and_another_shape_are_named():
    with pytest.raises(DataError, match=r"label 'virial', which the data does not hold .*'energy'"):
        Term("virial").sums(torch.zeros(2, 3, 3), ENERGY)
    with pytest.raises(DataError, match=r"'energy' has shape \[2\], the net predicts \[2, 1\]"):
        Term("energy").sums(torch.zeros(2, 1), ENERGY)


@pytest.mark.parametrize(
    "options", [{"weight": -1.0}, {"delta": 0.0}, {"loss": "l2"}, {"normalization": "atom"}, {"norm": True}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match="term 'forces'"):
        Term("forces", **options)


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownField, match="did you mean 'energy'"):
        Term("enrgy")


def test_the_root_of_a_mean_has_the_value_and_the_slope_of_one():
    prediction = torch.arange(15.0).double().view(5, 3).requires_grad_()
    term = Term("forces", loss="rmse")
    total, count = term.sums(prediction, FORCES)
    mean = float((total / count).detach())
    assert term.of_mean(mean) == pytest.approx(float(prediction.detach().square().mean().sqrt()))
    (own,) = torch.autograd.grad(term.slope(mean) * total / count, prediction)
    (true,) = torch.autograd.grad(prediction.square().mean().sqrt(), prediction)
    assert torch.allclose(own, true, atol=1e-14)
    assert term.slope(0.0) == 0.0 and Term("forces").slope(4.0) == 1.0 and Term("forces").of_mean(4.0) == 4.0
