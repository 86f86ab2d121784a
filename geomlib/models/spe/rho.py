"""Functions ρ of the pair channels W_ℓ = V φ_ℓ(λ) Vᵀ: from pairs of nodes to nodes."""

from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError, nearest
from geomlib.models.spe.columns import Program, aggregate_nodes, column_sums
from geomlib.models.spe.mlp import MLP, BatchRows, make_norm, modules
from geomlib.models.spe.packing import Block, PackedGraphs, SizeGroup, aggregate, blocks_of
from geomlib.models.spe.stages import Stage

__all__ = ["RHO", "GINLayer", "PairFunction", "make_rho"]


class GINLayer(nn.Module):
    """MLP((1 + ε) x_u + Σ_{v→u} x_v), ε learned.

    Args:
        inputs: channels.
        width: hidden channels of the MLP.
        outputs: channels.
        epsilon: initial value of ε: `zero`, or `normal` for N(0, 1) as published.
        **mlp: other arguments of `MLP`.
    """

    def __init__(self, inputs: int, width: int, outputs: int, epsilon: str = "zero", **mlp: Any) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1) if epsilon == "zero" else torch.randn(1))
        self.mlp = MLP(inputs, width, outputs, **mlp)

    def forward(self, rows: Tensor, blocks: list[Block], weight: Tensor | None = None) -> Tensor:
        """Apply to rows of blocks; `weight` says how often a row counts in batch statistics."""
        return self.mlp(aggregate(rows, 1.0 + self.eps, blocks), weight)


class PairFunction(nn.Module):
    """Base of all ρ: pair channels to nodes, equivariant to the order of nodes.

    Args:
        m: pair channels.
        outputs: channels of a node.
    """

    kind: ClassVar[str]

    def __init__(self, m: int, outputs: int) -> None:
        super().__init__()
        self.m, self.outputs = m, outputs

    def forward(
        self,
        packed: PackedGraphs,
        vectors: Float[Tensor, "nodes d"],
        phi: Float[Tensor, "graphs d m"],
        columns: list[Tensor | None],
        piece_rows: int | None = None,
        padded: bool = False,
    ) -> Float[Tensor, "nodes {self.outputs}"]:
        """Evaluate on packed graphs.

        Args:
            packed: the batch.
            vectors: eigenvectors, packed.
            phi: weights of the eigenvectors in each channel, packed.
            columns: columns to take of each group, None for all; see `PackedGraphs`.
            piece_rows: pairs that are evaluated at once; None keeps everything for the derivative.
            padded: let batch statistics count the rows that padding to the largest graph would add.
        """
        raise TypeError(f"{type(self).__name__} must define forward")


def _stage(norm: nn.Module, activation: str, *, aggregates: bool, sums: bool) -> Stage:
    kind = "batch" if isinstance(norm, BatchRows) else "layer" if isinstance(norm, nn.LayerNorm) else "none"
    return Stage(kind, activation, aggregates, sums, norm.training, norm if isinstance(norm, BatchRows) else None)


def _norm_tensors(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    return getattr(norm, "weight", None), getattr(norm, "bias", None)


def _count_batches(program: Program) -> None:
    for stage in program.stages:
        if stage.statistics is not None and stage.training and stage.statistics.num_batches_tracked is not None:
            stage.statistics.num_batches_tracked.add_(1)


def _totals(packed: PackedGraphs, columns: list[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes of the graph of each node, and that divided by the number of columns taken."""
    sizes = [float(group.size) for group in packed.groups]
    taken = [
        float(group.size if chosen is None else chosen.shape[1])
        for group, chosen in zip(packed.groups, columns, strict=True)
    ]
    repeats = torch.tensor([group.graphs * group.size for group in packed.groups])
    size = torch.tensor(sizes, dtype=like.dtype).repeat_interleave(repeats)[:, None].to(like.device)
    ratio = torch.tensor([a / b for a, b in zip(sizes, taken, strict=True)], dtype=like.dtype)
    return size, ratio.repeat_interleave(repeats)[:, None].to(like.device)


class GIN(PairFunction):
    """One graph isomorphism network on every column of W, then the sum over columns.

    The last linear map of each layer's MLP and the first of the next one have nothing but the aggregation between
    them, which commutes with them: they are multiplied into one. The first is multiplied into φ, the last comes after
    the sum over columns. So of 3 maps of every pair and layer 2 are left, and W is never formed. The outcome is the
    same but for rounding.

    Args:
        m: pair channels.
        outputs: channels of a node.
        layers: number of them.
        width: channels between layers.
        mlp_width: hidden channels of the MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        norm: inside the MLPs; with `batch`, all pairs of a batch have to be evaluated at once in training.
        activation: `relu` or `tanh`.
        dropout: in the MLPs.
        norm_between: batch normalisation after each layer but the last.
        epsilon: initial value of ε: `zero` or `normal`.
    """

    kind = "gin"

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
        norm_between: bool = False,
        epsilon: str = "zero",
    ) -> None:
        super().__init__(m, outputs)
        if layers < 1:
            raise ConfigError(f"ρ of {layers} layers: expected at least 1")
        sizes = [m, *[width] * (layers - 1), outputs]
        self.layers = modules(
            GINLayer(
                a,
                mlp_width or width,
                b,
                epsilon,
                layers=mlp_layers,
                norm=norm,
                activation=activation,
                dropout=dropout,
            )
            for a, b in pairwise(sizes)
        )
        self.norms = modules(make_norm("batch", width) for _ in range(layers - 1) if norm_between)

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
        mlp = self.layers[0].mlp
        dropped = mlp.dropout > 0.0 and self.training
        if padded or dropped or len(self.norms) or not len(mlp.norms):
            return self._plain(packed, vectors, phi, columns, padded=padded)
        program = self._program()
        first = mlp.linears[0]
        folded = torch.einsum("gdm,hm->gdh", phi, first.weight)
        left = aggregate_nodes(vectors, 1.0 + self.layers[0].eps, packed)
        sums = column_sums(program, packed, left, vectors, folded, first.bias, columns, piece_rows)
        _count_batches(program)
        last = self.layers[-1].mlp.linears[-1]
        size, ratio = _totals(packed, columns, sums)
        return (ratio * sums) @ last.weight.T + size * last.bias

    def _program(self) -> Program:
        program = Program()
        for at, layer in enumerate(self.layers):
            linears = layer.mlp.linears
            following = self.layers[at + 1].mlp.linears[0] if at + 1 < len(self.layers) else None
            for k, norm in enumerate(layer.mlp.norms):
                begins, ends = at > 0 and k == 0, k + 2 == len(linears)
                weight: Tensor | None = linears[k + 1].weight
                bias: Tensor | None = linears[k + 1].bias
                if ends and following is None:
                    weight = bias = None
                elif ends and following is not None:
                    weight, bias = following.weight @ linears[k + 1].weight, following.weight @ linears[k + 1].bias
                program.add(
                    _stage(norm, layer.mlp.activation, aggregates=begins, sums=weight is None),
                    1.0 + layer.eps if begins else None,
                    linears[0].bias if begins else None,
                    *_norm_tensors(norm),
                    weight,
                    bias,
                )
        return program

    def _plain(
        self, packed: PackedGraphs, vectors: Tensor, phi: Tensor, columns: list[Tensor | None], *, padded: bool
    ) -> Tensor:
        """Layer by layer, with W: what dropout and normalisation between layers need.

        All columns that padding would add to a graph begin as zeros and stay equal, so one of them, counted as often
        as there are, does for all.
        """
        rows, blocks, weight = pair_channels(packed, vectors, phi, columns, padded=padded)
        for at, layer in enumerate(self.layers):
            rows = layer(rows, blocks, weight)
            if at < len(self.norms):
                rows = self.norms[at](rows, weight)
        sums = torch.cat(
            [
                rows[block.rows].view(-1, block.columns, self.outputs)[:, : block.columns - padded].sum(1)
                for block in blocks
            ]
        )
        return _totals(packed, columns, sums)[1] * sums


def pair_channels(
    packed: PackedGraphs, vectors: Tensor, phi: Tensor, columns: list[Tensor | None], *, padded: bool = False
) -> tuple[Tensor, list[Block], Tensor | None]:
    """W `[rows, m]` of all pairs, its blocks, and how often each row counts if padding is to count."""
    d = vectors.shape[1]
    largest = max(group.size for group in packed.groups)
    parts, weights, counts = [], [], []
    for group, chosen in zip(packed.groups, columns, strict=True):
        own = vectors[group.nodes].view(group.graphs, group.size, d)
        other = own if chosen is None else own.gather(1, chosen[..., None].expand(-1, -1, d))
        if padded:
            other = torch.cat([other, other.new_zeros(group.graphs, 1, d)], 1)
            count = vectors.new_ones(group.graphs, group.size, other.shape[1])
            count[..., -1] = largest - group.size
            weights.append(count.flatten())
        product = own[:, :, None] * other[:, None]
        channels = product.flatten(1, 2) @ phi[group.members]
        parts.append(channels.reshape(-1, phi.shape[2]))
        counts.append(other.shape[1])
    return torch.cat(parts), blocks_of(packed.groups, counts), torch.cat(weights) if padded else None


class Perceptron(PairFunction):
    """One MLP on every entry of W, then the sum over columns.

    Args:
        m: pair channels.
        outputs: channels of a node.
        layers: linear maps.
        width: hidden channels.
        norm: of hidden channels.
        activation: `relu` or `tanh`.
    """

    kind = "mlp"

    def __init__(
        self,
        m: int,
        outputs: int,
        layers: int = 3,
        width: int = 128,
        norm: str = "layer",
        activation: str = "relu",
    ) -> None:
        super().__init__(m, outputs)
        if layers < 2:
            raise ConfigError(f"ρ = mlp of {layers} layers: expected at least 2, since a linear one sees too little")
        self.mlp = MLP(m, width, outputs, layers, norm, activation)

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
        program, linears = Program(), self.mlp.linears
        for k, norm in enumerate(self.mlp.norms):
            ends = k + 2 == len(linears)
            weight, bias = (None, None) if ends else (linears[k + 1].weight, linears[k + 1].bias)
            stage = _stage(norm, self.mlp.activation, aggregates=False, sums=ends)
            program.add(stage, None, None, *_norm_tensors(norm), weight, bias)
        folded = torch.einsum("gdm,hm->gdh", phi, linears[0].weight)
        sums = column_sums(program, packed, vectors, vectors, folded, linears[0].bias, columns, piece_rows)
        _count_batches(program)
        size, ratio = _totals(packed, columns, sums)
        return (ratio * sums) @ linears[-1].weight.T + size * linears[-1].bias


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
        _, ratio = _totals(packed, columns, vectors)
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


RHO: dict[str, type[PairFunction]] = {cls.kind: cls for cls in (GIN, GINDeepSets, IGN, Perceptron, PPGN)}
"""Name → ρ."""


def make_rho(kind: str, m: int, outputs: int, **options: Any) -> PairFunction:
    """ρ by name.

    Args:
        kind: key of `RHO`.
        m: pair channels.
        outputs: channels of a node.
        **options: other arguments of that class.

    Raises:
        ConfigError: an unknown name or option.
    """
    if kind not in RHO:
        raise ConfigError(f"ρ '{kind}' is unknown{nearest(kind, RHO)}; there are {sorted(RHO)}")
    try:
        return RHO[kind](m, outputs, **options)
    except TypeError as error:
        raise ConfigError(f"ρ '{kind}': {error}") from None
