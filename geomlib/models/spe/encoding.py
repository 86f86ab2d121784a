"""`PositionalEncoding`: what all encodings offer, and those that need no network on pairs of nodes."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.builder import Builder
from geomlib.graphs.spectral import LaplacianModes
from geomlib.models.spe.packing import PackedGraphs
from geomlib.nn.reduce import segment_sum

__all__ = ["PEG", "RWSE", "LaplacianEncoding", "NoEncoding", "PositionalEncoding", "real_modes"]


class PositionalEncoding(nn.Module):
    """Base of all encodings of where nodes are in their graph.

    Class attributes:
        kind: name in a net's config.
        per_edge: whether an encoding has a row for each edge; else for each node.

    Attributes:
        d: number of Laplacian modes that are read; 0 if none.
        width: channels of the encoding.
        guard: what becomes of an eigenvalue that the cut after d modes would divide.
    """

    kind: ClassVar[str]
    per_edge: ClassVar[bool] = False
    d: int = 0
    width: int = 0
    guard: str = "drop"

    @property
    def builders(self) -> tuple[Builder, ...]:
        """What has to be built for a graph."""
        return (LaplacianModes(self.d, guard="keep" if self.guard == "keep" else "drop"),) if self.d else ()

    def forward(
        self,
        eigenvalues: Float[Tensor, "graphs d"] | None,
        eigenvectors: Float[Tensor, "nodes d"] | None,
        edge_index: Int[Tensor, "2 edges"],
        batch: Int[Tensor, " nodes"] | None = None,
        eigenvector_count: Int[Tensor, " graphs"] | None = None,
    ) -> Float[Tensor, "rows {self.width}"]:
        """Encode.

        Args:
            eigenvalues: of each graph, padded with zeros; not read by encodings that need no modes.
            eigenvectors: as columns, padded with zeros.
            edge_index: both directions of every edge.
            batch: graph of each node, ascending; one graph if not given.
            eigenvector_count: number of modes that are no padding; those with eigenvectors that are not all zero if
                not given.

        Returns:
            A row for each node, or for each edge where `per_edge`.
        """
        raise TypeError(f"{type(self).__name__} must define forward")

    def encode(self, graph: GraphData) -> Float[Tensor, "rows {self.width}"]:
        """Encoding of a graph or batch that was built by `builders`."""
        modes = [graph[name] if self.d else None for name in ("eigenvalues", "eigenvectors", "eigenvector_count")]
        return self(modes[0], modes[1], graph.edge_index, graph.node_graph, modes[2])


def real_modes(
    eigenvalues: Float[Tensor, "graphs d"],
    eigenvectors: Float[Tensor, "nodes d"],
    batch: Int[Tensor, " nodes"],
    count: Int[Tensor, " graphs"] | None,
) -> Bool[Tensor, "graphs d"]:
    """Which modes are no padding."""
    if count is not None:
        return torch.arange(eigenvalues.shape[1], device=count.device) < count[:, None]
    return segment_sum(eigenvectors.detach().square(), batch, len(eigenvalues)) > 0


def checked_modes(
    encoding: PositionalEncoding, eigenvalues: Tensor | None, eigenvectors: Tensor | None, edge_index: Tensor
) -> tuple[Tensor, Tensor]:
    """The modes, in one precision.

    Raises:
        DataError: they are missing, or more or fewer than the encoding wants.
    """
    if eigenvalues is None or eigenvectors is None:
        raise DataError(f"the encoding '{encoding.kind}' reads Laplacian modes: build them by LaplacianModes first")
    if eigenvalues.ndim != 2 or eigenvectors.ndim != 2 or not eigenvalues.shape[1] == eigenvectors.shape[1]:
        raise DataError(
            f"eigenvalues {list(eigenvalues.shape)} and eigenvectors {list(eigenvectors.shape)}: "
            "expected [graphs, d] and [nodes, d]"
        )
    if eigenvalues.shape[1] != encoding.d:
        raise DataError(
            f"the encoding '{encoding.kind}' wants {encoding.d} Laplacian modes, the graphs have "
            f"{eigenvalues.shape[1]}: build them with d = {encoding.d}"
        )
    return eigenvalues, eigenvectors


def graph_of_nodes(nodes: int, batch: Tensor | None, like: Tensor) -> Tensor:
    """`batch`, or zeros."""
    return like.new_zeros(nodes, dtype=torch.int64) if batch is None else batch


class NoEncoding(PositionalEncoding):
    """Nothing: rows of width 0."""

    kind = "none"

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`."""
        nodes = 0 if batch is None else len(batch)
        return torch.zeros(nodes, 0, device=edge_index.device)


class LaplacianEncoding(PositionalEncoding):
    """The eigenvectors themselves, each with a random sign in training.

    In evaluation the signs are those that the solver returned: the encoding is neither sign nor basis invariant.

    Args:
        d: number of modes.
        sign_flips: draw signs in training.
        trivial: keep the mode of the smallest eigenvalue; most use leaves it out.
        guard: `drop` or `keep` an eigenvalue that the cut would divide.
    """

    kind = "laplacian"

    def __init__(self, d: int, sign_flips: bool = True, trivial: bool = False, guard: str = "keep") -> None:
        super().__init__()
        self.d, self.guard = d, guard
        self.sign_flips, self.trivial = sign_flips, trivial
        self.width = d if trivial else d - 1
        if self.width < 1:
            raise ConfigError(f"Laplacian modes: d = {d} leaves none; expected at least 2 without the trivial one")

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
        if self.training and self.sign_flips:
            owner = graph_of_nodes(len(vectors), batch, edge_index)
            signs = 2.0 * torch.randint(2, values.shape, device=vectors.device).to(vectors.dtype) - 1.0
            vectors = vectors * signs.index_select(0, owner)
        return vectors if self.trivial else vectors[:, 1:]


class PEG(PositionalEncoding):
    """Distances |V_u − V_v| of the eigenvectors, for each edge. Invariant; says nothing about eigenvalues.

    Args:
        d: number of modes.
        guard: `drop` or `keep` an eigenvalue that the cut would divide.

    Source: Wang et al., ICLR 2022, arXiv:2203.00199.
    """

    kind = "peg"
    per_edge = True

    def __init__(self, d: int, guard: str = "drop") -> None:
        super().__init__()
        self.d, self.width, self.guard = d, 1, guard

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`."""
        _, vectors = checked_modes(self, eigenvalues, eigenvectors, edge_index)
        return edge_distances(vectors, edge_index)


def edge_distances(rows: Float[Tensor, "nodes width"], edge_index: Int[Tensor, "2 edges"]) -> Float[Tensor, "edges 1"]:
    """Distance of the two rows of each edge; its derivative is 0 where they are equal."""
    difference = rows.index_select(0, edge_index[0]) - rows.index_select(0, edge_index[1])
    return torch.linalg.vector_norm(difference, dim=1, keepdim=True)


class RWSE(PositionalEncoding):
    """Probabilities that a random walk is back after 1, 2, … steps: the diagonals of (D⁻¹A)^k.

    Args:
        steps: longest walk, and channels of the encoding.

    Source: Dwivedi et al., ICLR 2022, arXiv:2110.07875.
    """

    kind = "rwse"

    def __init__(self, steps: int = 16) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"random walks of {steps} steps: expected at least 1")
        self.width = steps
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def forward(
        self,
        eigenvalues: Tensor | None,
        eigenvectors: Tensor | None,
        edge_index: Tensor,
        batch: Tensor | None = None,
        eigenvector_count: Tensor | None = None,
    ) -> Tensor:
        """See `PositionalEncoding`."""
        nodes = len(batch) if batch is not None else int(edge_index.max()) + 1
        owner = graph_of_nodes(nodes, batch, edge_index)
        dtype = self.get_buffer("_like").dtype
        packed = PackedGraphs(owner, edge_index, int(owner[-1]) + 1, dtype)
        parts = []
        for group in packed.groups:
            identity = torch.eye(group.size, dtype=dtype, device=owner.device).expand(group.graphs, -1, -1)
            # D⁻¹A and D^{-1/2} A D^{-1/2} have the same diagonals of powers
            degree = group.adjacency.times(identity[:, :, :1] * 0 + 1, transposed=False)
            scale = torch.where(degree > 0, degree.clamp(min=1.0).rsqrt(), 0.0)
            power, diagonals = identity, []
            for _ in range(self.width):
                power = scale * group.adjacency.times((scale * power).contiguous(), transposed=False)
                diagonals.append(power.diagonal(dim1=1, dim2=2))
            parts.append(torch.stack(diagonals, 2).flatten(0, 1))
        return torch.cat(parts)[packed.ranks]


def split_kind(options: str | Mapping[str, Any], default: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a part that is given as a name, or as a mapping with a `kind`."""
    if isinstance(options, str):
        return options, {}
    arguments = dict(options)
    return str(arguments.pop("kind", default)), arguments
