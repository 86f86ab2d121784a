"""Reconstruct a hypergraph from its projection with a SHyRe model."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray

from geomlib.data.graph import GraphData
from geomlib.data.hypergraph_formats import from_networkx
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph, read_graph
from geomlib.errors import ConfigError, DataError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.models.shyre.consistency import chosen_sets
from geomlib.models.shyre.multiplicity import peel
from geomlib.models.shyre.net import SHyRe, candidate_sets

__all__ = ["Reconstruction", "as_graph", "load_shyre", "reconstruct"]

log = logging.getLogger(__name__)

Graph = UndirectedGraph | GraphData | nx.Graph | str | Path


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruction found.

    Args:
        hypergraph: the hyperedges, with the graph's labels.
        probability: of each hyperedge; 1 for what is known or proven.
        candidates: what was decided on.
        candidate_probability: of each candidate.
        threshold: above which candidates were taken.
        covered: share of the graph's edges inside a hyperedge.
    """

    hypergraph: Hypergraph
    probability: NDArray[np.float64]
    candidates: Hypergraph
    candidate_probability: NDArray[np.float64]
    threshold: float
    covered: float


def as_graph(graph: Graph) -> UndirectedGraph:
    """The edges of a file, a networkx graph or a `GraphData`.

    Raises:
        FileFormatError: a malformed line; the message names file and line.
        DataError: a directed graph, self-loops, or weights that are no counts.
    """
    if isinstance(graph, UndirectedGraph):
        return graph
    if isinstance(graph, str | Path):
        return read_graph(graph)
    if isinstance(graph, nx.Graph):
        return from_networkx(graph)
    return UndirectedGraph.from_data(graph)


def load_shyre(model: str | Path | SHyRe, device: str | None = None) -> SHyRe:
    """A SHyRe net, from its file if need be.

    Raises:
        FileFormatError: not a model file.
        ConfigError: a model of another family.
    """
    net = model if isinstance(model, SHyRe) else bare_net(load(model, device=device))[0]
    if not isinstance(net, SHyRe):
        raise ConfigError(f"{model}: is a {type(net).__name__} model; hyperedges are reconstructed with a SHyRe model")
    return net


def reconstruct(
    model: str | Path | SHyRe,
    graph: Graph,
    threshold: float | None = None,
    cover: bool = False,
    known: Hypergraph | None = None,
    weighted: Literal["ignore", "peel"] = "ignore",
) -> Reconstruction:
    """Hyperedges of a projected graph.

    Args:
        model: SHyRe net or its file.
        graph: edge list (file), networkx graph, `GraphData` or `UndirectedGraph`; nodes without edges stay.
        threshold: take candidates with a larger probability; that of the model if not given.
        cover: add the likeliest candidates until every edge lies in a hyperedge (`consistent_cover`).
        known: hyperedges that are known already, on the same node numbers; they are part of the result.
        weighted: `peel` also takes the hyperedges of size 2 that the edge multiplicities prove (MARIOH's first
            step), with their multiplicity.

    Raises:
        ConfigError: a threshold outside [0, 1).
        DataError: a graph that is no projection, or `known` on other nodes or with edges that the graph lacks.
    """
    net = load_shyre(model)
    network = as_graph(graph)
    limit = float(net.threshold) if threshold is None else threshold
    if not 0 <= limit < 1:
        raise ConfigError(f"threshold {limit}: expected a probability in [0, 1)")
    data = net.spec.build(network.to_data())
    with torch.no_grad():
        found = net(data)
    chance = found["candidate_probability"].double().cpu().numpy()
    sets = candidate_sets(found["candidate_index"], len(chance), network.num_nodes)
    result = sets.take(chosen_sets(network, sets, chance, limit, cover))
    certain = [] if known is None else [_checked(known, network)]
    if weighted == "peel":
        certain.append(peel(network)[0])
    whole = result
    if certain:
        sure = certain[0].union(*certain[1:])
        whole = result.take(~sure.contains(result)).union(sure)
    where = sets.positions(whole)
    probability = np.where(where >= 0, chance[where] if len(chance) else 0.0, 1.0)
    for each in certain:
        probability[each.contains(whole)] = 1.0
    labelled = Hypergraph(whole.num_nodes, whole.ptr, whole.nodes, whole.multiplicity, network.labels)
    inside = len(whole.project().edges) / len(network.edges) if len(network.edges) else 1.0
    log.info("%d hyperedges out of %d candidates on %s", len(whole), len(sets), network)
    return Reconstruction(labelled, probability, sets, chance, limit, inside)


def _checked(known: Hypergraph, graph: UndirectedGraph) -> Hypergraph:
    if known.num_nodes > graph.num_nodes:
        raise DataError(f"the known hyperedges are on {known.num_nodes} nodes, the graph has {graph.num_nodes}")
    whole = Hypergraph(graph.num_nodes, known.ptr, known.nodes, known.multiplicity)
    edges = whole.project().edges
    if len(edges) and not np.isin(edges[:, 0] * graph.num_nodes + edges[:, 1], graph.keys).all():
        raise DataError("a known hyperedge holds two nodes that are no edge of the graph")
    return whole


def match_labels(hypergraph: Hypergraph, graph: UndirectedGraph, where: str = "known hyperedges") -> Hypergraph:
    """The hyperedges of a file on the node numbers of a graph, by the nodes' labels.

    Raises:
        DataError: a node that the graph lacks.
    """
    position: dict[Any, int] = {label: number for number, label in enumerate(_names(graph.labels, graph.num_nodes))}
    names = _names(hypergraph.labels, hypergraph.num_nodes)
    if odd := [name for name in names if name not in position]:
        raise DataError(f"{where}: node {odd[0]} is not in the graph")
    moved = [[position[names[node]] for node in row] for row in hypergraph]
    return Hypergraph.from_sets(moved, graph.num_nodes, hypergraph.multiplicity, graph.labels)


def _names(labels: NDArray[Any] | None, count: int) -> list[Any]:
    return list(range(count)) if labels is None else labels.tolist()
