"""Radial distribution functions against closed forms."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from geomlib.apply.rdf import radial_distributions
from geomlib.errors import DataError


def by_pair(results):
    return {"-".join(result.pair): result for result in results}


def test_random_gas_is_one():
    """Independent uniform points: g(r) = 1, whatever the cell; here skewed and thinner than the cutoff."""
    generator = np.random.default_rng(0)
    cell = np.array([[9.0, 0, 0], [2.0, 8.0, 0], [-1.5, 1.0, 7.0]])
    frames = [
        Atoms("H40O40", positions=generator.random((80, 3)) @ cell, cell=cell * scale, pbc=True)
        for scale in (1.0, 1.0, 1.0, 1.0)
    ]
    for result in radial_distributions(frames, cutoff=6.0, bins=6):
        assert result.periodic
        near = 1.0 if result.pair[0] != result.pair[1] else 39 / 40  # an atom is not its own neighbour
        assert result.values[1:] == pytest.approx(near, abs=0.1)


def test_volume_of_each_frame_counts():
    """g of a frame does not change when the structure is blown up together with the bins."""
    small, large = bulk("Cu", a=3.6, cubic=True), bulk("Cu", a=7.2, cubic=True)
    (one,) = radial_distributions([small], cutoff=4.0, bins=8)
    (two,) = radial_distributions([large], cutoff=8.0, bins=8)
    assert two.values == pytest.approx(one.values, rel=1e-12)
    (both,) = radial_distributions([small, small.copy()], cutoff=4.0, bins=8)
    assert both.values == pytest.approx(one.values, rel=1e-12)


def test_crystal_shells():
    (copper,) = radial_distributions([bulk("Cu", a=3.6)], cutoff=4.0, bins=400)
    assert copper.coordination[-1] == 18  # 12 first and 6 second neighbours
    assert copper.coordination[np.searchsorted(copper.r, 3.0)] == 12
    peak = copper.r[copper.values.argmax()]
    assert peak == pytest.approx(3.6 / np.sqrt(2), abs=0.01)


def test_molecule_counts_neighbours():
    results = by_pair(radial_distributions([molecule("CH3CH2OH")], cutoff=6.0, bins=600))
    assert set(results) == {"H-H", "H-C", "H-O", "C-C", "C-O", "O-O"}
    carbons = results["C-C"]
    assert not carbons.periodic
    width = carbons.r[1] - carbons.r[0]
    assert carbons.values.sum() * width == pytest.approx(1.0)  # one other carbon
    assert results["H-O"].values.sum() * width == pytest.approx(1.0)
    assert results["H-H"].values.sum() * width == pytest.approx(5.0)
    assert not results["O-O"].values.any()


def test_slab_is_counted_not_normalised():
    slab = bulk("Cu", a=3.6, cubic=True) * (2, 2, 1)
    slab.pbc = (True, True, False)
    (copper,) = radial_distributions([slab], cutoff=3.0, bins=30)
    assert not copper.periodic
    assert copper.coordination[-1] == 8  # two layers: four in the plane, four in the other layer


def test_chosen_pairs():
    frame = molecule("CH3CH2OH")
    results = radial_distributions([frame], pairs=[("O", "H"), ("C", "O")])
    assert [result.pair for result in results] == [("O", "H"), ("C", "O")]
    assert results[0].coordination[-1] == 6
    with pytest.raises(DataError, match="pair O-N: the trajectory has no N"):
        radial_distributions([frame], pairs=[("O", "N")])


def test_unusable_trajectories():
    with pytest.raises(DataError, match="at least one frame"):
        radial_distributions([])
    with pytest.raises(DataError, match="frame 1 of the trajectory has other atoms"):
        radial_distributions([molecule("H2O"), molecule("CH4")])
