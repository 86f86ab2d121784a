"""Node pairs of a batch without padding: graphs of equal size side by side, so that their pairs are dense blocks."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Adjacency", "Block", "PackedGraphs", "SizeGroup", "aggregate"]

SPARSE_FROM = 192
"""Nodes from which on neighbours are summed with a sparse matrix; a dense one is faster below."""


class Adjacency:
    """Adjacency matrices of graphs of one size, `A[u, v]` being the number of edges from v to u.

    Args:
        edges: `[2, edges]`, row 0 source, row 1 target, counted within each graph.
        graph: `[edges]`, graph of each edge.
        graphs: number of graphs.
        size: nodes of each.
        dtype: of the matrices.
    """

    def __init__(
        self, edges: Int[Tensor, "2 edges"], graph: Int[Tensor, " edges"], graphs: int, size: int, dtype: torch.dtype
    ) -> None:
        self.graphs, self.size = graphs, size
        self.dense: Tensor | None = None
        self.sparse: list[tuple[Tensor, Tensor]] = []
        if size < SPARSE_FROM:
            flat = torch.zeros(graphs * size * size, dtype=dtype, device=edges.device)
            ones = torch.ones(1, dtype=dtype, device=edges.device).expand(len(graph))
            flat.index_add_(0, (graph * size + edges[1]) * size + edges[0], ones)
            self.dense = flat.view(graphs, size, size)
            return
        for one in range(graphs):
            source, target = edges[:, graph == one]
            values = torch.ones(len(source), dtype=dtype, device=edges.device)
            shape = (size, size)
            there = torch.sparse_coo_tensor(
                torch.stack([target, source]), values, shape, check_invariants=False
            ).coalesce()
            back = torch.sparse_coo_tensor(
                torch.stack([source, target]), values, shape, check_invariants=False
            ).coalesce()
            self.sparse.append((there, back))

    def part(self, first: int, last: int) -> "Adjacency":
        """Those of some of the graphs."""
        out = object.__new__(Adjacency)
        out.graphs, out.size = last - first, self.size
        out.dense = None if self.dense is None else self.dense[first:last]
        out.sparse = self.sparse[first:last]
        return out

    def times(self, rows: Float[Tensor, "graphs size features"], *, transposed: bool) -> Tensor:
        """A · rows, or Aᵀ · rows; not differentiated."""
        if self.dense is not None:
            return torch.bmm(self.dense.mT if transposed else self.dense, rows)
        return torch.stack(
            [torch.sparse.mm(both[transposed], one) for both, one in zip(self.sparse, rows, strict=True)]
        )


@dataclass(frozen=True)
class SizeGroup:
    """Graphs of one size, lying one after the other among the packed nodes.

    Attributes:
        size: nodes of each graph.
        graphs: number of them.
        first_node: where their nodes start.
        first_graph: where the graphs start.
        adjacency: of each.
    """

    size: int
    graphs: int
    first_node: int
    first_graph: int
    adjacency: Adjacency

    @property
    def nodes(self) -> slice:
        """Their nodes."""
        return slice(self.first_node, self.first_node + self.graphs * self.size)

    @property
    def members(self) -> slice:
        """The graphs."""
        return slice(self.first_graph, self.first_graph + self.graphs)


@dataclass(frozen=True)
class Block:
    """Rows `[graphs, size, columns]`, one after the other: every node with `columns` vectors.

    Attributes:
        adjacency: of the graphs.
        columns: number of vectors.
        start: first row.
    """

    adjacency: Adjacency
    columns: int
    start: int

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.start, self.start + self.adjacency.graphs * self.adjacency.size * self.columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Graphs, nodes, columns."""
        return self.adjacency.graphs, self.adjacency.size, self.columns


def blocks_of(groups: "list[SizeGroup] | tuple[SizeGroup, ...]", columns: list[int]) -> list[Block]:
    """Blocks of all groups below each other, with a number of columns for each."""
    start, blocks = 0, []
    for group, count in zip(groups, columns, strict=True):
        blocks.append(Block(group.adjacency, count, start))
        start = blocks[-1].rows.stop
    return blocks


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor | None, blocks: list[Block], transposed: bool) -> Tensor:
        ctx.blocks, ctx.transposed = blocks, transposed
        ctx.save_for_backward(rows if scale is not None and ctx.needs_input_grad[1] else None, scale)
        return neighbours(rows, scale, blocks, transposed=transposed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale = ctx.saved_tensors
        back = _Aggregate.apply(grad, scale, ctx.blocks, not ctx.transposed) if ctx.needs_input_grad[0] else None
        return back, (grad * rows).sum().reshape(scale.shape) if ctx.needs_input_grad[1] else None, None, None


def neighbours(rows: Tensor, scale: Tensor | None, blocks: list[Block], *, transposed: bool = False) -> Tensor:
    """`scale` · rows + the sum over neighbours; 0 · rows if there is no scale. Not differentiated."""
    out = torch.empty_like(rows)
    width = rows.shape[1]
    for block in blocks:
        graphs, size, columns = block.shape
        into = out[block.rows].view(graphs, size, columns * width)
        into.copy_(block.adjacency.times(rows[block.rows].view(into.shape), transposed=transposed))
    return out if scale is None else out.addcmul_(rows, scale)


def aggregate(
    rows: Float[Tensor, "rows width"], scale: Float[Tensor, ""] | None, blocks: list[Block]
) -> Float[Tensor, "rows width"]:
    """`scale`·x_u + Σ_{v→u} x_v for every column of every block; differentiable in rows and scale.

    Args:
        rows: of all blocks.
        scale: 1 + ε, a tensor of one number; the own term is left out if not given.
        blocks: whose rows these are.
    """
    return _Aggregate.apply(rows, scale, blocks, False)


class PackedGraphs:
    """A batch whose graphs are sorted by size.

    Args:
        batch: `[nodes]`, graph of each node, ascending.
        edge_index: `[2, edges]`.
        graphs: number of graphs, those without nodes at the end included.
        dtype: of adjacency matrices.

    Attributes:
        groups: graphs of equal size, smallest first.
        nodes: `[nodes]`, packed position → node.
        ranks: `[nodes]`, node → packed position.
        members: `[graphs]`, packed position → graph.
        sizes: number of nodes of each packed graph.
    """

    def __init__(
        self, batch: Int[Tensor, " nodes"], edge_index: Int[Tensor, "2 edges"], graphs: int, dtype: torch.dtype
    ) -> None:
        device = batch.device
        counts = torch.bincount(batch, minlength=graphs)
        ordered, self.members = counts.sort(stable=True)
        position = torch.empty_like(self.members)
        position[self.members] = torch.arange(graphs, device=device)
        node_position = position[batch]
        _, self.nodes = node_position.sort(stable=True)
        self.ranks = torch.empty_like(self.nodes)
        self.ranks[self.nodes] = torch.arange(len(batch), device=device)
        self.sizes = ordered
        self.graph_of_node = node_position[self.nodes]
        distinct, lengths = torch.unique_consecutive(ordered, return_counts=True)
        self.groups: list[SizeGroup] = []
        starts = ordered.cumsum(0) - ordered
        owner = node_position[edge_index[1]]
        local = self.ranks[edge_index] - starts[owner]
        first_graph = first_node = 0
        order = owner.argsort(stable=True)
        local, owner = local[:, order], owner[order]
        bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        cuts = torch.searchsorted(owner, bounds).tolist()
        for at, (size, length) in enumerate(zip(distinct.tolist(), lengths.tolist(), strict=True)):
            mine = slice(cuts[at], cuts[at + 1])
            if size:
                adjacency = Adjacency(local[:, mine], owner[mine] - first_graph, length, size, dtype)
                self.groups.append(SizeGroup(size, length, first_node, first_graph, adjacency))
            first_graph += length
            first_node += length * size

    @property
    def pairs(self) -> int:
        """Number of node pairs."""
        return sum(group.graphs * group.size**2 for group in self.groups)
