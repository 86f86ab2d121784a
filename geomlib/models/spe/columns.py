"""ρ of the form "one network on every column of W, then the sum over columns", without W and piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from geomlib.models.spe.packing import Adjacency, Block, PackedGraphs, SizeGroup, aggregate, blocks_of
from geomlib.models.spe.stages import Stage, run_stage
from geomlib.nn.recompute import Piece, piecewise
from geomlib.nn.reduce import segment_sum

__all__ = ["Program", "column_sums", "pair_rows"]


@dataclass
class Program:
    """Steps of a network, and the tensors of each.

    Attributes:
        stages: steps.
        tensors: of each step: 1 + ε, shift, γ, β, weight, bias; None where it has none.
    """

    stages: list[Stage] = field(default_factory=list)
    tensors: list[tuple[Tensor | None, ...]] = field(default_factory=list)

    def add(self, stage: Stage, *tensors: Tensor | None) -> None:
        """Append a step."""
        self.stages.append(stage)
        self.tensors.append(tensors)

    @property
    def needs_whole_batch(self) -> bool:
        """Whether a step takes statistics over all rows."""
        return any(stage.norm == "batch" and stage.training for stage in self.stages)

    def run(self, rows: Tensor, blocks: list[Block]) -> Tensor:
        """All steps; the last one sums over columns."""
        for stage, tensors in zip(self.stages, self.tensors, strict=True):
            rows = run_stage(stage, blocks, rows, *tensors)
        return rows


def pair_rows(left: Tensor, right: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    """Rows Σ_k left[u, k] right[j, k] folded[k, :] of every pair (u, j) of graphs of one size.

    With `folded` = φ(λ) contracted with the first weights, this is the first linear map of V φ(λ) Vᵀ, whose m
    channels are never formed.

    Args:
        left: `[graphs, size, d]`.
        right: `[graphs, columns, d]`.
        folded: `[graphs, d, width]`.
        bias: `[width]`.

    Returns:
        `[graphs · size · columns, width]`.
    """
    graphs, size, d = left.shape
    product = left[:, :, None] * right[:, None]
    rows = product.view(graphs, size * right.shape[1], d)
    out = rows @ folded if bias is None else torch.baddbmm(bias.expand(graphs, 1, -1), rows, folded)
    return out.view(-1, folded.shape[2])


@dataclass(frozen=True)
class _Part:
    """Part of a group that is evaluated at once."""

    adjacency: Adjacency
    columns: int
    program: Program


def column_sums(
    program: Program,
    packed: PackedGraphs,
    left: Tensor,
    right: Tensor,
    folded: Tensor,
    bias: Tensor | None,
    columns: Sequence[Tensor | None],
    piece_rows: int | None,
) -> Tensor:
    """Σ_j of the last step's rows (u, j), for every node u.

    Args:
        program: network on every column.
        packed: the batch.
        left: `[nodes, d]`, packed.
        right: `[nodes, d]`, packed.
        folded: `[graphs, d, width]`, packed.
        bias: `[width]`, of the first linear map.
        columns: of each group: `[graphs, columns]` positions of the nodes whose columns are taken, None for all.
        piece_rows: rows that are evaluated at once, and again for the derivative; None keeps everything.

    Returns:
        `[nodes, channels]`, packed.
    """
    d = left.shape[1]
    if piece_rows is None or program.needs_whole_batch:
        parts, counts = [], []
        for group, chosen in zip(packed.groups, columns, strict=True):
            own = left[group.nodes].view(group.graphs, group.size, d)
            other = _columns_of(right, group, chosen).view(group.graphs, -1, d)
            parts.append(pair_rows(own, other, folded[group.members], bias))
            counts.append(other.shape[1])
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return program.run(rows, blocks_of(packed.groups, counts))
    return _in_pieces(program, packed, left, right, folded, bias, columns, piece_rows)


def _columns_of(right: Tensor, group: SizeGroup, chosen: Tensor | None) -> Tensor:
    return right[group.nodes] if chosen is None else right.index_select(0, _positions(group, chosen).flatten())


def _positions(group: SizeGroup, chosen: Tensor | None) -> Tensor:
    """Packed nodes `[graphs, columns]` whose columns are taken."""
    device = None if chosen is None else chosen.device
    first = group.first_node + group.size * torch.arange(group.graphs, device=device)[:, None]
    return first + (torch.arange(group.size) if chosen is None else chosen)


def _in_pieces(
    program: Program,
    packed: PackedGraphs,
    left: Tensor,
    right: Tensor,
    folded: Tensor,
    bias: Tensor | None,
    columns: Sequence[Tensor | None],
    piece_rows: int,
) -> Tensor:
    device = left.device
    given = [bias, *(tensor for tensors in program.tensors for tensor in tensors)]
    parameters = [tensor for tensor in given if tensor is not None]
    where = iter(range(len(parameters)))
    slots = [None if tensor is None else next(where) for tensor in given]
    width = len(program.tensors[0])

    def evaluate(part: _Part, own: Tensor, other: Tensor, fold: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        filled = [None if slot is None else tensors[slot] for slot in slots]
        program = Program(part.program.stages)
        program.tensors = [tuple(filled[1 + k * width : 1 + (k + 1) * width]) for k in range(len(program.stages))]
        graphs, size = part.adjacency.graphs, part.adjacency.size
        rows = pair_rows(own.view(graphs, size, -1), other.view(graphs, part.columns, -1), fold, filled[0])
        return (program.run(rows, [Block(part.adjacency, part.columns, 0)]),)

    pieces, targets, end = [], [], 0
    for group, chosen in zip(packed.groups, columns, strict=True):
        positions = _positions(group, chosen).to(device)
        count = positions.shape[1]
        at_once = max(1, piece_rows // (group.size * count))  # graphs
        each = min(count, max(1, piece_rows // group.size))  # columns
        for graph in range(0, group.graphs, at_once):
            last = min(group.graphs, graph + at_once)
            nodes = torch.arange(
                group.first_node + graph * group.size, group.first_node + last * group.size, device=device
            )
            members = torch.arange(group.first_graph + graph, group.first_graph + last, device=device)
            for column in range(0, count, each):
                seen = positions[graph:last, column : column + each]
                part = _Part(group.adjacency.part(graph, last), seen.shape[1], program)
                inputs = (nodes, seen.reshape(-1), members, *[None] * len(parameters))
                pieces.append(Piece(part, inputs, (slice(end, end + len(nodes)),)))
                targets.append(nodes)
                end += len(nodes)
    (sums,) = piecewise(evaluate, pieces, [left, right, folded, *parameters])
    if end == len(left):
        return sums
    return segment_sum(sums, torch.cat(targets), len(left))


def aggregate_nodes(rows: Tensor, scale: Tensor, packed: PackedGraphs) -> Tensor:
    """(1 + ε)·own + sum over neighbours of one row for each node, packed."""
    return aggregate(rows, scale, blocks_of(packed.groups, [1] * len(packed.groups)))
