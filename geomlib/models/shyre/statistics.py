"""Sums, means, minima and maxima of values at the nodes or pairs of each candidate, without a loop over candidates."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from geomlib.data.hypergraphs import Hypergraph, ragged
from geomlib.data.undirected import Ints, UndirectedGraph

__all__ = ["Floats", "moments", "node_means", "pair_chunks", "pair_weights", "standardised"]

Floats = NDArray[np.float64]

_PAIRS = 3_000_000
"""Pairs of nodes that are gathered at once."""


def node_means(sets: Hypergraph, value: Floats | Ints) -> Floats:
    """Mean of a node's value over each set."""
    return np.add.reduceat(value[sets.nodes].astype(np.float64), sets.ptr[:-1]) / sets.sizes if len(sets) else _none()


def moments(values: Floats, begin: Ints, sizes: Ints) -> Floats:
    """Minimum, maximum, mean and population standard deviation of runs of rows, `[runs, 4]` per column of `values`.

    Args:
        values: `[items]`.
        begin: where each run begins; runs follow one another without gaps.
        sizes: their lengths, at least 1.
    """
    mean = np.add.reduceat(values, begin) / sizes
    spread = np.add.reduceat((values - np.repeat(mean, sizes)) ** 2, begin) / sizes
    return np.stack([np.minimum.reduceat(values, begin), np.maximum.reduceat(values, begin), mean, np.sqrt(spread)], 1)


def pair_chunks(sets: Hypergraph, graph: UndirectedGraph) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Node pairs of the sets of at least 2 nodes, in pieces that fit into memory.

    Yields positions of some sets, the position of each of their pairs among the graph's edges, and where the run of
    each set begins and how long it is.
    """
    for size in np.unique(sets.sizes).tolist():
        if size < 2:
            continue
        first, second = np.triu_indices(size, 1)
        where = np.flatnonzero(sets.sizes == size)
        step = max(1, _PAIRS // len(first))
        for begin in range(0, len(where), step):
            chosen = where[begin : begin + step]
            rows = sets.nodes[ragged(sets.ptr[chosen], sets.sizes[chosen])].reshape(-1, size)
            edges = graph.edge_positions(rows[:, first].reshape(-1), rows[:, second].reshape(-1))
            starts = np.arange(len(chosen)) * len(first)
            yield chosen, edges, starts, np.full(len(chosen), len(first))


def pair_weights(
    sets: Hypergraph, graph: UndirectedGraph, reduce: Callable[[Ints, Ints, Ints], Floats], width: int
) -> Floats:
    """Rows of `width` numbers that `reduce(edges, starts, sizes)` makes of each set's pairs; 0 for single nodes."""
    out = np.zeros((len(sets), width))
    for chosen, edges, starts, sizes in pair_chunks(sets, graph):
        out[chosen] = reduce(edges, starts, sizes)
    return out


def standardised(features: Floats) -> Floats:
    """Each column minus its mean over its population standard deviation (+1e-8), over the candidates of one graph."""
    if len(features) == 0:
        return features
    return (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-8)


def _none() -> Floats:
    return np.zeros(0)
