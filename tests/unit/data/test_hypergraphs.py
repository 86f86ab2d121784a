"""Families of sets, their projection and their readers. Budget: 4 s."""

from collections import Counter

import numpy as np
import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraph_store import HyperedgeStore
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.undirected import UndirectedGraph, read_graph
from geomlib.errors import DataError, FileFormatError


def random_sets(rng, nodes=8, count=40, size=7):
    return [rng.integers(0, nodes, rng.integers(1, size)).tolist() for _ in range(count)]


@pytest.mark.parametrize("seed", range(10))
def test_equals_a_dictionary_of_tuples(seed):
    rng = np.random.default_rng(seed)
    first, second = random_sets(rng), random_sets(rng)
    count = Counter(tuple(sorted(set(row))) for row in first)
    hypergraph, other = Hypergraph.from_sets(first, 8), Hypergraph.from_sets(second, 8)
    assert list(hypergraph) == sorted(count)
    assert hypergraph.multiplicity.tolist() == [count[row] for row in sorted(count)]
    assert hypergraph.contains(other).tolist() == [row in count for row in other]
    found = hypergraph.positions(other)
    assert all(position < 0 or list(hypergraph)[position] == row for position, row in zip(found, other, strict=True))
    both = hypergraph.union(other)
    assert set(both) == set(hypergraph) | set(other)
    assert both.multiplicity.sum() == len(first) + len(second)
    order = rng.permutation(8)
    assert set(hypergraph.relabelled(order)) == {tuple(sorted(order[list(row)].tolist())) for row in count}


@pytest.mark.parametrize("seed", range(5))
def test_projection_equals_counting_pairs(seed):
    sets = random_sets(np.random.default_rng(seed))
    count = Counter((u, v) for row in sets for u in set(row) for v in set(row) if u < v)
    graph = Hypergraph.from_sets(sets, 9).project(weighted=True)
    assert graph.num_nodes == 9
    assert [tuple(edge) for edge in graph.edges.tolist()] == sorted(count)
    assert graph.weight.tolist() == [count[edge] for edge in sorted(count)]
    assert Hypergraph.from_sets(sets, 9).project().weight is None


def test_data_and_back():
    hypergraph = Hypergraph.from_sets([[0, 1, 2], [2, 3], [3], [2, 3]], 5)
    data = hypergraph.to_data(weighted=True).validate()
    back = Hypergraph.from_data(data)
    assert list(back) == list(hypergraph)
    assert back.multiplicity.tolist() == hypergraph.multiplicity.tolist()
    batch = collate([data, Hypergraph.from_sets([[0, 1]], 2).to_data(weighted=True)])
    assert (5, 6) in list(Hypergraph.from_data(batch))
    graph = UndirectedGraph.from_data(data)
    assert graph.edges.tolist() == hypergraph.project().edges.tolist()
    assert graph.weight.tolist() == [1, 1, 1, 2]


def test_reader_merges_and_renumbers(tmp_path):
    file = tmp_path / "sets.txt"
    file.write_text("7 3 7\n\n3,7\n# a comment\n-2\n100 3\n")
    hypergraph = read_hyperedges(file)
    assert hypergraph.labels.tolist() == [-2, 3, 7, 100]
    assert list(hypergraph) == [(0,), (1, 2), (1, 3)]
    assert hypergraph.multiplicity.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 x 4\n", r"sets\.txt, line 2: 'x' is no integer"),
        ("1 2\n3 4.5\n", r"line 2: '4\.5' is no integer"),
        ("\n# nothing\n", "holds no hyperedge"),
    ],
)
def test_malformed_hyperedges_are_named(tmp_path, text, message):
    file = tmp_path / "sets.txt"
    file.write_text(text)
    with pytest.raises((FileFormatError, DataError), match=message):
        read_hyperedges(file)


def test_a_binary_file_is_refused(tmp_path):
    file = tmp_path / "sets.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="is no text file"):
        read_hyperedges(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n2 2\n", r"graph\.txt, line 2: node 2 has an edge to itself"),
        ("1 2 3 4\n", "line 1: 4 numbers; expected 'u v'"),
        ("1 2 -1\n", "line 1: weight -1; expected a count"),
        ("1 2 0\n", "line 1: weight 0; expected a count"),
        ("1 2 3\n1 3\n", "line 2: some lines have a weight"),
        ("1 2 3\n2 1 4\n", "given twice, with weights that differ"),
        ("1 b\n", "line 1: 'b' is no integer"),
    ],
)
def test_malformed_edges_are_named(tmp_path, text, message):
    file = tmp_path / "graph.txt"
    file.write_text(text)
    with pytest.raises((FileFormatError, DataError), match=message):
        read_graph(file)


def test_edge_lists_keep_lonely_nodes(tmp_path):
    file = tmp_path / "graph.txt"
    file.write_text("10 5\n5 10\n7\n")
    graph = read_graph(file)
    assert graph.labels.tolist() == [5, 7, 10]
    assert graph.edges.tolist() == [[0, 2]]
    file.write_text("")
    assert read_graph(file).num_nodes == 0


def test_directed_and_broken_graphs_are_refused():
    nodes = torch.arange(3)
    with pytest.raises(DataError, match="the graph is directed: it has the edge 0→1 but not the way back"):
        UndirectedGraph.from_data(GraphData(node_id=nodes, edge_index=torch.tensor([[0], [1]])))
    with pytest.raises(DataError, match="node 1 has an edge to itself"):
        UndirectedGraph.from_data(GraphData(node_id=nodes, edge_index=torch.tensor([[1], [1]])))
    ends = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(DataError, match=r"has weight -1\.0: a weight is the number of hyperedges"):
        UndirectedGraph.from_data(GraphData(node_id=nodes, edge_index=ends, edge_weight=torch.tensor([-1.0, -1.0])))
    with pytest.raises(DataError, match="names node 5, but there are 3 nodes"):
        UndirectedGraph.from_edges([[0, 5]], 3)


def test_sets_that_are_none_are_refused():
    with pytest.raises(DataError, match="hyperedge 1 is empty"):
        Hypergraph.from_sets([[0], []])
    with pytest.raises(DataError, match="names node 4, but there are 3 nodes"):
        Hypergraph.from_sets([[0, 4]], 3)
    with pytest.raises(DataError, match="multiplicity 0"):
        Hypergraph.from_sets([[0]], multiplicity=[0])


def test_semi_supervised_source(tmp_path):
    file = tmp_path / "sets.txt"
    file.write_text("".join(f"{k} {k + 1} {k + 2}\n" for k in range(40)))
    store = HyperedgeStore([str(file)], fraction=0.1, seed=3)
    known = Hypergraph.from_data(store[0])
    assert len(known) == 4
    assert known.degree.min() == 1
    assert list(known) == list(Hypergraph.from_data(HyperedgeStore(str(file), fraction=0.1, seed=3)[0]))
    assert store.describe(0) == str(file)
    with pytest.raises(DataError, match="fraction 0"):
        read_hyperedges(file).sample(0)


def test_clustering_and_triangles():
    graph = UndirectedGraph.from_edges([[0, 1], [1, 2], [0, 2], [2, 3]], 5)
    assert graph.triangles.tolist() == [1, 1, 1, 0]
    assert graph.clustering.tolist() == pytest.approx([1, 1, 1 / 3, 0, 0])
    assert graph.degree.tolist() == [2, 2, 3, 1, 0]


def test_agreement_by_hand():
    true = Hypergraph.from_sets([[0], [0, 1], [1, 2, 3], [0, 1]], 4)
    found = Hypergraph.from_sets([[0, 1], [2, 3], [0]], 4)
    score = agreement(true, found, found.union(true))
    assert (score.found, score.predicted, score.actual) == (2, 3, 3)
    assert score.jaccard == pytest.approx(2 / 4)
    assert score.multi_jaccard == pytest.approx(2 / 5)
    assert score.f1 == pytest.approx(2 / 3)
    assert score.candidate_recall == 1.0
    with pytest.raises(DataError, match="4 and 5 nodes"):
        agreement(true, Hypergraph.from_sets([[0]], 5))
