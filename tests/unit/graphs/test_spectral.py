"""Laplacian modes: what they are, what is cut, what is refused. Budget: 5 s."""

import math

import networkx as nx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.spectral import LaplacianModes, SPETransform


def graph(edges, nodes, **fields):
    index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    both = torch.cat([index, index.flip(0)], 1)
    return GraphData(node_type=torch.zeros(nodes, dtype=torch.int64), edge_index=both, **fields)


def of(net, **fields):
    return graph(list(net.edges), len(net), **fields)


def laplacian(edges, nodes, weight=1.0):
    adjacency = torch.zeros(nodes, nodes, dtype=torch.float64)
    adjacency[edges[0], edges[1]] = weight
    degree = adjacency.sum(1)
    scale = torch.where(degree > 0, degree.rsqrt(), 0.0)
    return torch.eye(nodes, dtype=torch.float64) - scale[:, None] * adjacency * scale


@pytest.mark.parametrize("net", [nx.petersen_graph(), nx.path_graph(7), nx.random_labeled_tree(12, seed=1)])
def test_modes_give_the_laplacian_back(net):
    one = of(net)
    LaplacianModes(len(net) + 3).build(one)
    values, vectors = one.eigenvalues[0], one.eigenvectors
    assert one.eigenvector_count.tolist() == [len(net)] and values.shape == (len(net) + 3,)
    torch.testing.assert_close(
        vectors @ torch.diag(values) @ vectors.T, laplacian(one.edge_index, len(net)), rtol=0, atol=1e-13
    )
    assert not vectors[:, len(net) :].any() and (values[: len(net)].diff() >= 0).all()
    one.validate(required=("eigenvalues", "eigenvectors", "eigenvector_count"))


def test_weights_enter_and_parallel_edges_add_up():
    heavy = graph([(0, 1), (1, 2)], 3, edge_weight=torch.tensor([2.0, 1.0, 2.0, 1.0]))
    double = graph([(0, 1), (0, 1), (1, 2)], 3)
    expected = laplacian(heavy.edge_index, 3, heavy.edge_weight.double())
    for one in (heavy, double):
        LaplacianModes(3).build(one)
        found = one.eigenvectors @ torch.diag(one.eigenvalues[0]) @ one.eigenvectors.T
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_a_batch_is_built_like_its_graphs():
    graphs = [of(nx.random_labeled_tree(n, seed=n)) for n in (5, 3, 5, 9, 1, 3)]
    batch = collate(graphs)
    LaplacianModes(4).build(batch)
    for one in graphs:
        LaplacianModes(4).build(one)
    alone = collate(graphs)
    torch.testing.assert_close(batch.eigenvalues, alone.eigenvalues, rtol=0, atol=1e-14)
    assert torch.equal(batch.eigenvector_count, alone.eigenvector_count)
    for one, of_batch in zip(graphs, batch.eigenvectors.split([5, 3, 5, 9, 1, 3]), strict=True):
        projector = one.eigenvectors @ one.eigenvectors.T
        torch.testing.assert_close(of_batch @ of_batch.T, projector, rtol=0, atol=1e-13)


def test_twice_is_the_same():
    first, second = of(nx.petersen_graph()), of(nx.petersen_graph())
    LaplacianModes(10).build(first)
    LaplacianModes(10).build(second)
    assert torch.equal(first.eigenvectors, second.eigenvectors)


@pytest.mark.parametrize(("d", "kept"), [(1, 1), (2, 1), (5, 1), (6, 6), (7, 6), (9, 6), (10, 10), (12, 10)])
def test_no_eigenvalue_is_cut_through(d, kept):
    """The Petersen graph has eigenvalues 0, 2/3 five times and 5/3 four times."""
    one = of(nx.petersen_graph())
    LaplacianModes(d).build(one)
    assert one.eigenvector_count.tolist() == [kept]
    assert not one.eigenvectors[:, kept:].any() and not one.eigenvalues[:, kept:].any()
    LaplacianModes(d, guard="keep").build(one)
    assert one.eigenvector_count.tolist() == [min(d, 10)]


def test_large_graphs_are_solved_by_lanczos(monkeypatch):
    torus = of(nx.convert_node_labels_to_integers(nx.grid_2d_graph(45, 45, periodic=True)))
    parts = of(nx.disjoint_union_all([nx.cycle_graph(12)] * 20 + [nx.empty_graph(3)]))
    for one, limit, d in ((torus, 1500, 16), (torus, 1500, 21), (parts, 50, 10), (parts, 50, 25)):
        exact = one.clone()
        LaplacianModes(d, dense_limit=5000).build(exact)
        monkeypatch.setattr(LaplacianModes, "_dense", None)
        LaplacianModes(d, dense_limit=limit).build(one)
        monkeypatch.undo()
        assert torch.equal(one.eigenvector_count, exact.eigenvector_count)
        torch.testing.assert_close(one.eigenvalues, exact.eigenvalues, rtol=0, atol=1e-10)
        projector, wanted = (x.eigenvectors @ x.eigenvectors.T for x in (one, exact))
        torch.testing.assert_close(projector, wanted, rtol=0, atol=1e-7)


def test_lanczos_that_misses_a_pair_gives_way_to_the_dense_solver(monkeypatch):
    import geomlib.graphs.spectral as spectral

    full = spectral.eigsh

    def forgetful(*args, return_eigenvectors=True, **options):
        if not return_eigenvectors:
            return full(*args, return_eigenvectors=False, **options)
        low, modes = full(*args, **{**options, "k": options["k"] + 1})
        order = low.argsort()[[0, 1, *range(3, len(low))]]  # without the third lowest
        return low[order], modes[:, order]

    monkeypatch.setattr(spectral, "eigsh", forgetful)
    path, exact = of(nx.path_graph(60)), of(nx.path_graph(60))
    LaplacianModes(5, dense_limit=10).build(path)
    LaplacianModes(5).build(exact)
    torch.testing.assert_close(path.eigenvalues, exact.eigenvalues, rtol=0, atol=1e-12)


def test_small_and_disconnected_graphs_are_defined():
    alone = graph([], 1)
    LaplacianModes(3).build(alone)
    assert alone.eigenvalues.tolist() == [[1.0, 0.0, 0.0]] and alone.eigenvectors.abs().tolist() == [[1.0, 0.0, 0.0]]
    parts = graph([(0, 1), (2, 3)], 5)
    LaplacianModes(5).build(parts)
    torch.testing.assert_close(parts.eigenvalues[0], torch.tensor([0.0, 0, 1, 2, 2]).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("edges", "weights", "message"),
    [
        ([[0, 1, 1], [1, 0, 2]], None, "edge 1 → 2 has no opposite edge"),
        ([[0, 1], [1, 0]], [1.0, 2.0], "no opposite edge of equal weight"),
        ([[0, 1], [1, 0]], [-1.0, -1.0], "edge 0 has the weight -1.0"),
        ([[0, 1], [1, 0]], [math.nan, math.nan], "edge 0 has the weight nan"),
        ([[0, 1, 2], [1, 0, 2]], None, "edge 2 joins node 2 to itself"),
        ([[0, 7], [7, 0]], None, "edge_index holds 0…7, but there are 3 nodes"),
    ],
)
@pytest.mark.parametrize("large", [False, True])
def test_what_has_no_modes_is_refused(edges, weights, message, large):
    wrong = GraphData(node_type=torch.zeros(3, dtype=torch.int64), edge_index=torch.tensor(edges))
    if weights is not None:
        wrong.edge_weight = torch.tensor(weights)
    with pytest.raises(DataError, match=message):
        LaplacianModes(1, dense_limit=0 if large else 1500).build(wrong)


def test_more_that_is_refused():
    with pytest.raises(DataError, match="without nodes"):
        LaplacianModes(2).build(graph([], 0))
    with pytest.raises(DataError, match="no 'edge_index'"):
        LaplacianModes(2).build(GraphData(node_type=torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="d = 0"):
        LaplacianModes(0)
    with pytest.raises(ConfigError, match="guard 'drpo'"):
        LaplacianModes(2, guard="drpo")


def test_directed_graphs_on_demand():
    one_way = GraphData(node_type=torch.zeros(3, dtype=torch.int64), edge_index=torch.tensor([[0, 1], [1, 2]]))
    both = graph([(0, 1), (1, 2)], 3)
    LaplacianModes(3, directed="symmetrize").build(one_way)
    LaplacianModes(3).build(both)
    assert torch.equal(one_way.eigenvalues, both.eigenvalues)


def test_transform_of_plain_pyg_data():
    nets = [nx.path_graph(4), nx.cycle_graph(6)]
    data = []
    for net in nets:
        index = torch.tensor(list(net.edges)).T
        data.append(SPETransform(5)(Data(edge_index=torch.cat([index, index.flip(0)], 1), num_nodes=len(net))))
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch.eigenvalues.shape == (2, 5) and batch.eigenvectors.shape == (10, 5)
    assert batch.eigenvectors.dtype == torch.float32 and batch.eigenvector_count.tolist() == [4, 5]
    weighted = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), length=torch.tensor([3.0, 3.0]), num_nodes=2)
    torch.testing.assert_close(SPETransform(2, weight="length")(weighted).eigenvalues[0], torch.tensor([0.0, 2.0]))
    with pytest.raises(DataError, match="need 'edge_index'"):
        SPETransform(2)(Data(x=torch.zeros(3, 1)))
