"""Reconstruction from files, graphs and the command line. Budget: 6 s."""

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import geomlib
from geomlib.apply.reconstruct import as_graph, match_labels, reconstruct
from geomlib.cli import main
from geomlib.data.hypergraph_formats import read_hypergraph
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError, DataError
from geomlib.models.shyre.consistency import consistent_cover
from geomlib.models.shyre.net import SHyRe
from geomlib.testing import ToyPotential
from geomlib.testing.hypergraphs import coauthors


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    made = SHyRe("count+structure", budget=300, hidden=[8], members=2, covers=2)
    made.fit_statistics([coauthors(120, seed=1).to_data()])
    made.threshold.fill_(0.45)
    return made.eval().requires_grad_(False)


@pytest.fixture
def files(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    geomlib.save(net, "model.safetensors")
    true = coauthors(80, seed=2)
    graph = true.project()
    lines = [f"{100 + u} {100 + v}" for u, v in graph.edges.tolist()]
    lines += [str(100 + node) for node in np.flatnonzero(graph.degree == 0).tolist()]
    (tmp_path / "graph.txt").write_text("\n".join(lines) + "\n")
    sets = [" ".join(str(100 + node) for node in row) for row in true]
    (tmp_path / "truth.txt").write_text("\n".join(sets) + "\n")
    return true


def test_result_is_what_lies_above_the_threshold(net):
    true = coauthors(80, seed=2)
    found = reconstruct(net, true.project())
    chosen = found.candidates.take(found.candidate_probability > 0.45)
    assert list(found.hypergraph) == list(chosen)
    assert found.probability.min() > 0.45
    assert found.threshold == pytest.approx(0.45)
    everything = reconstruct(net, true.project(), threshold=0.0)
    assert list(everything.hypergraph) == list(everything.candidates)
    assert everything.covered == 1.0


def test_inputs_of_any_kind_give_the_same(net, files):
    graph = files.project()
    whole = nx.Graph()
    whole.add_nodes_from(range(graph.num_nodes))
    whole.add_edges_from(graph.edges.tolist())
    results = [list(reconstruct(net, each).hypergraph) for each in (graph, graph.to_data(), whole, "graph.txt")]
    assert all(each == results[0] for each in results)
    assert reconstruct("model.safetensors", graph).hypergraph.num_nodes == graph.num_nodes


def test_cover_makes_the_projection_the_graph_again(net):
    graph = coauthors(80, seed=3).project()
    plain, covered = reconstruct(net, graph, threshold=0.6), reconstruct(net, graph, threshold=0.6, cover=True)
    assert plain.covered < 1.0
    assert covered.covered == 1.0
    assert covered.hypergraph.project().edges.tolist() == graph.edges.tolist()
    assert set(plain.hypergraph) <= set(covered.hypergraph)


def test_cover_takes_the_likelier_sets_and_drops_what_is_superfluous():
    graph = UndirectedGraph.from_edges([[0, 1], [0, 2], [1, 2]], 3)
    sets = Hypergraph.from_sets([[0, 1], [0, 1, 2], [0, 2], [1, 2]], 3)
    pairs = consistent_cover(graph, sets, np.array([0.45, 0.01, 0.45, 0.45]))
    assert pairs.tolist() == [True, False, True, True]
    triangle = consistent_cover(graph, sets, np.array([0.3, 0.45, 0.3, 0.3]))
    assert triangle.tolist() == [False, True, False, False]
    assert consistent_cover(graph, sets, np.array([0.9, 0.9, 0.1, 0.1])).tolist() == [True, True, False, False]


def test_known_and_proven_hyperedges(net):
    true = coauthors(80, seed=2)
    known = true.take(np.arange(0, len(true), 3))
    found = reconstruct(net, true.project(), known=known)
    assert set(known) <= set(found.hypergraph)
    assert found.probability[known.contains(found.hypergraph)].min() == 1.0
    weighted = Hypergraph.from_sets([[0, 1], [0, 1], [0, 1, 2]], 3)
    peeled = reconstruct(net, weighted.project(weighted=True), threshold=0.99, weighted="peel")
    assert dict(zip(peeled.hypergraph, peeled.hypergraph.multiplicity.tolist(), strict=True))[0, 1] == 2
    with pytest.raises(DataError, match="two nodes that are no edge"):
        reconstruct(net, UndirectedGraph.from_edges([[0, 1]], 3), known=Hypergraph.from_sets([[0, 2]], 3))
    with pytest.raises(DataError, match="carries no multiplicities"):
        reconstruct(net, true.project(), weighted="peel")
    with pytest.raises(ConfigError, match="threshold 1"):
        reconstruct(net, true.project(), threshold=1)


@pytest.mark.parametrize("edges", [[], [[0, 1]], [[0, 1], [2, 3]]], ids=["none", "one", "disconnected"])
def test_small_graphs(net, edges):
    found = reconstruct(net, UndirectedGraph.from_edges(np.array(edges, dtype=np.int64), 4), threshold=0.0, cover=True)
    assert found.covered == 1.0
    assert reconstruct(net, UndirectedGraph.from_edges([], 0)).hypergraph.num_nodes == 0


def test_command(files, capsys):
    assert main(["reconstruct", "model.safetensors", "graph.txt", "out.csv", "--truth", "truth.txt", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["edges"] == len(files.project().edges)
    assert 0 < values["agreement"]["jaccard"] < 1
    assert values["hyperedges"] == len(Path("out.csv").read_text().splitlines()) - 1
    words = ["reconstruct", "model.safetensors", "graph.txt", "out.json", "--cover", "--known", "truth.txt"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "covered     100.0 % of the edges" in out
    truth = match_labels(read_hypergraph("truth.txt"), as_graph("graph.txt"))
    assert truth.contains(match_labels(read_hypergraph("out.json"), as_graph("graph.txt"))).sum() == len(truth)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.safetensors", "loop.txt", "out.txt"], "loop.txt, line 1: node 1 has an edge to itself"),
        (["model.safetensors", "graph.txt", "out.xml"], "out.xml: hypergraphs are written as .txt"),
        (["toy.safetensors", "graph.txt", "out.txt"], "is a ToyPotential model"),
        (["model.safetensors", "none.txt", "out.txt"], "none.txt: No such file"),
        (["model.safetensors", "graph.txt", "out.txt", "--truth", "odd.txt"], "odd.txt: node 7 is not in the graph"),
    ],
)
def test_errors_are_one_line(files, capsys, monkeypatch, words, message, tmp_path):
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    geomlib.save(ToyPotential(["H"]), "toy.safetensors")
    (tmp_path / "loop.txt").write_text("1 1\n")
    (tmp_path / "odd.txt").write_text("7 8\n")
    assert main(["reconstruct", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
