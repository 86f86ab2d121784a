"""ρ that run one network on every column of W and sum over columns: without W, and in pieces."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.models.spe.columns import Program, aggregate_nodes, column_sums
from geomlib.models.spe.mlp import MLP, BatchRows, make_norm, modules
from geomlib.models.spe.packing import PackedGraphs
from geomlib.models.spe.pair_function import GINLayer, PairFunction, column_totals, pair_channels
from geomlib.models.spe.stages import Stage

__all__ = ["GIN", "Perceptron"]


def _stage(norm: nn.Module, activation: str, *, aggregates: bool, sums: bool) -> Stage:
    kind = "batch" if isinstance(norm, BatchRows) else "layer" if isinstance(norm, nn.LayerNorm) else "none"
    return Stage(kind, activation, aggregates, sums, norm.training, norm if isinstance(norm, BatchRows) else None)


def _norm_tensors(norm: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    return getattr(norm, "weight", None), getattr(norm, "bias", None)


def _count_batches(program: Program) -> None:
    for stage in program.stages:
        if stage.statistics is not None and stage.training and stage.statistics.num_batches_tracked is not None:
            stage.statistics.num_batches_tracked.add_(1)


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
        size, ratio = column_totals(packed, columns, sums)
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
        return column_totals(packed, columns, sums)[1] * sums


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
        size, ratio = column_totals(packed, columns, sums)
        return (ratio * sums) @ linears[-1].weight.T + size * linears[-1].bias
