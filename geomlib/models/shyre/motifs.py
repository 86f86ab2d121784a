"""The 54 motif features of a candidate: how the maximal cliques around its nodes and pairs overlap."""

import numpy as np
from scipy import sparse

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import Ints, UndirectedGraph
from geomlib.memory import require_memory
from geomlib.models.shyre.counts import edge_cliques
from geomlib.models.shyre.statistics import Floats, moments, node_means, pair_chunks, pair_weights

__all__ = ["MOTIF_COLUMNS", "anova_f", "edge_motifs", "motif_features", "node_motifs", "selected_columns"]

MOTIF_COLUMNS = (
    "size",
    "mean_degree",
    *(f"m{motif}_{statistic}" for motif in range(1, 14) for statistic in ("min", "max", "mean", "std")),
)
"""Names of the columns, in order."""

_KEPT, _BEST = 9, 10

_DENSE_VALUES = 200_000_000
"""Largest table of cliques by nodes that is written out."""


def _overlaps(cliques: Hypergraph, edges: Ints, needed: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The five sums that all motifs follow from; see `edge_motifs`.

    Node by node, from the dense table of overlaps between the maximal cliques with that node.
    """
    nodes = cliques.num_nodes
    incidence = cliques.incidence.astype(np.float32)
    holders = incidence.T.tocsr()
    single = np.zeros(nodes, dtype=np.int64)
    crossing = np.zeros((len(edges), 2), dtype=np.int64)
    twice = np.zeros(len(edges), dtype=np.int64)
    ends = np.concatenate([edges, edges[:, ::-1]])
    label = np.concatenate([np.arange(len(edges))] * 2)
    side = np.repeat([0, 1], len(edges))
    order = np.lexsort((ends[:, 1], ends[:, 0]))
    ends, label, side = ends[order], label[order], side[order]
    first = np.searchsorted(ends[:, 0], np.arange(nodes + 1))
    member = np.zeros(nodes, dtype=np.int64)
    for node in needed.tolist():
        around = holders.indices[holders.indptr[node] : holders.indptr[node + 1]]
        require_memory(9 * len(around) ** 2, f"overlaps of the {len(around):,} maximal cliques at a node")
        rows = incidence[around]
        columns = np.unique(rows.indices)
        member[columns] = np.arange(len(columns))
        dense = np.zeros((len(around), len(columns)), dtype=np.float32)
        dense[np.repeat(np.arange(len(around)), np.diff(rows.indptr)), member[rows.indices]] = 1.0
        overlap = dense @ dense.T
        np.fill_diagonal(overlap, 0.0)
        alone = overlap == 1.0
        count = alone.sum(axis=1)
        single[node] = int(count.sum()) // 2
        span = slice(first[node], first[node + 1])
        if span.start == span.stop:
            continue
        masks = dense[:, member[ends[span, 1]]]  # [cliques around, neighbours]
        crossing[label[span], side[span]] = np.rint(count @ masks).astype(np.int64)
        forward = span.start + np.flatnonzero(side[span] == 0)
        if len(forward):
            masks = masks[:, forward - span.start]
            pairs = np.einsum("ij,ij->j", masks, (overlap == 2.0).astype(np.float32) @ masks, dtype=np.float64)
            twice[label[forward]] = np.rint(pairs / 2).astype(np.int64)
    return single, crossing[:, 0], crossing[:, 1], twice, _touching(cliques, edges)


def _touching(cliques: Hypergraph, edges: Ints) -> Ints:
    """For each edge (a, b) the number of pairs (clique with a, clique with b) that share a node or are the same."""
    found = np.zeros(len(edges), dtype=np.int64)
    if len(edges) == 0:
        return found
    incidence = cliques.incidence
    ends = np.zeros(cliques.num_nodes, dtype=bool)
    ends[edges[:, 0]] = True
    starting = np.flatnonzero(np.logical_or.reduceat(ends[cliques.nodes], cliques.ptr[:-1]))
    work = int((cliques.degree**2).sum())
    dense = len(cliques) ** 2 < 4 * work
    step = max(1, 30_000_000 // max(len(cliques), 1)) if dense else max(1, 20_000_000 * len(cliques) // max(work, 1))
    transposed = incidence.T.tocsr()
    fits = len(cliques) * cliques.num_nodes < _DENSE_VALUES
    floats = incidence.astype(np.float32).toarray() if dense and fits else None
    dense = floats is not None
    for begin in range(0, len(starting), step):
        part = incidence[starting[begin : begin + step]]
        if floats is not None:
            near = ((floats[starting[begin : begin + step]] @ floats.T) > 0).astype(np.float32)
            reach = near @ floats  # [part, nodes]: how many cliques with the node touch each clique of the part
            table = np.asarray(part.T @ reach.astype(np.float64))
            found += table[edges[:, 0], edges[:, 1]].astype(np.int64)
            continue
        near = (part @ transposed).astype(bool).astype(np.int32)
        reach = (near @ incidence).tocsr()
        table = (part.T.tocsr().astype(np.int64) @ reach.astype(np.int64)).tocsr()
        found += _entries(table, edges)
    return found


def _entries(matrix: sparse.csr_matrix, where: Ints) -> Ints:
    """Values of a sparse matrix at pairs of row and column."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keys = rows * matrix.shape[1] + matrix.indices
    wanted = where[:, 0] * matrix.shape[1] + where[:, 1]
    if len(keys) == 0:
        return np.zeros(len(where), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, matrix.data[at], 0).astype(np.int64)


def node_motifs(cliques: Hypergraph, single: Ints) -> Floats:
    """m1 … m3 of every node, `[nodes, 3]`: cliques with it, pairs of them that meet only there, other pairs."""
    total = cliques.degree * (cliques.degree - 1) // 2
    return np.stack([cliques.degree, single, total - single], axis=1).astype(np.float64)


def edge_motifs(cliques: Hypergraph, edges: Ints, shared: Ints, parts: tuple[Ints, Ints, Ints, Ints, Ints]) -> Floats:
    """m4 … m13 of edges {a, b}, `[edges, 10]`.

    Cliques around the pair are of type A (only a), B (only b) or AB; a pair of them is X if it shares a node other
    than a and b. The columns count AB; A or B; {A, B} not X; {A, A} or {B, B} not X; {A, B} X; {AB, A or B} not X;
    {A, A} or {B, B} X; {AB, AB} not X; {AB, A or B} X; {AB, AB} X.

    They follow from five sums: of each node the pairs of its cliques that meet only there; of each edge and end the
    pairs (AB, A) that meet only there; the pairs (AB, AB) that meet only in a and b; and the pairs of a clique with a
    and one with b that touch.
    """
    single, cross_a, cross_b, twice, touching = parts
    a, b = edges.T
    at_a, at_b = cliques.degree[a], cliques.degree[b]
    only_a, only_b = at_a - shared, at_b - shared
    both = shared * (shared - 1) // 2
    apart = only_a * only_b - (touching - shared * (at_a + at_b) + shared**2)
    alike = single[a] + single[b] - cross_a - cross_b
    alike_x = only_a * (only_a - 1) // 2 + only_b * (only_b - 1) // 2 - alike
    mixed = cross_a + cross_b
    columns = [
        shared,
        only_a + only_b,
        apart,
        alike,
        only_a * only_b - apart,
        mixed,
        alike_x,
        twice,
        shared * (only_a + only_b) - mixed,
        both - twice,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def motif_features(graph: UndirectedGraph, cliques: Hypergraph, sets: Hypergraph) -> Floats:
    """Motif features of each set, `[sets, 54]`; see `MOTIF_COLUMNS`.

    Size, mean degree, then for each of 13 motifs minimum, maximum, mean and population standard deviation over the
    nodes (m1 to m3) or node pairs (m4 to m13; 0 for a single node), all in float64. Only edges inside the sets cost.

    Args:
        graph: projected graph.
        cliques: its maximal cliques.
        sets: cliques of the graph, e.g. candidates.

    Source: Wang, Kleinberg, arXiv 2401.08519, §4.
    """
    shared = edge_cliques(graph, cliques)
    inside = np.zeros(len(graph.edges), dtype=bool)
    for _, edges, _, _ in pair_chunks(sets, graph):
        inside[edges] = True
    needed = np.flatnonzero(inside)
    parts = _overlaps(cliques, graph.edges[needed], np.unique(sets.nodes))
    at_node = node_motifs(cliques, parts[0])
    at_edge = np.zeros((len(graph.edges), 10))
    at_edge[needed] = edge_motifs(cliques, graph.edges[needed], shared[needed], parts)
    out = np.zeros((len(sets), len(MOTIF_COLUMNS)))
    if len(sets) == 0:
        return out
    out[:, 0] = sets.sizes
    out[:, 1] = node_means(sets, graph.degree)
    for motif in range(3):
        out[:, 2 + 4 * motif : 6 + 4 * motif] = moments(at_node[sets.nodes, motif], sets.ptr[:-1], sets.sizes)

    def reduce(edges: Ints, starts: Ints, sizes: Ints) -> Floats:
        return np.concatenate([moments(at_edge[edges, motif], starts, sizes) for motif in range(10)], axis=1)

    out[:, 14:] = pair_weights(sets, graph, reduce, 40)
    return out


def anova_f(features: Floats, label: Ints) -> Floats:
    """F of a one-way analysis of variance of each column between label 0 and 1; NaN for a constant column."""
    groups = [features[label == value] for value in (0, 1)]
    counts = np.array([len(group) for group in groups])
    if counts.min() == 0:
        return np.full(features.shape[1], np.nan)
    mean = features.mean(axis=0)
    between = sum(len(group) * (group.mean(axis=0) - mean) ** 2 for group in groups)
    within = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = between / (within / (len(features) - 2))
    return np.where(np.ptp(features, axis=0) == 0, np.nan, score)


def selected_columns(features: Floats, label: Ints) -> Ints:
    """The 19 of the 54 columns that the published system keeps: the first 9 and the 10 best others by ANOVA F."""
    score = anova_f(features, label)[_KEPT:]
    best = np.argsort(np.where(np.isnan(score), -np.inf, score), kind="stable")[::-1][:_BEST]
    return np.concatenate([np.arange(_KEPT), np.sort(best + _KEPT)])
