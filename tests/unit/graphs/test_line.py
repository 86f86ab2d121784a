"""Line graphs against a plain loop. Budget: 2 s."""

import pytest
import torch
from ase.build import bulk, molecule

from geomlib import memory
from geomlib.data.atoms import from_atoms
from geomlib.data.graph import collate
from geomlib.errors import DataError
from geomlib.graphs.line import LineGraph, line_graph
from geomlib.graphs.radius import RadiusEdges


def by_loop(graph, cutoff, max_neighbors=None):
    """Ordered pairs (ik, ij), the diagonal too, sorted by ij."""
    center, lengths = graph.edge_index[1].tolist(), graph.edge_vectors().norm(dim=1).tolist()
    members = [edge for edge, length in enumerate(lengths) if length < cutoff]
    if max_neighbors is not None:
        nearest = []
        for node in range(graph.num_nodes):
            nearest += sorted((edge for edge in members if center[edge] == node), key=lengths.__getitem__)[
                :max_neighbors
            ]
        members = sorted(nearest)
    return [[k, j] for j in members for k in members if center[k] == center[j]]


def built(atoms, cutoff, max_neighbors=None):
    graph = from_atoms(atoms)
    RadiusEdges(4.5).build(graph)
    LineGraph(cutoff, max_neighbors).build(graph)
    return graph


@pytest.mark.parametrize("max_neighbors", [None, 1, 3, 100])
@pytest.mark.parametrize("cutoff", [0.5, 1.6, 3.0, 4.5])
@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("Cu", a=3.5), molecule("H")], ids=["ethanol", "Cu", "H"])
def test_equals_a_loop(atoms, cutoff, max_neighbors):
    atoms = atoms.copy()
    atoms.rattle(0.01, seed=0)  # no two lengths are equal, so the nearest are well defined
    graph = built(atoms, cutoff, max_neighbors)
    expected = by_loop(graph, cutoff, max_neighbors)
    if max_neighbors is None or atoms.symbols[0] != "Cu":
        assert sorted(graph.line_index.T.tolist()) == sorted(expected)
    else:  # an edge and its reverse are equally long: any choice among equals will do
        assert graph.line_index.size(1) == len(expected)
    assert (graph.line_index[1].diff() >= 0).all()


def test_batched_equals_looped():
    structures = [molecule("H2O"), bulk("Cu"), molecule("H"), molecule("CH4")]
    graphs = [from_atoms(atoms) for atoms in structures]
    for graph in graphs:
        RadiusEdges(4.0).build(graph)
    batch = collate(graphs)
    LineGraph(3.0).build(batch)
    expected, first = [], 0
    for graph in graphs:
        LineGraph(3.0).build(graph)
        expected.append(graph.line_index + first)
        first += graph.num_edges
    assert torch.equal(batch.line_index, torch.cat(expected, dim=1))


def test_batches_of_line_graphs_shift_by_edges():
    """Three nodes and two edges a graph: shifting by nodes would go unnoticed in many others."""
    graphs = [built(molecule("H2O"), 3.0), built(molecule("CH4"), 3.0)]
    batch = collate(graphs)
    second = batch.line_index[:, graphs[0].line_index.size(1) :]
    assert torch.equal(second, graphs[1].line_index + graphs[0].num_edges)
    for a, b in ((batch.edge_index[1, batch.line_index[0]], batch.edge_index[1, batch.line_index[1]]),):
        assert torch.equal(a, b)


def test_no_members_make_no_lines():
    empty = torch.zeros(0, dtype=torch.int64)
    assert line_graph(torch.tensor([0, 0, 1]), empty, 2).shape == (2, 0)


def test_edges_come_first():
    with pytest.raises(DataError, match="put RadiusEdges before LineGraph"):
        LineGraph(3.0).build(from_atoms(bulk("Cu")))


def test_more_lines_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**28)
    center = torch.zeros(20_000, dtype=torch.int64)
    with pytest.raises(DataError, match="line graph of 400,000,000 pairs"):
        line_graph(center, torch.arange(20_000), 1)
