"""ρ whose columns see each other: they need all pairs of a graph at once."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.models.spe.mlp import MLP, make_norm, modules
from geomlib.models.spe.packing import Block, PackedGraphs, SizeGroup
from geomlib.models.spe.pair_function import GINLayer, PairFunction, column_totals, pair_channels

__all__ = ["IGN", "PPGN", "GINDeepSets"]


class GINDeepSets(PairFunction):
    """A graph isomorphism network on every column, each layer followed by σ(a h + b + c Σ_j h) over the columns j.

    Args:
        m: pair channels.
        outputs: channels of a node.
        layers: number of them; the last is without σ.
        width: channels between layers.
        mlp_width: hidden channels of the MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        norm: inside the MLPs.
        activation: inside the MLPs; σ is ReLU.
        dropout: in the MLPs.
        epsilon: initial value of ε: `zero` or `normal`.
    """

    kind = "gin_deepsets"

    def __init__(
        self,
        m: int,
        outputs: int,
        layers: int = 8,
        width: int = 128,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        norm: str = "layer",
        activation: str = "relu",
        dropout: float = 0.0,
        epsilon: str = "zero",
    ) -> None:
        super().__init__(m, outputs)
        sizes = [m, *[width] * (layers - 1), outputs]
        mlp = {"layers": mlp_layers, "norm": norm, "activation": activation, "dropout": dropout}
        self.layers = modules(GINLayer(a, mlp_width or width, b, epsilon, **mlp) for a, b in pairwise(sizes))
        self.own = modules(nn.Linear(size, size) for size in sizes[1:])
        self.sum = modules(nn.Linear(size, size, bias=False) for size in sizes[1:])

    def forward(
        self,
        packed: PackedGraphs,
        vectors: Tensor,
        phi: Tensor,
        columns: list[Tensor | None],
        piece_rows: int | None = None,
        padded: bool = False,
    ) -> Tensor:
        """See `PairFunction`."""
        rows, blocks, _ = pair_channels(packed, vectors, phi, columns)
        _, ratio = column_totals(packed, columns, vectors)
        for at, (layer, own, summed) in enumerate(zip(self.layers, self.own, self.sum, strict=True)):
            rows = layer(rows, blocks)
            total = summed(ratio * _sum_columns(rows, blocks))
            rows = own(rows) + _to_columns(total, blocks)
            if at + 1 < len(self.layers):
                rows = torch.relu(rows)
        return ratio * _sum_columns(rows, blocks)


def _sum_columns(rows: Tensor, blocks: list[Block]) -> Tensor:
    return torch.cat([rows[block.rows].view(-1, block.columns, rows.shape[1]).sum(1) for block in blocks])


def _to_columns(nodes: Tensor, blocks: list[Block]) -> Tensor:
    counts = torch.tensor([block.columns for block in blocks])
    each = counts.repeat_interleave(torch.tensor([block.shape[0] * block.shape[1] for block in blocks]))
    return nodes.repeat_interleave(each.to(nodes.device), dim=0)


def _all_columns(columns: list[Tensor | None], kind: str) -> None:
    if any(chosen is not None for chosen in columns):
        raise ConfigError(f"ρ = {kind} is no sum over columns, so it can't be estimated from some of them")


class PPGN(PairFunction):
    """Blocks X ← MLP([X, M2(X)·M1(X)]), the product being that of matrices; as strong as folklore 2-WL.

    A node gets a linear map of its diagonal entry and of the mean of the other entries of its row and column. The
    published code divides by the size of the largest graph of the batch; here it is the graph's own.

    Args:
        m: pair channels.
        outputs: channels of a node.
        layers: number of blocks.
        width: channels between blocks.
        mlp_width: hidden channels of the MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        norm: inside the MLPs.
        activation: inside the MLPs.
    """

    kind = "ppgn"

    def __init__(
        self,
        m: int,
        outputs: int,
        layers: int = 2,
        width: int = 64,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        norm: str = "layer",
        activation: str = "relu",
    ) -> None:
        super().__init__(m, outputs)
        sizes = [m, *[width] * (layers - 1), outputs]
        options: dict[str, Any] = {"layers": mlp_layers, "norm": norm, "activation": activation}
        hidden = mlp_width or width
        pairs = list(pairwise(sizes))
        self.first = modules(MLP(a, hidden, b, **options) for a, b in pairs)
        self.second = modules(MLP(a, hidden, b, **options) for a, b in pairs)
        self.joined = modules(MLP(a + b, hidden, b, **options) for a, b in pairs)
        self.project = nn.Linear(2 * outputs, outputs)

    def forward(
        self,
        packed: PackedGraphs,
        vectors: Tensor,
        phi: Tensor,
        columns: list[Tensor | None],
        piece_rows: int | None = None,
        padded: bool = False,
    ) -> Tensor:
        """See `PairFunction`."""
        _all_columns(columns, self.kind)
        rows, blocks, _ = pair_channels(packed, vectors, phi, columns)
        for first, second, joined in zip(self.first, self.second, self.joined, strict=True):
            one, two = first(rows), second(rows)
            product = torch.cat([_matrix_product(two[block.rows], one[block.rows], block) for block in blocks])
            rows = joined(torch.cat([rows, product], 1))
        return self.project(torch.cat([_diagonal_and_rest(rows[block.rows], block) for block in blocks]))


def _matrix_product(left: Tensor, right: Tensor, block: Block) -> Tensor:
    shape = (*block.shape, left.shape[1])
    product = left.view(shape).permute(0, 3, 1, 2) @ right.view(shape).permute(0, 3, 1, 2)
    return product.permute(0, 2, 3, 1).reshape(left.shape)


def _diagonal_and_rest(rows: Tensor, block: Block) -> Tensor:
    square = rows.view(*block.shape, rows.shape[1])
    diagonal = square.diagonal(dim1=1, dim2=2).mT
    rest = (square.sum(1) + square.sum(2) - 2.0 * diagonal) / max(2 * block.columns - 2, 1)
    return torch.cat([diagonal, rest], 2).flatten(0, 1)


class IGN(PairFunction):
    """An invariant graph network from pairs to nodes: the five linear maps of W there are, then two layers on nodes.

    The five are diagonal, trace / n, column sums / n, row sums / n and the total / n², which follow from V and φ
    without W. The two layers mix each channel with its mean over the graph. n is the graph's own (published: that of
    the largest graph of the batch).

    Args:
        m: pair channels.
        outputs: channels of a node.
        width: hidden channels.
        norm: after each ReLU.
    """

    kind = "ign"

    def __init__(self, m: int, outputs: int, width: int = 64, norm: str = "layer") -> None:
        super().__init__(m, outputs)
        sizes, bases = [m, width, width], [5, 2, 2]
        self.coefficients = nn.ParameterList(
            nn.Parameter(torch.randn(a, width, b) / (a * b) ** 0.5) for a, b in zip(sizes, bases, strict=True)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in bases)
        self.norms = modules(make_norm(norm, width) for _ in bases)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, outputs)

    def forward(
        self,
        packed: PackedGraphs,
        vectors: Tensor,
        phi: Tensor,
        columns: list[Tensor | None],
        piece_rows: int | None = None,
        padded: bool = False,
    ) -> Tensor:
        """See `PairFunction`."""
        _all_columns(columns, self.kind)
        contracted = torch.cat([_contractions(vectors, phi, group) for group in packed.groups])
        rows = torch.einsum("nmb,mhb->nh", contracted, self.coefficients[0]) + self.biases[0]
        rows = self.norms[0](torch.relu(rows))
        for at in (1, 2):
            both = torch.stack([rows, torch.cat([_graph_means(rows, group) for group in packed.groups])], 2)
            rows = torch.einsum("nmb,mhb->nh", both, self.coefficients[at]) + self.biases[at]
            rows = self.norms[at](torch.relu(rows))
        return self.last(torch.relu(self.first(rows)))


def _contractions(vectors: Tensor, phi: Tensor, group: SizeGroup) -> Tensor:
    """`[nodes, m, 5]`."""
    own = vectors[group.nodes].view(group.graphs, group.size, -1)
    weights, size = phi[group.members], group.size
    diagonal = own.square() @ weights
    total = own.sum(1, keepdim=True)
    sums = (own * total) @ weights / size
    trace = diagonal.sum(1, keepdim=True).expand_as(diagonal) / size
    everything = (total.square() @ weights).expand_as(diagonal) / size**2
    return torch.stack([diagonal, trace, sums, sums, everything], 3).flatten(0, 1)


def _graph_means(rows: Tensor, group: SizeGroup) -> Tensor:
    each = rows[group.nodes].view(group.graphs, group.size, -1)
    return each.mean(1, keepdim=True).expand_as(each).flatten(0, 1)
