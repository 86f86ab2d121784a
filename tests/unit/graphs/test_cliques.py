"""Maximal cliques and inclusions against networkx and against trying all pairs. Budget: 5 s."""

from itertools import islice

import networkx as nx
import numpy as np
import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import DataError
from geomlib.graphs.cliques import (
    Cliques,
    cliques_of,
    degeneracy_order,
    inclusions,
    iter_maximal_cliques,
    maximal_cliques,
)
from geomlib.graphs.spec import GraphSpec


def of(graph):
    return UndirectedGraph.from_edges(np.array(list(graph.edges), dtype=np.int64), graph.number_of_nodes())


def expected(graph):
    return sorted(tuple(sorted(clique)) for clique in nx.find_cliques(graph))


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    graph = nx.gnp_random_graph(5 + seed % 11, 0.1 + 0.02 * seed, seed=seed)
    assert list(maximal_cliques(of(graph))) == expected(graph)


@pytest.mark.parametrize(
    "graph",
    [
        nx.empty_graph(0),
        nx.empty_graph(1),
        nx.empty_graph(4),
        nx.complete_graph(150),
        nx.complete_multipartite_graph(3, 3, 3, 3),
        nx.star_graph(50),
        nx.disjoint_union(nx.cycle_graph(5), nx.complete_graph(4)),
    ],
    ids=["empty", "single", "isolated", "complete", "moon-moser", "star", "disconnected"],
)
def test_special_graphs(graph):
    assert list(maximal_cliques(of(graph))) == expected(graph)


def test_stream_starts_before_it_ends():
    """The first cliques of a graph with 3^20 of them."""
    graph = of(nx.complete_multipartite_graph(*[3] * 20))
    first = list(islice(iter_maximal_cliques(graph), 100))
    assert len({frozenset(clique) for clique in first}) == 100
    assert {len(clique) for clique in first} == {20}
    with pytest.raises(DataError, match="more than 1,000 maximal cliques"):
        maximal_cliques(graph, limit=1000)


@pytest.mark.parametrize("seed", range(5))
def test_order_is_one_of_degeneracy(seed):
    graph = nx.barabasi_albert_graph(60, 4, seed=seed)
    order = degeneracy_order(of(graph))
    rank = {node: position for position, node in enumerate(order.tolist())}
    assert sorted(rank) == list(range(60))
    later = max(sum(rank[other] > rank[node] for other in graph[node]) for node in graph)
    assert later == max(nx.core_number(graph).values())


@pytest.mark.parametrize("seed", range(5))
def test_inclusions_equal_all_pairs(seed, monkeypatch):
    monkeypatch.setattr("geomlib.graphs.cliques._PAIRS", 50)
    rng = np.random.default_rng(seed)
    sets, family = (
        Hypergraph.from_sets([rng.integers(0, 9, rng.integers(1, size)).tolist() for _ in range(60)], 9)
        for size in (4, 9)
    )
    wanted = [(a, b) for a, row in enumerate(sets) for b, big in enumerate(family) if set(row) <= set(big)]
    which, where = inclusions(sets, family)
    assert sorted(zip(which.tolist(), where.tolist(), strict=True)) == wanted
    assert (np.diff(which) >= 0).all()
    assert len(inclusions(Hypergraph.from_sets([], 9), family)[0]) == 0


def test_builder_gives_a_graph_its_cliques():
    spec = GraphSpec((Cliques(),))
    assert GraphSpec.from_dict(spec.to_dict()) == spec
    first = Hypergraph.from_sets([[0, 1, 2], [2, 3]], 5).to_data()
    second = Hypergraph.from_sets([[0, 1]], 2).to_data()
    batch = collate([spec.build(first), spec.build(second)]).validate()
    assert list(cliques_of(first)) == [(0, 1, 2), (2, 3), (4,)]
    assert list(cliques_of(batch)) == [(0, 1, 2), (2, 3), (4,), (5, 6)]
    with pytest.raises(DataError, match="is directed"):
        spec.build(GraphData(node_id=torch.arange(2), edge_index=torch.tensor([[0], [1]])))
