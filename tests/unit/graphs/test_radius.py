"""Neighbour lists against ASE's, on ordinary and nasty structures. Budget: 5 s."""

import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import primitive_neighbor_list

from geomlib import memory
from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.errors import DataError
from geomlib.graphs import radius
from geomlib.graphs.radius import RadiusEdges, batched_neighbor_list, complete_cell, nearest_edges, neighbor_list


def slab(third: list[float]) -> Atoms:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=5.0)
    cell = atoms.cell.array.copy()
    cell[2] = third
    atoms.set_cell(cell)
    atoms.set_pbc([True, True, False])
    return atoms


def structures() -> dict[str, tuple[Atoms, float]]:
    silicon = bulk("Si", a=5.43)
    skewed = silicon.copy()
    skewed.set_cell(np.array([[1, 0, 0], [7, 1, 0], [-5, 3, 1]]) @ silicon.cell.array)
    left = bulk("NaCl", "rocksalt", a=5.6)
    left.set_cell(left.cell.array[[1, 0, 2]])
    scattered = bulk("Cu", cubic=True)
    scattered.positions += np.array([[5, -9, 2], [0, 0, 31], [-14, 3, 3], [7, 7, -7]]) @ scattered.cell.array
    wire = Atoms("CO", positions=[[0, 0, 0], [0.3, 1.1, 0.2]], cell=[2.1, 0, 0], pbc=[True, False, False])
    middle = Atoms("H2", positions=[[0, 0, 0], [0.4, 0.1, 0.9]], cell=[[0, 9, 0], [0, 0, 1.7], [3, 0, 0]])
    middle.pbc = [False, True, False]
    far_wire = Atoms("H3", [[0, 0, 0], [1, 900, 0], [1, 900, 1]], cell=[4, 0, 0], pbc=[True, False, False])
    far_slab = Atoms("H2", [[0, 0, 0], [1, 1, 9e4]], cell=[4, 4, 0], pbc=[True, True, False])
    twisted = Atoms("H", cell=[[1, 0.2, 0], [0.9, 0.4, 0.1], [0, 0, 3]], pbc=True)
    exactly = Atoms("H2", positions=[[0, 0, 0], [3, 0, 0]])
    lattice = Atoms("Po", cell=[3, 3, 3], pbc=True)
    return {
        "fcc primitive": (bulk("Cu"), 6.0),
        "slab without a third vector": (slab([0, 0, 0]), 6.0),
        "slab with a short dummy vector": (slab([0, 0, 0.5]), 6.0),
        "slab with a slanted dummy vector": (slab([3, 4, 0.01]), 6.0),
        "slab with a dummy vector in its plane": (slab([2.5, 0, 0]), 6.0),
        "wire": (wire, 6.0),
        "wire along the second vector": (middle, 5.0),
        "strongly skewed": (skewed, 6.0),
        "nearly flat": (twisted, 3.0),
        "negative determinant": (left, 5.0),
        "atoms far outside": (scattered, 5.0),
        "zero cell": (molecule("CH3CH2OH"), 6.0),
        "molecule with a dummy cell": (Atoms(molecule("CH3CH2OH"), cell=[1, 1, 1]), 6.0),
        "one atom": (Atoms("H"), 6.0),
        "no pair": (Atoms("H2", positions=[[0, 0, 0], [0, 0, 50]]), 6.0),
        "pair at exactly the cutoff": (exactly, 3.0),
        "lattice at exactly the cutoff": (lattice, 3.0),
        "cutoff many cells wide": (Atoms("H", cell=[1.3, 1.4, 1.5], pbc=True), 6.0),
        "atoms on each other": (Atoms("H2", positions=[[0, 0, 0], [0, 0, 0]]), 1.0),
        "wire and atoms far from it": (far_wire, 5.0),
        "slab and atoms far from it": (far_slab, 5.0),
        "far from the origin": (Atoms("H2", positions=[[1e4, 0, 0], [1e4, 0, 1]], cell=[5, 5, 5], pbc=True), 3.0),
    }


def reference(atoms: Atoms, cutoff: float) -> set[tuple[int, ...]]:
    """(neighbour, centre, shift) of ASE, which counts a pair at exactly the cutoff as outside too."""
    cell = complete_cell(torch.tensor(atoms.cell.array[None]), torch.tensor(atoms.pbc[None]))[0].numpy()
    i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, cell, atoms.positions, cutoff)
    return {(int(b), int(a), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}


def found(edge_index: torch.Tensor, shift: torch.Tensor) -> set[tuple[int, ...]]:
    rows = torch.cat([edge_index.T.double(), shift.double()], dim=1).long().tolist()
    assert len(rows) == len({tuple(row) for row in rows}), "an edge is there twice"
    return {tuple(row) for row in rows}


def dense(graph: GraphData, cutoff: float):
    return batched_neighbor_list(graph.pos, graph.cell, graph.pbc, graph.node_graph, cutoff)


def by_vesin(graph: GraphData, cutoff: float):
    return neighbor_list(graph.pos, graph.cell[0], graph.pbc[0], cutoff)


@pytest.fixture
def always_binned(monkeypatch):
    monkeypatch.setattr(radius, "_DENSE_CANDIDATES", -1)


@pytest.mark.parametrize("name", structures())
def test_vesin_equals_ase(name):
    atoms, cutoff = structures()[name]
    edge_index, shift = by_vesin(from_atoms(atoms), cutoff)
    assert found(edge_index, shift) == reference(atoms, cutoff)
    assert (edge_index[1].diff() >= 0).all()


@pytest.mark.parametrize("name", structures())
def test_dense_search_equals_ase(name):
    atoms, cutoff = structures()[name]
    edge_index, shift = dense(from_atoms(atoms), cutoff)
    assert found(edge_index, shift) == reference(atoms, cutoff)
    assert (edge_index[1].diff() >= 0).all()


@pytest.mark.parametrize("name", structures())
def test_binned_search_equals_ase(name, always_binned):
    atoms, cutoff = structures()[name]
    edge_index, shift = dense(from_atoms(atoms), cutoff)
    assert found(edge_index, shift) == reference(atoms, cutoff)
    assert (edge_index[1].diff() >= 0).all()


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("fcc primitive", 78),
        ("slab without a third vector", None),
        ("one atom", 0),
        ("no pair", 0),
        ("pair at exactly the cutoff", 0),
        ("lattice at exactly the cutoff", 0),
        ("zero cell", 72),
        ("atoms on each other", 2),
    ],
)
def test_known_counts(name, pairs):
    atoms, cutoff = structures()[name]
    edges = by_vesin(from_atoms(atoms), cutoff)[0].size(1)
    assert edges == (len(reference(atoms, cutoff)) if pairs is None else pairs)


@pytest.mark.parametrize("search", ["dense", "binned"])
def test_batched_equals_looped(search, monkeypatch):
    cutoff = 4.5
    graphs = [from_atoms(atoms) for atoms, _ in structures().values()]
    first, looped = 0, set()
    for graph in graphs:
        index, move = by_vesin(graph, cutoff)
        looped |= {(j + first, i + first, *rest) for j, i, *rest in found(index, move)}
        first += graph.num_nodes
    if search == "binned":
        monkeypatch.setattr(radius, "_DENSE_CANDIDATES", -1)
    assert found(*dense(collate(graphs), cutoff)) == looped


def test_atoms_far_from_a_slab_or_wire_take_no_time():
    """vesin takes minutes for this one."""
    atoms, cutoff = structures()["slab and atoms far from it"]
    began = time.perf_counter()
    by_vesin(from_atoms(atoms), cutoff)
    assert time.perf_counter() - began < 5.0


def test_vectors_are_shorter_than_the_cutoff_and_come_back_reversed():
    atoms, cutoff = structures()["strongly skewed"]
    graph = from_atoms(atoms)
    RadiusEdges(cutoff).build(graph)
    vectors = graph.edge_vectors()
    assert float(vectors.norm(dim=1).max()) < cutoff
    rows = {(int(j), int(i), *map(int, s)) for (j, i), s in zip(graph.edge_index.T, graph.edge_shift, strict=True)}
    assert rows == {(i, j, -a, -b, -c) for j, i, a, b, c in rows}


def test_positions_are_not_wrapped_in_place():
    atoms, cutoff = structures()["atoms far outside"]
    graph = from_atoms(atoms)
    before = graph.pos.clone()
    RadiusEdges(cutoff).build(graph)
    dense(graph, cutoff)
    assert torch.equal(graph.pos, before)


@pytest.mark.parametrize("kept", [1, 4, 12, 77, 78, 200])
def test_nearest_neighbors_only(kept):
    graph = from_atoms(bulk("Cu") * (2, 1, 1))
    graph.pos = graph.pos + 0.05 * torch.randn(graph.pos.shape, generator=torch.Generator().manual_seed(0))
    RadiusEdges(6.0).build(graph)
    lengths, center = graph.edge_vectors().norm(dim=1), graph.edge_index[1]
    expected = {
        (i, round(float(length), 9))
        for i in range(graph.num_nodes)
        for length in lengths[center == i].sort().values[:kept]
    }
    RadiusEdges(6.0, max_neighbors=kept).build(graph)
    lengths, center = graph.edge_vectors().norm(dim=1), graph.edge_index[1]
    assert {(int(i), round(float(d), 9)) for i, d in zip(center, lengths, strict=True)} == expected


def test_nearest_edges_by_hand():
    center = torch.tensor([0, 0, 0, 2, 2])
    lengths = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    assert nearest_edges(center, lengths, 2, 3).tolist() == [1, 2, 3, 4]
    assert nearest_edges(center, lengths, 1, 3).tolist() == [1, 4]
    assert nearest_edges(center, lengths, 3, 3) is None
    assert nearest_edges(center, lengths, None, 3) is None


def test_select_equals_a_fresh_list():
    atoms, _ = structures()["zero cell"]
    wide, fresh = from_atoms(atoms), from_atoms(atoms)
    RadiusEdges(5.0).build(wide)
    edges = RadiusEdges(2.5, max_neighbors=4)
    edges.select(wide)
    edges.build(fresh)
    assert found(wide.edge_index, wide.edge_shift) == found(fresh.edge_index, fresh.edge_shift)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cutoff_must_be_a_length(cutoff):
    with pytest.raises(DataError, match="positive, finite length"):
        RadiusEdges(cutoff).build(from_atoms(bulk("Cu")))


@pytest.mark.parametrize("cell", [[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[1, 0, 0], [2, 0, 0], [0, 0, 1]]])
def test_periodic_vectors_must_span_a_volume(cell):
    atoms = Atoms("H", cell=cell, pbc=True)
    for search in (by_vesin, dense):
        with pytest.raises(DataError, match="span no volume"):
            search(from_atoms(atoms), 3.0)


def test_a_cutoff_beyond_memory_is_refused_before_anything_is_allocated(monkeypatch):
    atoms = from_atoms(bulk("Cu", cubic=True) * (3, 3, 3))
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)

    def never(*args, **kwargs):
        raise AssertionError("the search began")

    monkeypatch.setattr(radius, "NeighborList", never)
    monkeypatch.setattr(radius, "_within", never)
    for search in (by_vesin, dense):
        with pytest.raises(DataError, match=r"cutoff 300.* Å.*GiB.*smaller cutoff"):
            search(atoms, 300.0)


def test_complete_cell_leaves_periodic_vectors_alone():
    cell = torch.tensor([[[2.0, 0, 0], [0.5, 3, 0], [9, 9, 9]]], dtype=torch.float64)
    full = complete_cell(cell, torch.tensor([[True, True, False]]))
    assert torch.equal(full[0, :2], cell[0, :2])
    assert torch.allclose(full[0, 2].abs(), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    assert torch.equal(cell[0, 2], torch.tensor([9.0, 9, 9], dtype=torch.float64))  # the argument stays


def test_shifts_have_the_precision_of_positions():
    graph = from_atoms(bulk("Cu"))
    for dtype in (torch.float32, torch.float64):
        index, shift = neighbor_list(graph.pos.to(dtype), graph.cell[0].to(dtype), graph.pbc[0], 4.0)
        assert shift.dtype == dtype and index.dtype == torch.int64
