"""Scales of targets: by hand, there and back, with gaps, and what is refused."""

import json

import pytest
import torch
from scipy import stats

from geomlib.errors import ConfigError, DataError
from geomlib.nn.targets import NORMALIZERS, Target, TargetNormalizer

NAN = float("nan")
TARGETS = (
    Target("solubility", "log mol/L"),
    Target("half-life", "s", normalizer="log"),
    Target("energy", normalizer="power"),
    Target("ratio", normalizer="identity"),
    Target("toxic", kind="binary"),
)
LABELS = torch.tensor(
    [
        [1.0, 1.0, -30.0, 0.2, 1.0],
        [3.0, 100.0, 0.5, 0.3, 0.0],
        [NAN, 10.0, 4.0, NAN, 1.0],
        [8.0, NAN, NAN, 0.1, NAN],
    ],
    dtype=torch.float64,
)


def fitted(targets=TARGETS, labels=LABELS):
    normalizer = TargetNormalizer(targets).double()
    normalizer.fit(labels)
    return normalizer


def test_numbers_by_hand():
    z = fitted().normalize(LABELS)
    solubility = LABELS[[0, 1, 3], 0]
    torch.testing.assert_close(z[[0, 1, 3], 0], (solubility - 4.0) / solubility.std())
    torch.testing.assert_close(z[:3, 1], torch.tensor([-1.0, 1.0, 0.0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(z[:, 3:], LABELS[:, 3:], equal_nan=True)


def test_the_power_transform_is_that_of_scipy():
    labels = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp() - 1.5
    normalizer = fitted((Target("a", normalizer="power"),), labels.unsqueeze(1))
    transformed, exponent = stats.yeojohnson(labels.numpy())
    assert normalizer.exponent.item() == pytest.approx(exponent, abs=1e-3)
    expected = (transformed - transformed.mean()) / transformed.std(ddof=1)
    torch.testing.assert_close(
        normalizer.normalize(labels.unsqueeze(1))[:, 0], torch.from_numpy(expected), atol=1e-3, rtol=0
    )


def test_there_and_back():
    normalizer = fitted()
    back = normalizer.denormalize(normalizer.normalize(LABELS))
    torch.testing.assert_close(back[:, :4], LABELS[:, :4], equal_nan=True, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back[:3, 4], torch.tensor([1.0, 0.0, 1.0]).double().sigmoid())


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 0.7, 2.0, 3.0])
def test_every_power_goes_back(exponent):
    normalizer = TargetNormalizer((Target("a", normalizer="power"),)).double()
    normalizer.exponent.fill_(exponent)
    labels = torch.linspace(-4, 4, 33, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(labels)), labels)
    torch.testing.assert_close(
        normalizer.normalize(labels)[:, 0], torch.from_numpy(stats.yeojohnson(labels[:, 0].numpy(), exponent))
    )


@pytest.mark.parametrize("way", NORMALIZERS)
def test_predictions_are_finite_wherever_a_net_may_go(way):
    normalizer = fitted((Target("a", normalizer=way),), torch.tensor([[0.5], [1.0], [90.0]]).double())
    raw = torch.tensor([[-1e4], [-50.0], [0.0], [50.0], [1e4]]).double().requires_grad_()
    found = normalizer.denormalize(raw)
    found.sum().backward()
    assert bool(torch.isfinite(found).all()) and bool(torch.isfinite(raw.grad).all())


def test_gaps_change_nothing():
    labels = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = (Target("a", normalizer="power"), Target("b"))
    padded = torch.cat([labels, torch.full((30, 2), NAN, dtype=torch.float64)])
    for name, value in fitted(targets, labels).state_dict().items():
        torch.testing.assert_close(value, fitted(targets, padded).state_dict()[name])


def test_one_label_or_equal_ones():
    assert fitted((Target("a"),), torch.full((3, 1), 7.0)).deviation.item() == 1.0
    assert fitted((Target("a"),), torch.tensor([[7.0]])).mean.item() == 7.0


@pytest.mark.parametrize(
    ("target", "labels", "message"),
    [
        (Target("a"), [NAN, NAN], "'a' has no label"),
        (Target("a", normalizer="log"), [1.0, 0.0], "use power or standardize"),
        (Target("a", kind="binary"), [0.0, 2.0], "a label is 2; expected 0, 1"),
        (Target("a"), [1.0, float("inf")], "infinite label"),
    ],
)
def test_labels_that_do_not_fit(target, labels, message):
    with pytest.raises(DataError, match=message):
        fitted((target,), torch.tensor(labels).double().unsqueeze(1))


def test_targets_go_through_json():
    rows = json.loads(json.dumps([target.to_dict() for target in TARGETS]))
    assert tuple(Target.read(row) for row in rows) == TARGETS
    assert Target.read("a") == Target("a") == Target.read(Target("a"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("a", kind="rank"), "kind is one of regression, binary"),
        (lambda: Target(""), "no name"),
        (lambda: Target.read({"name": "a", "units": "K"}), r"\['units'\] are unknown"),
        (lambda: Target.read({"unit": "K"}), "expected a name"),
        (lambda: TargetNormalizer(()), "at least one"),
        (lambda: TargetNormalizer((Target("a"), Target("a"))), "a name of its own"),
    ],
)
def test_what_is_no_target(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
