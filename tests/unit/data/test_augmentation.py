"""Random rotations by the field table. Budget: 2 s."""

import pytest
import torch

from geomlib.data.augmentation import random_rotations, rotate, rotate_field
from geomlib.data.fields import FIELDS, Field
from geomlib.data.graph import collate
from geomlib.errors import DataError
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.nn.derivative import Derivatives
from geomlib.testing.toy import ToyPotential


def prepared(graphs):
    batch = collate(graphs)
    batch.sample_id = torch.arange(len(graphs))
    return batch


def test_rotations_are_rotations_and_reproducible():
    rotation = random_rotations(torch.tensor([3, 9, 3]), seed=1, epoch=2)
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).double().expand(3, 3, 3), atol=1e-14)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3).double())
    assert torch.equal(rotation[0], rotation[2])
    assert torch.equal(rotation[1], random_rotations(torch.tensor([9]), 1, 2)[0])
    assert not torch.equal(rotation, random_rotations(torch.tensor([3, 9, 3]), 1, 3))
    mean = random_rotations(torch.arange(4000), 0, 0).mean(0)
    assert mean.abs().max() < 0.05


def test_labels_turn_with_the_structure(store):
    """What a net predicts for the rotated batch is the rotated prediction: signs and orders of all kinds are right."""
    spec = GraphSpec((RadiusEdges(4.5), LineGraph(3.5)))
    graphs = [graph for graph in store if graph.num_nodes > 2][:6]
    for graph in graphs:
        graph.pos *= 0.7
        graph.atomic_number = graph.atomic_number % 3 + 6
        graph.pbc = torch.tensor([[True, True, True]])
    net = Derivatives(ToyPotential(["C", "N", "O"])).eval()
    batch = spec.build(prepared(graphs))
    before = net(batch)
    for name in ("energy", "forces", "virial", "stress"):
        batch[name] = before[name].clone()
    rotate(batch, seed=4, epoch=7)
    after = net(batch)  # the same edges: shifts are not touched
    assert before["forces"].abs().max() > 0.1
    assert not torch.allclose(before["forces"], after["forces"], atol=1e-3)
    for name in ("energy", "forces", "virial", "stress"):
        assert torch.allclose(batch[name], after[name], atol=1e-9), name


def test_kinds():
    turn = random_rotations(torch.tensor([0]), 0, 0)
    vector = torch.randn(1, 3, dtype=torch.float64)
    matrix = torch.einsum("ni,nj->nij", vector, vector)
    turned = rotate_field(FIELDS["dipole"], vector, turn)
    assert torch.allclose(rotate_field(FIELDS["stress"], matrix, turn), torch.einsum("ni,nj->nij", turned, turned))
    assert torch.equal(rotate_field(FIELDS["energy"], vector, turn), vector)
    with pytest.raises(DataError, match="can't be rotated: train without augmentation"):
        rotate_field(Field("odd", "graph", (5,), "float", "", "irreps", "Odd."), vector, turn)


def test_hessian(graph):
    batch = prepared([graph(3)])
    batch.hessian = torch.randn(3, 3, 3, 3, dtype=torch.float64)
    before = batch.hessian.clone()
    rotate(batch, 0, 0)
    turn = random_rotations(torch.tensor([0]), 0, 0)[0]
    assert torch.allclose(batch.hessian[2, 1], turn @ before[2, 1] @ turn.T)


def test_masks_and_numbers_stay(store):
    batch = prepared(list(store)[:3])
    before = batch.clone()
    rotate(batch, 0, 0)
    for name in ("pbc", "atomic_number", "energy", "batch", "ptr"):
        assert torch.equal(batch[name], before[name])
    assert not torch.equal(batch.pos, before.pos)
