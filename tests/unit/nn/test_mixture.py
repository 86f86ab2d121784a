"""Molecules to mixtures."""

import torch

from geomlib.data.graph import GraphData
from geomlib.nn.mixture import mix

VALUES = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])


def test_mole_fractions_weigh():
    batch = GraphData(
        component_graph=torch.tensor([0, 0, 0]), mole_fraction=torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    )
    torch.testing.assert_close(mix(VALUES, batch), torch.tensor([[2.0, 20.0]]))


def test_without_fractions_shares_are_equal():
    batch = GraphData(component_graph=torch.tensor([0, 0, 0]))
    torch.testing.assert_close(mix(VALUES, batch), VALUES.mean(0, keepdim=True))
    alone = GraphData(component_graph=torch.tensor([0]))
    torch.testing.assert_close(mix(VALUES[:1], alone), VALUES[:1])
