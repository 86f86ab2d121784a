"""networkx to GraphData and back."""

import networkx as nx
import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.data.networks import from_networkx, to_networkx
from geomlib.errors import DataError


def coloured():
    network = nx.Graph()
    network.add_node("b", colour=2)
    network.add_node("a", colour=0)
    network.add_node("c", colour=1)
    network.add_edge("a", "b", weight=0.5)
    network.add_edge("c", "a", weight=2.0)
    return network


def test_nodes_keep_their_order_and_edges_stand_both_ways():
    graph = from_networkx(
        coloured(),
        {"node_type": "colour"},
        {"edge_weight": "weight"},
        target=torch.tensor([[1.5]], dtype=torch.float64),
    )
    assert graph.node_type.tolist() == [2, 0, 1]
    assert graph.edge_index.tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]]
    assert graph.edge_weight.tolist() == [0.5, 0.5, 2.0, 2.0]
    assert graph.target.tolist() == [[1.5]]


def test_there_and_back_is_the_same():
    graph = from_networkx(coloured(), {"node_type": "colour"}, {"edge_weight": "weight"})
    network = to_networkx(graph)
    assert type(network) is nx.Graph
    assert dict(network.edges) == {(0, 1): {"edge_weight": 0.5}, (1, 2): {"edge_weight": 2.0}}
    assert dict(network.nodes(data="node_type")) == {0: 2, 1: 0, 2: 1}
    again = from_networkx(network, {"node_type": "node_type"}, {"edge_weight": "edge_weight"})
    assert all(torch.equal(again[name], graph[name]) for name in ("node_type", "edge_index", "edge_weight"))


def test_directed_and_parallel_edges_stay_what_they_are():
    directed = from_networkx(nx.DiGraph([(0, 1), (1, 2)]))
    assert directed.edge_index.tolist() == [[0, 1], [1, 2]]
    back = to_networkx(directed)
    assert back.is_directed() and sorted(back.edges()) == [(0, 1), (1, 2)]
    double = from_networkx(nx.MultiGraph([(0, 1), (0, 1)]))
    assert double.edge_index.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert to_networkx(double).number_of_edges() == 4


def test_empty_and_featured_networks():
    lonely = from_networkx(nx.empty_graph(3))
    assert lonely.edge_index.shape == (2, 0) and lonely.node_type.tolist() == [0, 0, 0]
    assert to_networkx(lonely).number_of_nodes() == 3
    network = nx.path_graph(2)
    nx.set_node_attributes(network, {0: [1.0, 2.0], 1: [3.0, 4.0]}, "x")
    assert from_networkx(network, {"node_features": "x"}).node_features.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"node_fields": {"node_type": "color"}}, "node 'b' of the network has no 'color'"),
        ({"edge_fields": {"edge_type": "order"}}, "edge 'a', 'b'|edge 'b', 'a'"),
        ({"node_fields": {"edge_weight": "colour"}}, "'edge_weight' is no field of nodes"),
        ({"node_fields": {"nodetype": "colour"}}, "'nodetype' is no field of nodes"),
    ],
)
def test_what_can_not_be_read_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        from_networkx(coloured(), **arguments)


def test_attributes_that_are_no_numbers_are_refused():
    network = nx.path_graph(2)
    nx.set_node_attributes(network, {0: "red", 1: "green"}, "colour")
    with pytest.raises(DataError, match="does not make 'node_type'"):
        from_networkx(network, {"node_type": "colour"})


def test_back_needs_one_graph_with_edges():
    graph = from_networkx(nx.path_graph(3))
    with pytest.raises(DataError, match="this is a batch"):
        to_networkx(collate([graph, graph]))
    with pytest.raises(DataError, match="needs 'edge_index'"):
        to_networkx(GraphData(node_type=torch.zeros(2, dtype=torch.int64)))
