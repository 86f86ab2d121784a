"""Cuts of a batch into groups of atoms with their bonds and angles, which a block of DPA3 can update on their own."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.models.dpa3.geometry import Geometry
from geomlib.nn.moments import Neighborhoods
from geomlib.nn.recompute import Rows

__all__ = ["Part", "cut", "whole"]

_EDGE_WORK = 6
"""Work of an edge in units of that of an angle, roughly."""


@dataclass(frozen=True)
class Part:
    """Consecutive centre atoms with all their edges and angles, numbered from 0 within the part.

    Attributes:
        nodes: number of centre atoms.
        edges: number of edges.
        center: centre atom of each edge.
        neighbor: neighbour of each edge, as position among `rows["neighbor"]`.
        short_edges: the short edges, as positions among the edges of the part.
        short_center: centre atom of each short edge.
        source: short edge ik of each angle.
        target: short edge ij of each angle.
        rows: where the part lies in the batch's tensors of each level: node, edge, short, angle, neighbor; none for
            the batch as one part.
    """

    nodes: int
    edges: int
    center: Int[Tensor, " edges"]
    neighbor: Int[Tensor, " edges"]
    short_edges: Int[Tensor, " short"]
    short_center: Int[Tensor, " short"]
    source: Int[Tensor, " angles"]
    target: Int[Tensor, " angles"]
    rows: dict[str, Rows]

    def range(self, level: str) -> slice:
        """Rows of a level of which the part has some to itself."""
        rows = self.rows[level]
        if not isinstance(rows, slice):
            raise TypeError(f"a part has no rows of its own at level '{level}'")
        return rows

    @cached_property
    def neighborhoods(self) -> Neighborhoods:
        """Edges by their centre."""
        return Neighborhoods(self.center, self.neighbor, self.nodes, self.edges if self.rows else self.nodes)


def whole(geometry: Geometry) -> Part:
    """The batch as one part."""
    none = geometry.center[:0]
    angles = geometry.angles
    return Part(
        geometry.nodes,
        geometry.center.shape[0],
        geometry.center,
        geometry.neighbor,
        none if angles is None else angles.edges,
        none if angles is None else angles.center,
        none if angles is None else angles.source,
        none if angles is None else angles.target,
        {},
    )


def cut(geometry: Geometry, budget: int) -> list[Part]:
    """Parts of about `budget` angles each, an edge counting as some; at least one centre atom in each.

    Edges and angles must be sorted by centre.
    """
    edge_count = torch.bincount(geometry.center, minlength=geometry.nodes)
    angles = geometry.angles
    short_count = torch.zeros_like(edge_count)
    if angles is not None:
        short_count = torch.bincount(angles.center, minlength=geometry.nodes)
    work = short_count.square() + _EDGE_WORK * edge_count
    group = (work.cumsum(0) - work) // budget
    last = torch.ones_like(group, dtype=torch.bool)
    last[:-1] = group[1:] != group[:-1]
    counts = torch.stack([torch.ones_like(work), edge_count, short_count, short_count.square()])
    ends = counts.cumsum(1)[:, last].T.tolist()
    everything = whole(geometry)
    starts = [[0, 0, 0, 0], *ends[:-1]]
    return [_part(everything, start, end) for start, end in zip(starts, ends, strict=True)]


def _part(everything: Part, start: list[int], end: list[int]) -> Part:
    levels = ("node", "edge", "short", "angle")
    rows = {level: slice(a, b) for level, a, b in zip(levels, start, end, strict=True)}
    edge, short, angle = rows["edge"], rows["short"], rows["angle"]
    neighbor = everything.neighbor[edge]
    return Part(
        end[0] - start[0],
        end[1] - start[1],
        everything.center[edge] - start[0],
        torch.arange(len(neighbor), device=neighbor.device),
        everything.short_edges[short] - start[1],
        everything.short_center[short] - start[0],
        everything.source[angle] - start[2],
        everything.target[angle] - start[2],
        {**rows, "neighbor": neighbor},
    )
