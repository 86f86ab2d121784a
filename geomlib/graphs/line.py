"""Line graph of the short edges: one row for every ordered pair of edges that share a centre."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.builder import Builder
from geomlib.graphs.radius import nearest_edges
from geomlib.memory import require_memory

__all__ = ["LineGraph", "line_graph"]


def line_graph(center: Int[Tensor, " edges"], members: Int[Tensor, " members"], nodes: int) -> Int[Tensor, "2 lines"]:
    """All ordered pairs, the diagonal included, of `members` edges that have the same centre.

    Args:
        center: centre of every edge, ascending.
        members: positions of the edges that take part, ascending.
        nodes: number of nodes.

    Returns:
        `[2, lines]`: row 0 the other edge (ik), row 1 the edge itself (ij), sorted by row 1. No Python loop; works
        on one graph and on a batch alike, since edges of different graphs have no common centre.
    """
    member_center = center.index_select(0, members)
    degree = torch.bincount(member_center, minlength=nodes)
    first = degree.cumsum(0) - degree
    partners = degree.index_select(0, member_center)
    require_memory(2 * 8 * 2 * int(partners.sum()), f"a line graph of {int(partners.sum()):,} pairs of edges")
    row = torch.repeat_interleave(torch.arange(len(members), device=members.device), partners)
    before = partners.cumsum(0) - partners
    rank = torch.arange(len(row), device=row.device) - before.index_select(0, row)
    partner = first.index_select(0, member_center).index_select(0, row) + rank
    return torch.stack([members.index_select(0, partner), members.index_select(0, row)])


def _lengths(graph: GraphData) -> Float[Tensor, " edges"]:
    return graph.edge_vectors().detach().norm(dim=1)


@dataclass(frozen=True)
class LineGraph(Builder):
    """Line graph of the edges shorter than `cutoff`.

    Args:
        cutoff: only edges shorter than this [Å] take part (strict).
        max_neighbors: at most this many nearest ones per centre; None keeps all.
    """

    kind: ClassVar[str] = "line_graph"
    provides: ClassVar[tuple[str, ...]] = ("line_index",)
    batched: ClassVar[bool] = True

    cutoff: float
    max_neighbors: int | None = None

    def build(self, graph: GraphData) -> None:
        """Set `line_index` from the edges of a graph or batch.

        Raises:
            DataError: the edges have not been built.
        """
        if "edge_index" not in graph:
            raise DataError("a line graph needs edges: put RadiusEdges before LineGraph in the spec")
        center, lengths = graph.edge_index[1], _lengths(graph)
        members = (lengths < self.cutoff).nonzero().squeeze(1)
        kept = nearest_edges(center[members], lengths[members], self.max_neighbors, graph.num_nodes)
        graph.line_index = line_graph(center, members[kept] if kept is not None else members, graph.num_nodes)
