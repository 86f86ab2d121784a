"""Neighbour counts against plain distances. Budget: 1 s."""

import math

import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.neighbors import NeighborCounts, count_neighbors


def chain(atoms: int, *, periodic: bool) -> GraphData:
    pos = torch.zeros(atoms, 3, dtype=torch.float64)
    pos[:, 0] = torch.arange(atoms)
    cell = torch.diag(torch.tensor([float(atoms), 9.0, 9.0], dtype=torch.float64)).unsqueeze(0)
    return GraphData(pos=pos, cell=cell, pbc=torch.tensor([[periodic, False, False]]))


def test_counts_of_chains():
    wide, narrow = count_neighbors([chain(5, periodic=True), chain(3, periodic=False)], [1.5, 2.5])[::-1]
    assert (wide.cutoff, narrow.cutoff) == (2.5, 1.5)
    assert (wide.largest, narrow.largest) == (4, 2)
    assert wide.mean == pytest.approx((5 * 4 + 3 * 2) / 8)
    assert narrow.mean == pytest.approx((5 * 2 + 4) / 8)
    assert wide.shortest == pytest.approx(1.0)


def test_atoms_alone():
    (counts,) = count_neighbors([chain(1, periodic=False)], [2.0])
    assert (counts.mean, counts.largest, counts.shortest) == (0.0, 0, math.inf)


@pytest.mark.parametrize(("largest", "factor", "selection"), [(86, 1.1, 96), (40, 1.0, 40), (41, 1.0, 44), (0, 1.1, 4)])
def test_selection_is_rounded_up_to_fours(largest, factor, selection):
    assert NeighborCounts(6.0, 1.0, largest, 1.0).selection(factor) == selection


def test_nothing_to_count():
    with pytest.raises(DataError, match="no structure"):
        count_neighbors([], [2.0])
    with pytest.raises(DataError, match="no cutoff"):
        count_neighbors([chain(2, periodic=False)], [])
