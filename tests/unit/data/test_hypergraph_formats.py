"""Hypergraphs to other packages and back. Budget: 3 s."""

import json

import networkx as nx
import numpy as np
import pytest
import torch

from geomlib.data.hypergraph_formats import (
    from_bipartite,
    from_hif,
    from_hyperedge_index,
    from_networkx,
    read_hypergraph,
    to_bipartite,
    to_hif,
    to_hyperedge_index,
    write_hypergraph,
)
from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import DataError, FileFormatError


@pytest.fixture
def hypergraph():
    return Hypergraph.from_sets([[0, 1, 2], [2, 3], [2, 3], [4]], 6, labels=np.array([10, 11, 12, 13, 14, 15]))


def same(a, b):
    return list(a) == list(b) and a.multiplicity.tolist() == b.multiplicity.tolist() and a.num_nodes == b.num_nodes


def test_hyperedge_index_feeds_a_convolution(hypergraph):
    from torch_geometric.nn import HypergraphConv

    index = to_hyperedge_index(hypergraph)
    assert index.tolist() == [[0, 1, 2, 2, 3, 4], [0, 0, 0, 1, 1, 2]]
    assert HypergraphConv(3, 2)(torch.ones(6, 3), index).shape == (6, 2)
    assert list(from_hyperedge_index(index, 6)) == list(hypergraph)
    with pytest.raises(DataError, match="expected \\[2, members\\]"):
        from_hyperedge_index(index[0])


def test_hif_and_back(hypergraph):
    values = json.loads(json.dumps(to_hif(hypergraph, [0.5, 0.25, 1.0])))
    assert same(from_hif(values), hypergraph)
    assert from_hif(values).labels.tolist() == hypergraph.labels.tolist()
    assert values["edges"][0]["attrs"] == {"probability": 0.5}
    with pytest.raises(FileFormatError, match="lacks the list 'incidences'"):
        from_hif({"nodes": []})
    with pytest.raises(FileFormatError, match="directed"):
        from_hif({**values, "network-type": "directed"})
    with pytest.raises(FileFormatError, match="is no HIF"):
        from_hif({"incidences": [{"node": 1}]})


def test_xgi_reads_it(hypergraph):
    xgi = pytest.importorskip("xgi", reason="xgi is not installed: pip install 'geomlib[hypergraph]'")
    read = xgi.from_hif_dict(to_hif(hypergraph))
    assert sorted(sorted(row) for row in read.edges.members()) == [[10, 11, 12], [12, 13], [14]]


def test_bipartite_and_back(hypergraph):
    graph = to_bipartite(hypergraph)
    assert nx.is_bipartite(graph)
    assert same(from_bipartite(graph), hypergraph)
    graph.add_edge(10, 11)
    with pytest.raises(DataError, match="stays on one side"):
        from_bipartite(graph)
    with pytest.raises(DataError, match="has no attribute bipartite"):
        from_bipartite(nx.path_graph(2))


def test_networkx_graphs():
    graph = nx.Graph([("b", "a"), ("a", "c")])
    found = from_networkx(graph)
    assert found.labels.tolist() == ["b", "a", "c"]
    assert found.edges.tolist() == [[0, 1], [1, 2]]
    nx.set_edge_attributes(graph, 2, "count")
    assert from_networkx(graph, "count").weight.tolist() == [2, 2]
    with pytest.raises(DataError, match="directed"):
        from_networkx(graph.to_directed())
    graph.add_edge("a", "a")
    with pytest.raises(DataError, match="node a has an edge to itself"):
        from_networkx(graph)
    with pytest.raises(DataError, match="no attribute 'count'"):
        from_networkx(graph, "count")


@pytest.mark.parametrize("name", ["out.txt", "out.json"])
def test_files_and_back(hypergraph, tmp_path, name):
    read = read_hypergraph(write_hypergraph(hypergraph, tmp_path / name, [0.1, 0.2, 0.3]))
    held = hypergraph.compacted() if name.endswith("txt") else hypergraph
    assert same(read, held)
    assert read.labels.tolist() == held.labels.tolist()


def test_table_and_endings(hypergraph, tmp_path):
    file = write_hypergraph(hypergraph, tmp_path / "out.csv", [0.1, 0.2, 0.3])
    assert file.read_text().splitlines()[1:] == ["1,0.100000,10 11 12", "2,0.200000,12 13", "1,0.300000,14"]
    with pytest.raises(FileFormatError, match=r"not '\.xml'"):
        write_hypergraph(hypergraph, tmp_path / "out.xml")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FileFormatError, match="is no JSON"):
        read_hypergraph(tmp_path / "bad.json")
