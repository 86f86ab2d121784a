"""Encodings that run one network on many vectors of a graph: SignNet, BasisNet and PEARL."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.models.spe.encoding import PositionalEncoding, checked_modes, graph_of_nodes, real_modes
from geomlib.models.spe.mlp import MLP, BatchRows, activated, make_norm, modules
from geomlib.models.spe.packing import Block, PackedGraphs, aggregate, blocks_of
from geomlib.models.spe.pair_function import GINLayer
from geomlib.nn.reduce import segment_sum

__all__ = ["PEARL", "BasisNet", "ColumnGIN", "SignNet"]


class ColumnGIN(nn.Module):
    """Graph isomorphism layers on every column of every node.

    Args:
        inputs: channels of a column.
        width: channels between layers.
        outputs: channels of a column.
        layers: number of them.
        mlp_width: hidden channels of the MLPs.
        mlp_layers: linear maps of each.
        norm: inside the MLPs.
        activation: `relu` or `tanh`.
        norm_between: batch normalisation after each layer but the last.
        epsilon: initial value of ε: `zero` or `normal`.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        layers: int,
        mlp_width: int,
        mlp_layers: int = 3,
        norm: str = "layer",
        activation: str = "relu",
        norm_between: bool = False,
        epsilon: str = "zero",
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (layers - 1), outputs]
        self.layers = modules(
            GINLayer(a, mlp_width, b, epsilon, layers=mlp_layers, norm=norm, activation=activation)
            for a, b in pairwise(sizes)
        )
        self.norms = modules(make_norm("batch", width) for _ in range(layers - 1) if norm_between)

    def forward(self, rows: Tensor, blocks: list[Block], weight: Tensor | None = None) -> Tensor:
        """Apply to rows of blocks; `weight` says how often a row counts in batch statistics."""
        for at, layer in enumerate(self.layers):
            rows = layer(rows, blocks, weight)
            if at < len(self.norms):
                rows = self.norms[at](rows, weight)
        return rows


class SignNet(PositionalEncoding):
    """MLP of f(v_k) + f(−v_k), summed over the eigenvectors k, f being a graph isomorphism network.

    Invariant to signs, not to the basis of an eigenspace; eigenvalues are not looked at.

    Args:
        d: number of modes.
        p: channels of the encoding; d if not given.
        layers: of f.
        width: channels of f between layers, and hidden ones of the MLP.
        mlp_width: hidden channels of the MLPs in f; `width` if not given.
        mlp_layers: linear maps of each.
        out_layers: linear maps of the last MLP.
        norm: inside the MLPs.
        norm_between: batch normalisation between the layers of f.
        combine: `sum` over real eigenvectors, or `concat` of 4 channels of each, padding included.
        epsilon: initial value of ε: `zero` or `normal`.
        guard: `drop` or `keep` an eigenvalue that the cut would divide.

    Source: Lim et al., ICLR 2023, arXiv:2202.13013. By default only real eigenvectors count in batch statistics.
    """

    kind = "signnet"

    def __init__(
        self,
        d: int,
        p: int | None = None,
        layers: int = 8,
        width: int = 128,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        out_layers: int = 3,
        norm: str = "batch",
        norm_between: bool = True,
        combine: str = "sum",
        epsilon: str = "zero",
        guard: str = "keep",
    ) -> None:
        super().__init__()
        if combine not in ("sum", "concat"):
            raise ConfigError(f"SignNet combines by '{combine}'; expected 'sum' or 'concat'")
        self.d, self.guard, self.combine = d, guard, combine
        self.width = d if p is None else p
        channels = width if combine == "sum" else 4
        self.f = ColumnGIN(
            1,
            width,
            channels,
            layers,
            mlp_width or width,
            mlp_layers,
            norm,
            norm_between=norm_between,
            epsilon=epsilon,
        )
        self.out = MLP(width if combine == "sum" else 4 * d, width, self.width, out_layers, norm)

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`."""
        values, vectors = checked_modes(self, eigenvalues, eigenvectors, edge_index)
        owner = graph_of_nodes(len(vectors), batch, edge_index)
        dtype = self.out.linears[0].weight.dtype
        packed = PackedGraphs(owner, edge_index, len(values), dtype)
        blocks = blocks_of(packed.groups, [self.d] * len(packed.groups))
        rows = vectors.to(dtype).index_select(0, packed.nodes).reshape(-1, 1)
        real = real_modes(values, vectors, owner, eigenvector_count)[packed.members][packed.graph_of_node]
        weight = None if self.combine == "concat" or bool(real.all()) else real.reshape(-1).to(dtype)
        both = (self.f(rows, blocks, weight) + self.f(-rows, blocks, weight)).view(len(vectors), self.d, -1)
        joined = (both * real[..., None]).sum(1) if self.combine == "sum" else both.flatten(1)
        return self.out(joined.index_select(0, packed.ranks))


class BasisNet(PositionalEncoding):
    """MLP of what is invariant about the projector P onto each eigenspace, summed over the eigenspaces.

    Of P a node sees the linear maps from pairs to nodes (diagonal, row sum, trace, total), with weights of their own
    for each multiplicity. Invariant to signs and bases. Not continuous: eigenvalues that are equal up to `tolerance`
    make one space, and a small change of the graph that divides them changes the encoding by a finite amount.

    Args:
        d: number of modes.
        p: channels of the encoding; d if not given.
        width: hidden channels.
        layers: linear maps of each MLP.
        max_multiplicity: larger ones share their weights.
        tolerance: eigenvalues closer than this are equal.
        guard: `drop` or `keep` an eigenvalue that the cut would divide.

    Source: after Lim et al., ICLR 2023, arXiv:2202.13013; the code published with SPE is not equivariant and no target.
    """

    kind = "basisnet"

    def __init__(
        self,
        d: int,
        p: int | None = None,
        width: int = 64,
        layers: int = 3,
        max_multiplicity: int = 8,
        tolerance: float = 1e-5,
        guard: str = "drop",
    ) -> None:
        super().__init__()
        self.d, self.guard, self.tolerance = d, guard, tolerance
        self.width = d if p is None else p
        self.first = nn.Parameter(torch.randn(max_multiplicity, 4, width) / 2.0)
        self.bias = nn.Parameter(torch.zeros(max_multiplicity, width))
        self.space = MLP(width, width, width, layers)
        self.out = MLP(width, width, self.width, layers)

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`."""
        values, vectors = checked_modes(self, eigenvalues, eigenvectors, edge_index)
        owner = graph_of_nodes(len(vectors), batch, edge_index)
        real = real_modes(values, vectors, owner, eigenvector_count)
        apart = (values.detach().diff(dim=1) > self.tolerance).long()
        space = torch.cat([apart.new_zeros(len(values), 1), apart.cumsum(1)], 1)
        member = nn.functional.one_hot(space, self.d).to(self.first.dtype) * real[..., None]
        vectors = vectors.to(self.first.dtype)
        total = segment_sum(vectors, owner, len(values))
        size = torch.bincount(owner, minlength=len(values)).to(vectors.dtype)[:, None]
        count = member.sum(1)  # multiplicity of each space
        squares = (total.square() / size)[:, None] @ member
        of_graph = torch.stack([count / size, squares[:, 0]], 2)
        diagonal = torch.bmm(vectors.square()[:, None], member[owner])[:, 0]
        sums = torch.bmm((vectors * total[owner])[:, None], member[owner])[:, 0]
        seen = torch.cat([torch.stack([diagonal, sums], 2), of_graph[owner]], 2)
        kind = (count.long() - 1).clamp(0, len(self.first) - 1)
        rows = torch.einsum("nsk,nskh->nsh", seen, self.first[kind][owner]) + self.bias[kind][owner]
        rows = self.space(torch.relu(rows)) * (count[owner] > 0)[..., None]
        return self.out(rows.sum(1))


class GraphwiseBatchNorm(BatchRows):
    """Batch normalisation whose statistics are those of one graph at a time, remembered one after the other."""

    def per_graph(self, rows: Tensor, graph: Tensor, order: Tensor) -> Tensor:
        """Normalise rows; `order` are the graphs in the order in which their statistics are remembered."""
        if not self.training:
            return self(rows)
        count = torch.bincount(graph, minlength=len(order)).to(rows.dtype)[:, None]
        mean = segment_sum(rows, graph, len(order)) / count
        centred = rows - mean.index_select(0, graph)
        variance = segment_sum(centred.square(), graph, len(order)) / count
        for one in order.tolist():
            self.remember(mean[one], variance[one], float(count[one]))
        return centred * (variance + self.eps).rsqrt().index_select(0, graph) * self.weight + self.bias


class PEARL(PositionalEncoding):
    """Σ_s GIN(MLP(q_s, L q_s, …, L^{k−1} q_s)) over random node vectors q_s, or over all unit vectors. No modes needed.

    With random vectors the encoding is a random number, equivariant on average; in evaluation the same vectors are
    drawn each time.

    Args:
        p: channels of the encoding.
        powers: k.
        samples: number of random vectors; None takes the unit vectors.
        filter_layers: linear maps of the MLP, each with norm and activation.
        filter_width: hidden channels of it.
        filter_outputs: channels of its output; `filter_width` if not given.
        layers: of the GIN.
        width: channels between them.
        mlp_width: hidden channels of its MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        activation: `relu` or `tanh`.
        norm_between: batch normalisation between layers.
        epsilon: initial value of ε: `zero` or `normal`.

    Source: Kanatsoulis et al., ICLR 2025, arXiv:2502.01122.
    """

    kind = "pearl"

    def __init__(
        self,
        p: int,
        powers: int = 8,
        samples: int | None = 32,
        filter_layers: int = 1,
        filter_width: int = 32,
        filter_outputs: int | None = None,
        layers: int = 3,
        width: int = 64,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        activation: str = "relu",
        norm_between: bool = True,
        epsilon: str = "zero",
    ) -> None:
        super().__init__()
        if powers < 1 or filter_layers < 1 or (samples is not None and samples < 1):
            raise ConfigError(
                f"PEARL with {powers} powers, {samples} samples, {filter_layers} layers: expected 1 or more"
            )
        self.width, self.powers, self.samples, self.activation = p, powers, samples, activation
        sizes = [powers, *[filter_width] * (filter_layers - 1), filter_outputs or filter_width]
        self.linears = modules(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = modules(GraphwiseBatchNorm(size) for size in sizes[1:])
        self.gin = ColumnGIN(
            sizes[-1], width, p, layers, mlp_width or width, mlp_layers, "batch", activation, norm_between, epsilon
        )

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
        vectors: Float[Tensor, "nodes samples"] | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`.

        Args:
            eigenvalues: not read.
            eigenvectors: not read.
            edge_index: `[2, edges]`.
            batch: `[nodes]`; one graph if not given.
            eigenvector_count: not read.
            vectors: random node vectors to use; drawn if not given.

        Returns:
            `[nodes, p]`.
        """
        nodes = len(batch) if batch is not None else int(edge_index.max()) + 1
        owner = graph_of_nodes(nodes, batch, edge_index)
        dtype = self.linears[0].weight.dtype
        packed = PackedGraphs(owner, edge_index, int(owner[-1]) + 1, dtype)
        rows, blocks = self._vectors(packed, vectors, dtype, owner.device)
        degree = aggregate(rows.new_ones(nodes, 1), None, blocks_of(packed.groups, [1] * len(packed.groups)))
        each = torch.tensor([block.columns for block in blocks], device=owner.device)
        each = each.repeat_interleave(torch.tensor([b.shape[0] * b.shape[1] for b in blocks], device=owner.device))
        scale = torch.where(degree > 0, degree.clamp(min=1e-30).rsqrt(), 0.0).repeat_interleave(each, dim=0)
        powers = [rows]
        for _ in range(self.powers - 1):
            powers.append(powers[-1] - scale * aggregate(scale * powers[-1], None, blocks))
        out = torch.cat(powers, 1)
        graph = packed.graph_of_node.repeat_interleave(each)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            out = activated(norm.per_graph(linear(out), graph, packed.members.argsort()), self.activation)
        out = self.gin(out, blocks)
        sums = [out[block.rows].view(-1, block.columns, self.width).sum(1) for block in blocks]
        return torch.cat(sums).index_select(0, packed.ranks)

    def _vectors(
        self, packed: PackedGraphs, vectors: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, list[Block]]:
        if self.samples is None:
            blocks = blocks_of(packed.groups, [group.size for group in packed.groups])
            units = [torch.eye(b.columns, dtype=dtype).repeat(b.shape[0], 1, 1).view(-1, 1) for b in blocks]
            return torch.cat(units).to(device), blocks
        if vectors is None:
            generator = None if self.training else torch.Generator().manual_seed(0)
            vectors = torch.randn(len(packed.nodes), self.samples, generator=generator, dtype=dtype).to(device)
        rows = vectors.to(dtype).index_select(0, packed.nodes).reshape(-1, 1)
        return rows, blocks_of(packed.groups, [self.samples] * len(packed.groups))
