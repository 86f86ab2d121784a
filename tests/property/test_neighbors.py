"""Neighbour lists and line graphs on random structures. Budget: 15 s."""

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import collate
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import (
    RadiusEdges,
    _binned_pairs,
    _dense_pairs,
    _images,
    batched_neighbor_list,
    complete_cell,
    neighbor_list,
)


@st.composite
def structures(draw, max_atoms: int = 7) -> Atoms:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    atoms = draw(st.integers(1, max_atoms))
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    scale = draw(st.sampled_from([1.5, 3.0, 6.0]))
    cell = scale * rng.normal(size=(3, 3))
    if draw(st.booleans()):
        cell[~np.array(pbc)] = 0.0
    if draw(st.booleans()):
        cell = cell[::-1]
    spread = draw(st.sampled_from([1.0, 10.0, 100.0]))
    result = Atoms("H" * atoms, positions=spread * rng.uniform(-1, 1, (atoms, 3)), cell=cell, pbc=pbc)
    periodic = result.cell.array[result.pbc]
    heights = np.linalg.svd(periodic, compute_uv=False) if len(periodic) else np.ones(1)
    assume(heights.min() > 0.35)  # flatter cells are right too, and slow for the oracle
    return result


cutoffs = st.floats(0.5, 4.0)


def rows(edge_index: torch.Tensor, shift: torch.Tensor) -> list[tuple[int, ...]]:
    return sorted(tuple(row) for row in torch.cat([edge_index.T.double(), shift.double()], dim=1).long().tolist())


def oracle(atoms: Atoms, cutoff: float) -> list[tuple[int, ...]]:
    cell = complete_cell(torch.tensor(atoms.cell.array[None]), torch.tensor(atoms.pbc[None]))[0].numpy()
    i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, cell, atoms.positions, cutoff)
    return sorted((int(b), int(a), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(structures(), cutoffs)
def test_vesin_and_torch_equal_ase(atoms, cutoff):
    graph = from_atoms(atoms)
    expected = oracle(atoms, cutoff)
    assert rows(*neighbor_list(graph.pos, graph.cell[0], graph.pbc[0], cutoff)) == expected
    assert rows(*batched_neighbor_list(graph.pos, graph.cell, graph.pbc, graph.node_graph, cutoff)) == expected


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.lists(structures(), min_size=1, max_size=4), cutoffs)
def test_binned_equals_dense(several, cutoff):
    batch = collate([from_atoms(atoms) for atoms in several])
    box = complete_cell(batch.cell, batch.pbc)
    fractional = torch.einsum("nc,ncd->nd", batch.pos, torch.linalg.inv(box)[batch.node_graph])
    wrap = torch.where(batch.pbc[batch.node_graph], fractional.floor(), torch.zeros_like(fractional))
    wrapped = batch.pos - torch.einsum("nc,ncd->nd", wrap, box[batch.node_graph])
    arguments = (
        wrapped,
        box,
        _images(box, batch.pbc, cutoff),
        batch.node_graph,
        torch.bincount(batch.node_graph),
        cutoff,
    )
    found = [
        sorted(zip(center.tolist(), neighbor.tolist(), map(tuple, shift.tolist()), strict=True))
        for center, neighbor, shift in (_dense_pairs(*arguments), _binned_pairs(*arguments))
    ]
    assert found[0] == found[1]


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.lists(structures(), min_size=1, max_size=4), cutoffs)
def test_batched_equals_looped(several, cutoff):
    graphs = [from_atoms(atoms) for atoms in several]
    batch = collate(graphs)
    together = rows(*batched_neighbor_list(batch.pos, batch.cell, batch.pbc, batch.node_graph, cutoff))
    looped, first = [], 0
    for graph in graphs:
        alone = rows(*neighbor_list(graph.pos, graph.cell[0], graph.pbc[0], cutoff))
        looped += [(j + first, i + first, *shift) for j, i, *shift in alone]
        first += graph.num_nodes
    assert together == sorted(looped)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(structures(5), st.floats(1.0, 3.0), st.floats(0.2, 1.0))
def test_line_graph_equals_a_loop(atoms, cutoff, fraction):
    graph = from_atoms(atoms)
    RadiusEdges(cutoff).build(graph)
    LineGraph(fraction * cutoff).build(graph)
    center, lengths = graph.edge_index[1].tolist(), graph.edge_vectors().norm(dim=1).tolist()
    members = [edge for edge, length in enumerate(lengths) if length < fraction * cutoff]
    expected = [[k, j] for j in members for k in members if center[k] == center[j]]
    assert graph.line_index.T.tolist() == expected
