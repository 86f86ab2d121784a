"""Pairs and entries of matrices over orbitals."""

import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.errors import UnknownElement
from geomlib.graphs.orbitals import OrbitalEntries
from geomlib.graphs.spec import GraphSpec

SPEC = GraphSpec((OrbitalEntries("sto-3g", ("H", "O")),))


def molecule(*numbers):
    return GraphData(pos=torch.eye(len(numbers), 3).double(), atomic_number=torch.tensor(numbers))


def test_a_batch_is_built_like_its_molecules():
    graphs = [molecule(8, 1, 1), molecule(1), molecule(1, 8)]
    whole, parts = SPEC.build(collate(graphs)), collate([SPEC.build(graph.clone()) for graph in graphs])
    for name in ("pair_index", "entry_atom", "entry_slot"):
        assert torch.equal(whole[name], parts[name]), name
    assert parts.entry_atom.shape == (2, 7**2 + 1 + 6**2)
    assert parts.pair_index.tolist() == [[1, 2, 2, 5], [0, 0, 1, 4]]


def test_an_element_outside_the_layout_is_named():
    with pytest.raises(UnknownElement, match="C"):
        SPEC.build(molecule(6, 1))
