"""Matrices over orbitals in the file of predictions: whole, in the order of the store, and not beyond a size."""

import numpy as np
import torch

from geomlib.data.cards import CardStore
from geomlib.data.graph import GraphData, collate
from geomlib.graphs.orbitals import OrbitalEntries
from geomlib.graphs.spec import GraphSpec
from geomlib.training import outputs
from geomlib.training.outputs import Predictions, in_order


def graphs():
    """Water, hydrogen and water, numbered backwards."""
    spec = GraphSpec((OrbitalEntries("sto-3g", ("H", "O")),))
    store = CardStore("water-orbitals", "test")
    hydrogen = GraphData(pos=torch.tensor([[0.0, 0, 0], [0, 0, 0.7]]).double(), atomic_number=torch.tensor([1, 1]))
    hydrogen.hamiltonian = torch.tensor([1.0, 2, 2, 1]).double()
    found = []
    for position, graph in enumerate((store[0], hydrogen, store[1])):
        bare = GraphData(pos=graph.pos, atomic_number=graph.atomic_number, hamiltonian=graph.hamiltonian)
        built = spec.build(bare)
        built.sample_id = torch.tensor([2 - position])
        found.append(built)
    return found


def collected(batches):
    callback = Predictions()
    for members in batches:
        batch = collate(members)
        callback._add({"hamiltonian": batch.hamiltonian + 1.0}, batch)
    return in_order(callback._rows)


def test_matrices_are_in_the_order_of_the_store():
    first, second, third = graphs()
    written = collected([[first, second], [third]])
    assert written["sample_id"].tolist() == [0, 1, 2]
    assert written["n_entries"].tolist() == [49, 4, 49]
    assert written["n_atoms"].tolist() == [3, 2, 3]
    true = torch.cat([third.hamiltonian, second.hamiltonian, first.hamiltonian]).numpy()
    assert np.array_equal(written["hamiltonian_reference"], true)
    assert np.array_equal(written["hamiltonian_prediction"], true + 1.0)
    assert written["atomic_number"].tolist() == [
        number for graph in (third, second, first) for number in graph.atomic_number.tolist()
    ]


def test_too_many_are_left_out_and_the_rest_stays(monkeypatch):
    monkeypatch.setattr(outputs, "_MATRIX_BYTES", 8 * 2 * 53)
    assert "hamiltonian_prediction" in collected([graphs()[:2]])
    written = collected([graphs()[:2], graphs()[2:], graphs()[1:2]])
    assert sorted(written) == ["atomic_number", "n_atoms", "sample_id"]
    assert len(written["sample_id"]) == 4
