"""Geometry of a batch as DPA3 sees it: switched environment rows, bond angles, and who belongs to whom."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.nn.cutoff import SWITCHES
from geomlib.nn.tracing import tracing

__all__ = ["AngleGraph", "Geometry", "GeometryOptions", "build_geometry", "traced_structure"]


@dataclass(frozen=True)
class GeometryOptions:
    """Cutoffs and normalisations; see `DPA3`."""

    cutoff: float
    cutoff_smooth: float
    angle_cutoff: float
    angle_cutoff_smooth: float
    switch: str
    protection: float


@dataclass
class AngleGraph:
    """Line graph of the short edges, in the numbering of those edges alone.

    Attributes:
        edges: the short edges, as positions among all edges.
        center: centre atom of each short edge.
        source: short edge ik of each angle.
        target: short edge ij of each angle, ascending.
        direction: û = d/(r + 1e-6) of each short edge.
        switch: ŵ of each short edge.
    """

    edges: Int[Tensor, " short"]
    center: Int[Tensor, " short"]
    source: Int[Tensor, " angles"]
    target: Int[Tensor, " angles"]
    direction: Float[Tensor, "short 3"]
    switch: Float[Tensor, "short 1"]


@dataclass
class Geometry:
    """Per-edge quantities.

    Attributes:
        nodes: number of atoms.
        center: centre i of each edge, ascending.
        neighbor: neighbour j of each edge.
        length: r [Å].
        weight: switch w.
        radial: normalised first component of the environment row.
        direction: w times the normalised vector part of the environment row.
        angles: the line graph, or None for a net without angles.
    """

    nodes: int
    center: Int[Tensor, " edges"]
    neighbor: Int[Tensor, " edges"]
    length: Float[Tensor, "edges 1"]
    weight: Float[Tensor, "edges 1"]
    radial: Float[Tensor, "edges 1"]
    direction: Float[Tensor, "edges 3"]
    angles: AngleGraph | None


def build_geometry(
    batch: GraphData,
    types: Int[Tensor, " nodes"],
    mean: Float[Tensor, "elements 4"],
    stddev: Float[Tensor, "elements 4"],
    excluded: Tensor | None,
    options: GeometryOptions,
) -> Geometry:
    """Evaluate the geometry of a batch in the precision of `stddev`.

    Vectors are formed in the precision of the positions and cast afterwards.

    Args:
        batch: with edges and, for angles, `line_index`.
        types: type index of each atom.
        mean: subtracted from environment rows, by the type of the centre; its vector part must be zero.
        stddev: divides environment rows, by the type of the centre.
        excluded: `[elements, elements]`, true where the pair does not interact; None for none. Excluded pairs have
            been counted by the neighbour selection already, as in the reference.
        options: cutoffs and switch.
    """
    neighbor, center = batch.edge_index.unbind(0)
    vectors = batch.edge_vectors().to(stddev.dtype)
    if tracing():  # see traced_structure
        short = [batch[name] for name in _SHORT] if _SHORT[0] in batch else None
    else:
        line = batch.line_index if "line_index" in batch else None
        if excluded is not None:
            keep, line = _kept(batch.edge_index, line, types, excluded)
            neighbor, center, vectors = neighbor[keep], center[keep], vectors[keep]
        short = None if line is None else _short_edges(line, vectors.shape[0])
    length = vectors.norm(dim=1, keepdim=True)
    switch = SWITCHES[options.switch]
    weight = switch(length, options.cutoff_smooth, options.cutoff)
    center_type = types.index_select(0, center)
    shift, scale = mean.index_select(0, center_type), stddev.index_select(0, center_type)
    inverse = 1.0 / (length + options.protection)
    row = (weight * torch.cat([inverse, vectors * inverse.square()], dim=1) - shift) / scale
    angles = None
    if short is not None:
        angles = _angle_graph(vectors, length, center, short, options)
    return Geometry(
        nodes=types.shape[0],
        center=center,
        neighbor=neighbor,
        length=length,
        weight=weight,
        radial=row[:, :1],
        direction=weight * row[:, 1:],
        angles=angles,
    )


_SHORT = ("short_edges", "short_source", "short_target")


def traced_structure(
    batch: GraphData, types: Int[Tensor, " nodes"], excluded: Tensor | None
) -> dict[str, Int[Tensor, "..."]]:
    """Index tensors of a batch, which `build_geometry` reads where it is traced and finds by itself elsewhere.

    Args:
        batch: as for `build_geometry`.
        types: as for `build_geometry`.
        excluded: as for `build_geometry`.
    """
    structure = {name: batch[name] for name in ("edge_index", "edge_shift") if name in batch}
    line = batch.line_index if "line_index" in batch else None
    if excluded is not None:
        keep, line = _kept(batch.edge_index, line, types, excluded)
        structure = {name: value[:, keep] if name == "edge_index" else value[keep] for name, value in structure.items()}
    if line is not None:
        structure |= dict(zip(_SHORT, _short_edges(line, structure["edge_index"].shape[1]), strict=True))
    return structure


def _kept(edge_index: Tensor, line: Tensor | None, types: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor | None]:
    """Which edges are between types that interact, and the line graph of those."""
    neighbor, center = edge_index
    keep = ~excluded[types[center], types[neighbor]]
    if line is not None:
        renumber = keep.cumsum(0) - 1
        line = renumber[line[:, keep[line].all(0)]]
    return keep, line


def _short_edges(line: Tensor, edges: int) -> list[Tensor]:
    """Short edges as positions among all, source and target of angles as positions among the short ones."""
    # every short edge is its own partner once (k = j), so row 1 holds all of them
    short = torch.zeros(edges, dtype=torch.bool, device=line.device).index_fill_(0, line[1], True)
    numbering = short.cumsum(0) - 1
    return [short.nonzero().squeeze(1), numbering.index_select(0, line[0]), numbering.index_select(0, line[1])]


def _angle_graph(
    vectors: Tensor, length: Tensor, center: Tensor, short: list[Tensor], options: GeometryOptions
) -> AngleGraph:
    edges, source, target = short
    short_length = length.index_select(0, edges)
    direction = vectors.index_select(0, edges) / (short_length + 1e-6)
    switch = SWITCHES[options.switch](short_length, options.angle_cutoff_smooth, options.angle_cutoff)
    return AngleGraph(edges, center.index_select(0, edges), source, target, direction, switch)
