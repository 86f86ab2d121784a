"""Sums of outer products: values and derivatives against the plain formula."""

import pytest
import torch

from geomlib.nn import moments
from geomlib.nn.moments import Neighborhoods, outer_sum


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    monkeypatch.setattr(moments, "_CHUNK", 40)


def example(of_neighbors: bool):
    generator = torch.Generator().manual_seed(0)
    center = torch.tensor([0, 0, 0, 2, 3, 3, 3, 3, 3, 6])  # nodes 1, 4, 5 and 7 have no edges
    neighbor = torch.randint(0, 9, (len(center),), generator=generator)
    graph = Neighborhoods(center, neighbor, nodes=8, neighbors=9)
    vector = torch.randn(len(center), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = 9 if of_neighbors else len(center)
    feature = torch.randn(rows, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    return graph, vector, feature


@pytest.mark.parametrize("of_neighbors", [False, True])
def test_sum(of_neighbors):
    graph, vector, feature = example(of_neighbors)
    spread = feature[graph.neighbor] if of_neighbors else feature
    expected = torch.zeros(8, 3, 5, dtype=torch.float64)
    for edge, center in enumerate(graph.center.tolist()):
        expected[center] += torch.outer(vector[edge], spread[edge])
    torch.testing.assert_close(outer_sum(vector, feature, graph, of_neighbors=of_neighbors), expected)


@pytest.mark.parametrize("of_neighbors", [False, True])
def test_derivatives(of_neighbors):
    graph, vector, feature = example(of_neighbors)

    def function(v, f):
        return outer_sum(v, f, graph, of_neighbors=of_neighbors)

    assert torch.autograd.gradcheck(function, (vector, feature))
    assert torch.autograd.gradgradcheck(function, (vector, feature))


def test_no_edges():
    none = torch.zeros(0, dtype=torch.int64)
    graph = Neighborhoods(none, none, nodes=3, neighbors=3)
    out = outer_sum(torch.zeros(0, 3), torch.ones(3, 2), graph, of_neighbors=True)
    assert out.shape == (3, 3, 2)
    assert not out.any()
