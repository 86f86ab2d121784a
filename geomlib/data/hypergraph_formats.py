"""Hypergraphs to and from other packages: PyG's `hyperedge_index`, HIF (which XGI reads), networkx, text files."""

import csv
import json
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import DataError, FileFormatError

__all__ = [
    "from_bipartite",
    "from_hif",
    "from_hyperedge_index",
    "from_networkx",
    "read_hypergraph",
    "to_bipartite",
    "to_hif",
    "to_hyperedge_index",
    "write_hypergraph",
]


def to_hyperedge_index(hypergraph: Hypergraph) -> Int[Tensor, "2 members"]:
    """Row 0 nodes, row 1 hyperedges: what `torch_geometric.nn.HypergraphConv` takes."""
    return torch.from_numpy(np.stack([hypergraph.nodes, hypergraph.owner]))


def from_hyperedge_index(index: Int[Tensor, "2 members"], num_nodes: int | None = None) -> Hypergraph:
    """Inverse of `to_hyperedge_index`; hyperedges come in lexicographic order, equal ones merged.

    Raises:
        DataError: not of shape `[2, members]`, or a hyperedge without members.
    """
    if index.dim() != 2 or index.size(0) != 2:
        raise DataError(f"hyperedge_index has shape {list(index.shape)}; expected [2, members]")
    sets: list[list[int]] = [[] for _ in range(int(index[1].max()) + 1 if index.size(1) else 0)]
    for node, edge in index.T.tolist():
        sets[edge].append(node)
    return Hypergraph.from_sets(sets, num_nodes)


def _labels(hypergraph: Hypergraph) -> list[Any]:
    return list(range(hypergraph.num_nodes)) if hypergraph.labels is None else hypergraph.labels.tolist()


def to_hif(hypergraph: Hypergraph, probability: Sequence[float] | None = None) -> dict[str, Any]:
    """The Hypergraph Interchange Format (`xgi.from_hif_dict` and HyperNetX read it), as plain values.

    Multiplicity stands as the hyperedge's weight, a probability among its attributes.
    """
    labels = _labels(hypergraph)
    edges = []
    for position, times in enumerate(hypergraph.multiplicity.tolist()):
        attrs = {} if probability is None else {"probability": round(float(probability[position]), 6)}
        edges.append({"edge": position, "weight": times, "attrs": attrs})
    members = zip(hypergraph.nodes.tolist(), hypergraph.owner.tolist(), strict=True)
    return {
        "network-type": "undirected",
        "nodes": [{"node": label} for label in labels],
        "edges": edges,
        "incidences": [{"edge": edge, "node": labels[node]} for node, edge in members],
    }


def from_hif(values: dict[str, Any], where: str = "HIF") -> Hypergraph:
    """Inverse of `to_hif`.

    Raises:
        FileFormatError: not HIF, or directed.
    """
    if not isinstance(values, dict) or not isinstance(values.get("incidences"), list):
        raise FileFormatError(f"{where}: is no HIF document; it lacks the list 'incidences'")
    if values.get("network-type", "undirected") == "directed":
        raise FileFormatError(f"{where}: is a directed hypergraph; expected an undirected one")
    names: dict[Hashable, int] = {}
    sets: dict[Hashable, list[int]] = {}
    weights: dict[Hashable, int] = {}
    try:
        for row in values.get("nodes", []):
            names.setdefault(row["node"], len(names))
        for row in values.get("edges", []):
            weights[row["edge"]] = int(row.get("weight", 1))
        for row in values["incidences"]:
            sets.setdefault(row["edge"], []).append(names.setdefault(row["node"], len(names)))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{where}: is no HIF document: {error!r}") from None
    times = [weights.get(edge, 1) for edge in sets]
    return Hypergraph.from_sets(sets.values(), len(names), times, _label_array(list(names)))


def _label_array(labels: list[Any]) -> Any:
    if all(isinstance(label, int) for label in labels):
        return np.array(labels, dtype=np.int64)
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def to_bipartite(hypergraph: Hypergraph) -> nx.Graph:
    """A networkx graph of nodes (`bipartite=0`) and hyperedges (`bipartite=1`, named `("hyperedge", k)`)."""
    graph = nx.Graph()
    labels = _labels(hypergraph)
    graph.add_nodes_from(labels, bipartite=0)
    for position, (row, times) in enumerate(zip(hypergraph, hypergraph.multiplicity.tolist(), strict=True)):
        graph.add_node(("hyperedge", position), bipartite=1, multiplicity=times)
        graph.add_edges_from((labels[node], ("hyperedge", position)) for node in row)
    return graph


def from_bipartite(graph: nx.Graph) -> Hypergraph:
    """Inverse of `to_bipartite`: hyperedges are the nodes with `bipartite=1`.

    Raises:
        DataError: a node without the attribute `bipartite`, or an edge within one side.
    """
    side = {}
    for node, values in graph.nodes(data=True):
        if values.get("bipartite") not in (0, 1):
            raise DataError(f"node {node!r} has no attribute bipartite = 0 (node) or 1 (hyperedge)")
        side[node] = values["bipartite"]
    for u, v in graph.edges:
        if side[u] == side[v]:
            raise DataError(f"the edge {u!r}-{v!r} stays on one side: the graph is not bipartite")
    labels = [node for node in graph if side[node] == 0]
    position = {node: number for number, node in enumerate(labels)}
    edges = [node for node in graph if side[node] == 1]
    times = [int(graph.nodes[edge].get("multiplicity", 1)) for edge in edges]
    sets = [[position[node] for node in graph[edge]] for edge in edges]
    return Hypergraph.from_sets(sets, len(labels), times, _label_array(labels))


def from_networkx(graph: nx.Graph, weight: str | None = None) -> UndirectedGraph:
    """The edges of an undirected networkx graph; nodes are numbered in its order, `labels` keeps their names.

    Args:
        graph: simple, without self-loops.
        weight: edge attribute with the number of hyperedges that hold both ends.

    Raises:
        DataError: it is directed, has self-loops, or weights that are no counts.
    """
    if graph.is_directed():
        raise DataError(
            "the graph is directed; hyperedges are reconstructed from undirected ones: graph.to_undirected()"
        )
    position = {node: number for number, node in enumerate(graph)}
    edges = [(position[u], position[v]) for u, v in graph.edges()]
    weights = None
    if weight is not None:
        rows = [values.get(weight) for _, _, values in graph.edges(data=True)]
        if None in rows:
            raise DataError(f"some edges have no attribute '{weight}'")
        weights = np.array(rows)
    return UndirectedGraph.from_edges(
        np.array(edges, dtype=np.int64), len(position), weights, _label_array(list(graph))
    )


def write_hypergraph(
    hypergraph: Hypergraph, path: str | os.PathLike[str], probability: Sequence[float] | None = None
) -> Path:
    """Write a hypergraph under its nodes' own names.

    The ending says how: `.txt` one hyperedge a line (repeated by multiplicity), `.csv` columns multiplicity,
    probability, nodes; `.json` HIF.

    Raises:
        FileFormatError: another ending.
    """
    file = Path(path)
    labels = _labels(hypergraph)
    rows = [" ".join(str(labels[node]) for node in row) for row in hypergraph]
    times = hypergraph.multiplicity.tolist()
    if file.suffix == ".json":
        file.write_text(json.dumps(to_hif(hypergraph, probability)) + "\n", encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(["multiplicity", "probability", "nodes"])
            chances = [""] * len(rows) if probability is None else [f"{float(p):.6f}" for p in probability]
            table.writerows(zip(times, chances, rows, strict=True))
    elif file.suffix in (".txt", ""):
        lines = [row for row, count in zip(rows, times, strict=True) for _ in range(count)]
        file.write_text("".join(f"{row}\n" for row in lines), encoding="utf-8")
    else:
        raise FileFormatError(f"{file}: hypergraphs are written as .txt, .csv or .json (HIF), not '{file.suffix}'")
    return file


def read_hypergraph(path: str | os.PathLike[str]) -> Hypergraph:
    """Read a list of hyperedges, or HIF if the name ends in `.json`.

    Raises:
        FileFormatError: a malformed file; the message names file and line.
        DataError: no hyperedge in it.
    """
    file = Path(path)
    if file.suffix != ".json":
        return read_hyperedges(file)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{file}: is no JSON: {error}") from None
    return from_hif(values, str(file))
