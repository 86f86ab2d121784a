"""What edge multiplicities prove: hyperedges of size 2 that no larger hyperedge can explain."""

import numpy as np

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.errors import DataError

__all__ = ["peel", "triangle_bound"]


def triangle_bound(graph: UndirectedGraph) -> Ints:
    """MHH(u, v) = Σ over common neighbours z of min(ω(u, z), ω(v, z)), of each edge.

    It bounds the number of hyperedges of size 3 or more, counted with repetition, that hold u and v.

    Raises:
        DataError: the graph has no multiplicities.

    Source: Lee, Lee, Shin, MARIOH, arXiv 2504.00522.
    """
    if graph.weight is None:
        raise DataError("the graph carries no multiplicities (ω): project(weighted=True), or give 'u v weight' lines")
    weighted = graph.adjacency.copy()
    ends = np.concatenate([graph.edges, graph.edges[:, ::-1]])
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    weighted.data = np.concatenate([graph.weight] * 2)[order]
    bound = np.zeros(len(graph.edges), dtype=np.int64)
    for begin in range(0, len(graph.edges), 100_000):
        u, v = graph.edges[begin : begin + 100_000].T
        bound[begin : begin + 100_000] = weighted[u].minimum(weighted[v]).sum(axis=1).A1
    return bound


def peel(graph: UndirectedGraph) -> tuple[Hypergraph, UndirectedGraph]:
    """Take off the hyperedges of size 2 that ω(u, v) > MHH(u, v) proves, each ω − MHH times.

    One pass is enough: with ω ← min(ω, MHH) nothing more can be proven.

    Returns: the proven hyperedges with multiplicities, and what is left of the graph.
    """
    bound = triangle_bound(graph)
    assert graph.weight is not None
    extra = graph.weight - bound
    proven = extra > 0
    pairs = graph.edges[proven]
    ptr = np.arange(0, 2 * len(pairs) + 1, 2)
    left = np.minimum(graph.weight, bound)
    kept = left > 0
    found = Hypergraph(graph.num_nodes, ptr, pairs.reshape(-1), extra[proven], graph.labels)
    return found, UndirectedGraph(graph.num_nodes, graph.edges[kept], left[kept], graph.labels)
