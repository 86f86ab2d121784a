"""What all ρ share: their base, a graph isomorphism layer, and the pair channels where they are needed."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.models.spe.mlp import MLP
from geomlib.models.spe.packing import Block, PackedGraphs, aggregate, blocks_of

__all__ = ["GINLayer", "PairFunction", "column_totals", "pair_channels"]


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


def column_totals(packed: PackedGraphs, columns: list[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor]:
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
