"""Graphs of networkx to `GraphData` and back."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
import torch
from torch import Tensor

from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData
from geomlib.errors import DataError

__all__ = ["from_networkx", "to_networkx"]


def from_networkx(
    network: nx.Graph,
    node_fields: dict[str, str] | None = None,
    edge_fields: dict[str, str] | None = None,
    **fields: Tensor,
) -> GraphData:
    """Graph of a network: nodes in its order, each edge of an undirected one in both directions.

        from_networkx(network, node_fields={"node_type": "colour"}, edge_fields={"edge_weight": "weight"})

    Args:
        network: edges of a directed one are taken as they are; parallel ones are kept.
        node_fields: node-level field → attribute of the network's nodes that it is read from.
        edge_fields: edge-level field → attribute of the network's edges.
        **fields: other fields of the graph, e.g. `target`.

    Returns:
        A graph with `edge_index`, sorted by the node that an edge leads to, and `node_type`, zeros if not read.

    Raises:
        DataError: an attribute that a node or edge lacks, or that is no number, or a field of another level.
    """
    place = {node: position for position, node in enumerate(network)}
    rows: list[tuple[int, int, dict[str, Any], str]] = []
    for source, target, values in network.edges(data=True):
        what = f"edge {source!r}, {target!r}"
        rows.append((place[source], place[target], values, what))
        if not network.is_directed() and source != target:
            rows.append((place[target], place[source], values, what))
    rows.sort(key=lambda row: (row[1], row[0]))
    graph = GraphData(
        edge_index=torch.tensor([(row[0], row[1]) for row in rows], dtype=torch.int64).reshape(-1, 2).T.contiguous()
    )
    for name, attribute in (node_fields or {}).items():
        found = [(values, f"node {node!r}") for node, values in network.nodes(data=True)]
        graph[name] = _read(name, "node", attribute, found)
    if "node_type" not in graph:
        graph.node_type = torch.zeros(len(network), dtype=torch.int64)
    for name, attribute in (edge_fields or {}).items():
        graph[name] = _read(name, "edge", attribute, [(row[2], row[3]) for row in rows])
    for name, value in fields.items():
        graph[name] = value
    return graph.validate(where="networkx graph")


def _read(name: str, level: str, attribute: str, items: Sequence[tuple[dict[str, Any], str]]) -> Tensor:
    row = FIELDS.get(name)
    if row is None or row.level != level or row.is_index:
        known = sorted(key for key, field in FIELDS.items() if field.level == level and not field.is_index)
        raise DataError(f"'{name}' is no field of {level}s that could be read from '{attribute}'; there are {known}")
    for values, what in items:
        if attribute not in values:
            raise DataError(f"{what} of the network has no '{attribute}', which '{name}' is to be read from")
    try:
        value = torch.tensor([values[attribute] for values, _ in items], dtype=row.torch_dtype())
    except (TypeError, ValueError) as error:
        raise DataError(f"'{attribute}' of the network's {level}s does not make '{name}': {error}") from None
    return value.reshape(len(items), *[1 if size is None else size for size in row.shape]) if not len(items) else value


def to_networkx(graph: GraphData) -> nx.Graph:
    """Network of one graph, with the fields of nodes and edges as attributes of the same names.

    Args:
        graph: with `edge_index`; no batch.

    Returns:
        A `Graph` if every edge has an opposite one with equal fields and none is parallel or a loop's double;
        else a `MultiDiGraph`.

    Raises:
        DataError: a batch, or a graph without edges' positions.
    """
    if graph.num_graphs != 1:
        raise DataError("to_networkx takes one graph, this is a batch: use batch.to_data_list()")
    if "edge_index" not in graph:
        raise DataError("to_networkx needs 'edge_index': build the edges by net.spec.build first")
    values = {name: graph[name] for name in graph.keys() if name in FIELDS and not FIELDS[name].is_index}  # noqa: SIM118
    nodes = {name: value.tolist() for name, value in values.items() if FIELDS[name].level == "node"}
    edges = {name: value.tolist() for name, value in values.items() if FIELDS[name].level == "edge"}
    pairs = [tuple(pair) for pair in graph.edge_index.T.tolist()]
    of_edge = [{name: column[at] for name, column in edges.items()} for at in range(len(pairs))]
    by_pair = dict(zip(pairs, of_edge, strict=True))
    simple = len(by_pair) == len(pairs)
    mutual = all(by_pair.get(pair[::-1]) == fields for pair, fields in by_pair.items())
    network: nx.Graph = nx.Graph() if simple and mutual else nx.MultiDiGraph()
    for at in range(graph.num_nodes):
        network.add_node(at, **{name: column[at] for name, column in nodes.items()})
    for pair, fields in zip(pairs, of_edge, strict=True):
        network.add_edge(*pair, **fields)
    return network
