"""Threshold, calibration and reliability. Budget: 2 s."""

import math

import numpy as np
import pytest
import torch

from geomlib.errors import DataError
from geomlib.models.shyre.calibration import HeldOut, best_jaccard, jaccard_threshold, platt, reliability
from geomlib.models.shyre.net import SHyRe


def test_best_jaccard_by_hand():
    assert best_jaccard(np.array([0.9, 0.2, 0.6]), np.array([True, False, True]), 4) == pytest.approx(2 / 4)
    assert best_jaccard(np.zeros(0), np.zeros(0, dtype=bool), 3) == 0.0


def test_best_jaccard_where_only_some_are_labelled():
    """Half of 4 hyperedges carry a label; the three best candidates, two of them labelled, are taken for all true."""
    chance, label = np.array([0.5, 0.4, 0.3, 0.2]), np.array([True, False, True, False])
    assert best_jaccard(chance, label, 2, labelled=0.5) == pytest.approx(4 / 4)
    assert best_jaccard(chance[:3], label[:3], 2, labelled=0.5) == pytest.approx(3 / 4)
    assert best_jaccard(chance, label, 2) == pytest.approx(2 / 3)


def test_reliability_by_hand():
    chance = np.array([0.05, 0.15, 0.15, 0.5, 0.5, 1.0])
    label = np.array([False, True, False, True, True, True])
    found = reliability(chance, label, bins=10)
    assert found.count.tolist() == [1, 2, 0, 0, 0, 2, 0, 0, 0, 1]
    np.testing.assert_allclose(found.chance[[0, 1, 5, 9]], [0.05, 0.15, 0.5, 1.0])
    np.testing.assert_allclose(found.frequency[[0, 1, 5, 9]], [0, 0.5, 1, 1])
    assert math.isnan(found.chance[2])
    assert math.isnan(found.frequency[2])
    assert found.error == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.5 + 0) / 6)
    assert math.isnan(reliability(np.zeros(0), np.zeros(0, dtype=bool)).error)


def test_honest_probabilities_have_no_error():
    rng = np.random.default_rng(0)
    chance = rng.random(200_000)
    label = rng.random(len(chance)) < chance
    assert reliability(chance, label).error < 0.005
    assert reliability(chance**2, label).error > 0.1


def test_reliability_refuses():
    with pytest.raises(DataError, match="2 probabilities, 1 labels"):
        reliability(np.array([0.1, 0.2]), np.array([True]))
    with pytest.raises(DataError, match="in \\[0, 1\\]"):
        reliability(np.array([1.2]), np.array([True]))
    with pytest.raises(DataError, match="at least 1 bin"):
        reliability(np.array([0.2]), np.array([True]), bins=0)


def test_settling_a_net():
    """Heads are calibrated apart; one of a single answer is left alone; the threshold follows what is calibrated."""
    rng = np.random.default_rng(0)
    chance = rng.random(4000)
    label = rng.random(4000) < chance**2
    maximal = np.arange(4000) % 2 == 0
    seen = HeldOut(torch.from_numpy(chance), torch.from_numpy(maximal), torch.from_numpy(label), 2000)
    net = SHyRe("count", hidden=[4], members=1)
    net.settle(seen, calibrate=True)
    for head, own in ((0, maximal), (1, ~maximal)):
        assert net.calibration[head].tolist() == pytest.approx(platt(chance[own], label[own]))
    after = net.calibrated(seen.chance, seen.maximal).numpy()
    assert reliability(after, label).error < reliability(chance, label).error / 2
    assert float(net.threshold) == pytest.approx(jaccard_threshold(best_jaccard(after, label, 2000)))
    net.settle(seen, calibrate=True, rule="half")
    assert float(net.threshold) == 0.5
    net.constant[0] = 1.0
    net.settle(seen, calibrate=True)
    assert net.calibration[0].tolist() == [1.0, 0.0]
    assert net.calibration[1].tolist() != [1.0, 0.0]
    net.settle(seen, labelled=0.25, rule="half")
    assert float(net.threshold) == 0.125
    net.settle(seen)  # and back again
    assert net.calibration.tolist() == [[1.0, 0.0], [1.0, 0.0]]
