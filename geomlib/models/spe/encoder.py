"""`SPE`: stable and expressive positional encodings from Laplacian modes."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.errors import ConfigError
from geomlib.models.spe.encoding import PositionalEncoding, checked_modes, graph_of_nodes, real_modes, split_kind
from geomlib.models.spe.mlp import MLP
from geomlib.models.spe.packing import PackedGraphs
from geomlib.models.spe.phi import make_phi
from geomlib.models.spe.rho import make_rho

__all__ = ["SPE", "PairSPE"]

Part = str | Mapping[str, Any]


class SPE(PositionalEncoding):
    """ρ(V φ_1(λ) Vᵀ, …, V φ_m(λ) Vᵀ): a row for each node, from the d lowest modes of the Laplacian.

    It does not depend on signs of eigenvectors nor on the basis of an eigenspace, and it changes little where the
    graph changes little, since φ weighs eigenvectors smoothly by their eigenvalues.

    The work is done on the pairs of nodes that there are, graphs of equal size side by side, without padding; W is
    never formed by the default ρ. Where nothing ties pairs of different columns together (all but batch statistics in
    training), columns are evaluated in pieces that fit into the processor's cache, and again for the derivative, so
    that memory does not grow with the number of pairs times channels times layers.

    Args:
        d: number of modes.
        m: number of functions φ, which are the channels of a pair.
        p: channels of the encoding; d if not given.
        phi: name of φ, or `{kind: …, …}` with its arguments; see `geomlib.models.spe.phi`.
        rho: name of ρ, or `{kind: …, …}` with its arguments; see `geomlib.models.spe.rho`.
        columns: estimate the sum over columns from so many random ones in graphs that have more (unbiased). New ones
            for each evaluation in training, the same ones otherwise.
        recompute: `auto` evaluates in pieces where that is exact; `none` keeps everything for the derivative.
        piece_rows: pairs of a piece; by default 2,048 on a CPU and 131,072 elsewhere, 16 columns at least.
        reference_norm: batch statistics and sums over eigenvalues count padding, as the published code does. Results
            then depend on what else is in the batch.
        output_mlp: `none`; `unused` adds the MLP p → p that the published code makes, counts and never calls (frozen).
        pool: `sum` over columns as published, or their `mean`, which does not grow with the graph and trains more
            steadily where graphs differ in size.
        guard: `drop` or `keep` an eigenvalue that the cut after d modes would divide.

    Source: Huang et al., ICLR 2024, arXiv:2310.02579, §3. Masked sums and statistics, layer norm, and ε = 0 at the
        beginning are not those of the published code.
    """

    kind = "spe"

    def __init__(
        self,
        d: int,
        m: int = 16,
        p: int | None = None,
        phi: Part = "mlp",
        rho: Part = "gin",
        columns: int | None = None,
        recompute: Literal["auto", "none"] = "auto",
        piece_rows: int | None = None,
        reference_norm: bool = False,
        output_mlp: Literal["none", "unused"] = "none",
        pool: Literal["sum", "mean"] = "sum",
        guard: str = "drop",
    ) -> None:
        super().__init__()
        if any(number is not None and number < 1 for number in (d, columns, piece_rows)):
            raise ConfigError(f"SPE with d = {d}, columns = {columns}, piece_rows = {piece_rows}: expected at least 1")
        if recompute not in ("auto", "none"):
            raise ConfigError(f"recompute is '{recompute}'; expected 'auto' or 'none'")
        self.d, self.m, self.guard = d, m, guard
        self.width = d if p is None else p
        self.columns, self.recompute, self.piece_rows = columns, recompute, piece_rows
        if pool not in ("sum", "mean"):
            raise ConfigError(f"pool is '{pool}'; expected 'sum' or 'mean'")
        self.reference_norm, self.pool = reference_norm, pool
        name, options = split_kind(phi, "mlp")
        self.phi = make_phi(name, m, **options)
        name, options = split_kind(rho, "gin")
        self.rho = make_rho(name, m, self.width, **options)
        if output_mlp == "unused":
            hidden = options.get("mlp_width") or options.get("width", 128)
            self.unused = MLP(self.width, hidden, self.width, 3, options.get("norm", "layer")).requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the evaluation."""
        return next(iter(self.rho.parameters())).dtype

    @torch.compiler.disable
    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`.

        Args:
            eigenvalues: `[graphs, d]`, padded with zeros.
            eigenvectors: `[nodes, d]`, padded with zeros.
            edge_index: `[2, edges]`.
            batch: `[nodes]`; one graph if not given.
            eigenvector_count: `[graphs]`.
            generator: of random columns.

        Returns:
            `[nodes, p]`.
        """
        with torch.autocast(edge_index.device.type, enabled=False):
            values, vectors = checked_modes(self, eigenvalues, eigenvectors, edge_index)
            owner = graph_of_nodes(len(vectors), batch, edge_index)
            weights = self.weights(values, vectors, owner, eigenvector_count)
            packed = PackedGraphs(owner, edge_index, len(values), self.dtype)
            rows = vectors.to(self.dtype).index_select(0, packed.nodes)
            phi = weights.index_select(0, packed.members)
            chosen = self._columns(packed, generator)
            pieces = None if self.recompute == "none" else self.piece_rows or _piece_rows(packed)
            out = self.rho(packed, rows, phi, chosen, pieces, padded=self.reference_norm and self.training)
            if self.pool == "mean":
                out = out / packed.sizes.index_select(0, packed.graph_of_node)[:, None]
            return out.index_select(0, packed.ranks)

    def weights(
        self, eigenvalues: Tensor, eigenvectors: Tensor, batch: Tensor, count: Tensor | None = None
    ) -> Float[Tensor, "graphs d {self.m}"]:
        """φ(λ)."""
        real = real_modes(eigenvalues, eigenvectors, batch, count)
        return self.phi(eigenvalues.to(self.dtype), real, padded=self.reference_norm)

    def pairs(
        self,
        eigenvalues: Float[Tensor, "graphs d"],
        eigenvectors: Float[Tensor, "nodes d"],
        pairs: Int[Tensor, "2 pairs"],
        batch: Int[Tensor, " nodes"] | None = None,
        eigenvector_count: Int[Tensor, " graphs"] | None = None,
    ) -> Float[Tensor, "pairs {self.m}"]:
        """(V φ(λ) Vᵀ)[u, v] at given pairs of nodes only: features of edges, or a bias of attention.

        Args:
            eigenvalues: padded with zeros.
            eigenvectors: padded with zeros.
            pairs: nodes u and v, of the same graph.
            batch: graph of each node; one graph if not given.
            eigenvector_count: modes of each graph.
        """
        owner = graph_of_nodes(len(eigenvectors), batch, pairs)
        phi = self.weights(eigenvalues, eigenvectors, owner, eigenvector_count)
        return pair_channels_at(eigenvectors.to(self.dtype), phi, pairs, owner)

    def _columns(self, packed: PackedGraphs, generator: torch.Generator | None) -> list[Tensor | None]:
        if self.columns is None or all(group.size <= self.columns for group in packed.groups):
            return [None] * len(packed.groups)
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        chosen: list[Tensor | None] = []
        for group in packed.groups:
            if group.size <= self.columns:
                chosen.append(None)
                continue
            draws = torch.rand(group.graphs, group.size, generator=generator)
            chosen.append(draws.argsort(1)[:, : self.columns].sort(1).values.to(packed.nodes.device))
        return chosen


def _piece_rows(packed: PackedGraphs) -> int:
    """What fits into a processor's cache, or keeps an accelerator busy; and some columns of the largest graph.

    Each piece gives a row for each node, so pieces of single columns would need as much memory as all pairs.
    """
    least = 2**11 if packed.nodes.device.type == "cpu" else 2**17
    return max(least, 16 * packed.groups[-1].size)


def pair_channels_at(vectors: Tensor, phi: Tensor, pairs: Tensor, batch: Tensor) -> Tensor:
    """W at given pairs, `[pairs, m]`."""
    product = vectors.index_select(0, pairs[0]) * vectors.index_select(0, pairs[1])
    if len(phi) == 1:
        return product @ phi[0]
    return torch.bmm(product[:, None], phi.index_select(0, batch.index_select(0, pairs[0])))[:, 0]


class PairSPE(PositionalEncoding):
    """MLP of V φ(λ) Vᵀ at the edges of a graph, a row for each edge; O(edges · d · m), without pairs of all nodes.

    Args:
        d: number of modes.
        m: number of functions φ.
        p: channels of the encoding; m if not given.
        phi: name of φ, or `{kind: …, …}` with its arguments.
        layers: linear maps of the MLP.
        mlp_width: hidden channels of the MLP.
        guard: `drop` or `keep` an eigenvalue that the cut after d modes would divide.
    """

    kind = "spe_edges"
    per_edge = True

    def __init__(
        self,
        d: int,
        m: int = 16,
        p: int | None = None,
        phi: Part = "mlp",
        layers: int = 2,
        mlp_width: int = 64,
        guard: str = "drop",
    ) -> None:
        super().__init__()
        self.d, self.m, self.guard = d, m, guard
        self.width = m if p is None else p
        name, options = split_kind(phi, "mlp")
        self.phi = make_phi(name, m, **options)
        self.mlp = MLP(m, mlp_width, self.width, layers)

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`; `edge_index` may be any pairs of nodes of the same graph."""
        values, vectors = checked_modes(self, eigenvalues, eigenvectors, edge_index)
        dtype = self.mlp.linears[0].weight.dtype
        owner = graph_of_nodes(len(vectors), batch, edge_index)
        phi = self.phi(values.to(dtype), real_modes(values, vectors, owner, eigenvector_count))
        return self.mlp(pair_channels_at(vectors.to(dtype), phi, edge_index, owner))
