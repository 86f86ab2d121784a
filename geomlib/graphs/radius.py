"""Neighbours within a cutoff, in open, periodic and partly periodic structures.

One structure on the CPU goes through vesin; a batch, or anything on another device, through torch alone (dense over
images where that is small, binned otherwise). All give the same set of edges: full list, strictly shorter than the
cutoff, no atom paired with itself in its own cell, periodic self-images kept, sorted by centre. Atoms may lie outside
the cell; they are wrapped for the search only and the shifts account for it.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from vesin import NeighborList

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.builder import Builder
from geomlib.memory import require_memory

__all__ = ["RadiusEdges", "batched_neighbor_list", "complete_cell", "nearest_edges", "neighbor_list"]

_BYTES_PER_EDGE = 200
"""Indices, shift, vector, length and the sorting of them."""

_DENSE_CANDIDATES = 4_000_000
"""Below this many candidate pairs the dense search is faster than binning."""


_VESIN_BINS = 500
"""With more bins than this along open directions beside periodic ones, vesin's time grows with their square."""


def complete_cell(cell: Float[Tensor, "graphs 3 3"], pbc: Bool[Tensor, "graphs 3"]) -> Float[Tensor, "graphs 3 3"]:
    """Replace the vectors of open directions by unit vectors perpendicular to the periodic ones.

    Open directions never get a shift, so any basis does; this one is never singular, whatever the file said.

    Raises:
        DataError: the periodic vectors of a graph are zero or linearly dependent.
    """
    completed = cell.clone()
    open_axes = ~pbc
    for index in open_axes.any(1).nonzero().squeeze(1).tolist():
        rows = completed[index]
        periodic = rows[pbc[index]]
        # the last right-singular vectors span what the periodic rows leave open
        basis = (
            torch.linalg.svd(periodic, full_matrices=True).Vh[len(periodic) :]
            if len(periodic)
            else torch.eye(3).to(cell)
        )
        rows[open_axes[index]] = basis
    lengths = completed.norm(dim=2).clamp_min(1e-300)
    unit_volume = torch.linalg.det(completed).abs() / lengths.prod(1)
    if bool((unit_volume < 1e-6).any()) or not bool(torch.isfinite(completed).all()):
        bad = int((~(unit_volume >= 1e-6)).nonzero()[0])
        raise DataError(
            f"graph {bad}: the periodic cell vectors {cell[bad].tolist()} (pbc {pbc[bad].tolist()}) span no volume; "
            "set pbc to false along directions without a lattice vector"
        )
    return completed


def _images(cell: Tensor, pbc: Tensor, cutoff: float) -> Tensor:
    """Number of images on each side of the cell that the cutoff can reach, `[graphs, 3]`."""
    heights = 1.0 / torch.linalg.inv(cell).norm(dim=1)
    return torch.where(pbc, torch.ceil(cutoff / heights), torch.zeros_like(heights)).to(torch.int64)


def _check_cutoff(cutoff: float) -> None:
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise DataError(f"cutoff is {cutoff} Å; expected a positive, finite length")


def neighbor_list(
    pos: Float[Tensor, "nodes 3"], cell: Float[Tensor, "3 3"], pbc: Bool[Tensor, " 3"], cutoff: float
) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
    """Edges of one structure on the CPU, by vesin.

    Args:
        pos: positions [Å].
        cell: lattice vectors as rows [Å]; rows of open directions are ignored.
        pbc: periodic directions.
        cutoff: radius [Å].

    Returns:
        `edge_index` (row 0 neighbour j, row 1 centre i, sorted by i) and integer shifts in the precision of `pos`.

    Raises:
        DataError: the cell spans no volume, or the edges would not fit in memory.
    """
    _check_cutoff(cutoff)
    nodes = len(pos)
    if nodes == 0:
        return torch.zeros(2, 0, dtype=torch.int64), pos.new_zeros(0, 3)
    box = complete_cell(cell.double().unsqueeze(0), pbc.unsqueeze(0))
    images = int((2 * _images(box, pbc.unsqueeze(0), cutoff) + 1).prod())
    expected = nodes * nodes * images
    if bool(pbc.all()):
        density = nodes / float(torch.linalg.det(box[0]).abs())
        expected = min(expected, int(nodes * density * 4.19 * cutoff**3) + nodes)
    require_memory(expected * _BYTES_PER_EDGE, f"cutoff {cutoff} Å: a neighbour list of about {expected:,} edges")
    if expected <= _DENSE_CANDIDATES and _is_spread_out(pos, box[0], pbc, cutoff):
        node_graph = torch.zeros(nodes, dtype=torch.int64)
        return batched_neighbor_list(pos, cell.unsqueeze(0), pbc.unsqueeze(0), node_graph, cutoff)
    periodic = pbc.tolist()
    search = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    center, neighbor, shift = search.compute(
        points=pos.detach().double().numpy(),
        box=box[0].numpy(),
        periodic=periodic,
        quantities="ijS",
        copy=True,
    )
    edge_index = torch.from_numpy(np.stack([neighbor, center]).astype(np.int64))
    return edge_index, torch.from_numpy(shift.astype(np.float64)).to(pos.dtype)


def _is_spread_out(pos: Tensor, box: Tensor, pbc: Tensor, cutoff: float) -> bool:
    """Whether atoms are far apart along the open directions of a slab or wire, where vesin takes minutes."""
    if bool(pbc.all()) or not bool(pbc.any()):
        return False
    along = pos.detach().double() @ box[~pbc].T  # rows of open directions are orthonormal
    span = along.max(0).values - along.min(0).values
    return bool((span / cutoff + 1.0).prod() > _VESIN_BINS)


def batched_neighbor_list(
    pos: Float[Tensor, "nodes 3"],
    cell: Float[Tensor, "graphs 3 3"],
    pbc: Bool[Tensor, "graphs 3"],
    node_graph: Int[Tensor, " nodes"],
    cutoff: float,
) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
    """Edges of all structures of a batch, by torch alone, on the device of `pos`.

    Args:
        pos: positions of all nodes [Å].
        cell: lattice vectors of each graph [Å].
        pbc: periodic directions of each graph.
        node_graph: graph of each node, ascending.
        cutoff: radius [Å].

    Returns:
        As `neighbor_list`.

    Raises:
        DataError: a cell spans no volume, or the candidates would not fit in memory.
    """
    _check_cutoff(cutoff)
    points = pos.detach().double()
    box = complete_cell(cell.detach().double(), pbc)
    fractional = torch.einsum("nc,ncd->nd", points, torch.linalg.inv(box)[node_graph])
    wrap = torch.where(pbc[node_graph], fractional.floor(), torch.zeros_like(fractional))
    wrapped = points - torch.einsum("nc,ncd->nd", wrap, box[node_graph])
    images = _images(box, pbc, cutoff)
    sizes = torch.bincount(node_graph, minlength=len(box))
    candidates = int((sizes * sizes * (2 * images + 1).prod(1)).sum())
    search = _dense_pairs if candidates <= _DENSE_CANDIDATES else _binned_pairs
    center, neighbor, shift = search(wrapped, box, images, node_graph, sizes, cutoff)
    shift = shift - wrap[neighbor] + wrap[center]
    order = torch.argsort(center, stable=True)
    return torch.stack([neighbor[order], center[order]]), shift[order].to(pos.dtype)


def _enumerate(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For each entry of `counts`, that many rows: which entry a row belongs to, and its number within it."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - first[owner]


def _all_shifts(images: Tensor) -> tuple[Tensor, Tensor]:
    """Every integer shift within `images` of each graph: `(graph, shift)`."""
    spans = 2 * images + 1
    graph, number = _enumerate(spans.prod(1))
    a, b = spans[graph, 1] * spans[graph, 2], spans[graph, 2]
    digits = torch.stack([number // a, (number % a) // b, number % b], dim=1)
    return graph, (digits - images[graph]).double()


def _dense_pairs(
    wrapped: Tensor, box: Tensor, images: Tensor, node_graph: Tensor, sizes: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs × all images; for small structures."""
    first = sizes.cumsum(0) - sizes
    center, rank = _enumerate(sizes[node_graph])
    neighbor = first[node_graph[center]] + rank
    shift_graph, shifts = _all_shifts(images)
    per_graph = torch.bincount(shift_graph, minlength=len(sizes))
    shift_first = per_graph.cumsum(0) - per_graph
    pair_graph = node_graph[center]
    pair, number = _enumerate(per_graph[pair_graph])
    shift = shifts[shift_first[pair_graph[pair]] + number]
    return _within(wrapped, box, node_graph, center[pair], neighbor[pair], shift, cutoff)


def _within(
    wrapped: Tensor,
    box: Tensor,
    node_graph: Tensor,
    center: Tensor,
    neighbor: Tensor,
    shift: Tensor,
    cutoff: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the candidates that are strictly shorter than the cutoff and not an atom paired with itself."""
    vector = wrapped[neighbor] - wrapped[center] + torch.einsum("ec,ecd->ed", shift, box[node_graph[center]])
    itself = (center == neighbor) & (shift == 0).all(1)
    keep = ((vector.square().sum(1) < cutoff * cutoff) & ~itself).nonzero().squeeze(1)
    return center[keep], neighbor[keep], shift[keep]


def _binned_pairs(
    wrapped: Tensor, box: Tensor, images: Tensor, node_graph: Tensor, sizes: Tensor, cutoff: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bins of the cutoff's width over the box around each structure, filled with its images; for large structures."""
    graphs = len(sizes)
    low = wrapped.new_full((graphs, 3), math.inf).scatter_reduce(0, node_graph[:, None].expand(-1, 3), wrapped, "amin")
    high = wrapped.new_full((graphs, 3), -math.inf).scatter_reduce(
        0, node_graph[:, None].expand(-1, 3), wrapped, "amax"
    )
    copies = (2 * images + 1).prod(1)
    require_memory(
        int((sizes * copies).sum()) * 100,
        f"cutoff {cutoff} Å: {int((sizes * copies).sum()):,} periodic images",
    )
    _, shifts = _all_shifts(images)
    shift_first = copies.cumsum(0) - copies
    node, number = _enumerate(copies[node_graph])
    shift = shifts[shift_first[node_graph[node]] + number]
    point = wrapped[node] + torch.einsum("ec,ecd->ed", shift, box[node_graph[node]])
    graph = node_graph[node]
    near = ((point > low[graph] - cutoff) & (point < high[graph] + cutoff)).all(1).nonzero().squeeze(1)
    node, shift, point, graph = node[near], shift[near], point[near], graph[near]

    bins = ((high - low) / cutoff).floor().long() + 3  # one more on each side for the images
    first_bin = bins.prod(1).cumsum(0) - bins.prod(1)
    total = int(bins.prod(1).sum())
    require_memory(16 * total, f"cutoff {cutoff} Å: a grid of {total:,} bins")

    def bin_of(place: Tensor, which: Tensor) -> Tensor:
        return ((place - low[which]) / cutoff).floor().long() + 1

    def flat(index: Tensor, which: Tensor) -> Tensor:
        return first_bin[which] + (index[:, 0] * bins[which, 1] + index[:, 1]) * bins[which, 2] + index[:, 2]

    place = flat(bin_of(point, graph).clamp_min(0).minimum(bins[graph] - 1), graph)
    order = torch.argsort(place, stable=True)
    node, shift = node[order], shift[order]
    filled = torch.bincount(place, minlength=total)
    first = filled.cumsum(0) - filled

    home = bin_of(wrapped, node_graph)
    found = []
    around = torch.cartesian_prod(*[torch.arange(-1, 2, device=wrapped.device)] * 3)
    for step in around:  # 27 neighbouring bins, each one vectorised over all atoms
        where = flat(home + step, node_graph)
        center, rank = _enumerate(filled[where])
        candidate = first[where[center]] + rank
        found.append(_within(wrapped, box, node_graph, center, node[candidate], shift[candidate], cutoff))
    center, neighbor, shift = (torch.cat(parts) for parts in zip(*found, strict=True))
    return center, neighbor, shift


def nearest_edges(
    center: Int[Tensor, " edges"], lengths: Float[Tensor, " edges"], count: int | None, nodes: int
) -> Int[Tensor, " kept"] | None:
    """Positions of the `count` shortest edges of every centre, ascending; None if that is all of them.

    Args:
        center: centre of each edge.
        lengths: length of each edge.
        count: how many to keep per centre; None keeps all.
        nodes: number of nodes.
    """
    if count is None or len(center) == 0:
        return None
    degree = torch.bincount(center, minlength=nodes)
    if int(degree.max()) <= count:
        return None
    by_length = torch.argsort(lengths, stable=True)
    order = by_length[torch.argsort(center[by_length], stable=True)]
    first = degree.cumsum(0) - degree
    rank = torch.arange(len(center), device=center.device) - first[center[order]]
    return order[rank < count].sort().values


@dataclass(frozen=True)
class RadiusEdges(Builder):
    """Directed edges between atoms closer than `cutoff`.

    Args:
        cutoff: radius [Å].
        max_neighbors: keep at most this many nearest neighbours of each atom; None keeps all.
    """

    kind: ClassVar[str] = "radius_edges"
    provides: ClassVar[tuple[str, ...]] = ("edge_index", "edge_shift")

    cutoff: float
    max_neighbors: int | None = None

    def build(self, graph: GraphData) -> None:
        """Set `edge_index` and `edge_shift` of a graph or batch.

        Raises:
            DataError: see `neighbor_list`.
        """
        pos = graph.pos.detach()
        cell = graph.cell if "cell" in graph else pos.new_zeros(graph.num_graphs, 3, 3)
        pbc = graph.pbc if "pbc" in graph else torch.zeros(graph.num_graphs, 3, dtype=torch.bool, device=pos.device)
        if graph.num_graphs == 1 and pos.device.type == "cpu":
            edge_index, shift = neighbor_list(pos, cell[0], pbc[0], self.cutoff)
        else:
            edge_index, shift = batched_neighbor_list(pos, cell, pbc, graph.node_graph, self.cutoff)
        graph.edge_index, graph.edge_shift = edge_index, shift
        self.select(graph)

    def select(self, graph: GraphData) -> None:
        """Drop edges that are too long or too many, e.g. from a list that was built with a larger cutoff."""
        lengths = graph.edge_vectors().detach().norm(dim=1)
        keep = (lengths < self.cutoff).nonzero().squeeze(1)
        nearest = nearest_edges(graph.edge_index[1][keep], lengths[keep], self.max_neighbors, graph.num_nodes)
        keep = keep if nearest is None else keep[nearest]
        if len(keep) < len(lengths):
            graph.edge_index, graph.edge_shift = graph.edge_index[:, keep], graph.edge_shift[keep]
