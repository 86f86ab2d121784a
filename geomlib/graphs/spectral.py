"""Lowest modes of graph Laplacians: dense for small graphs, many of one size at once; Lanczos for large ones."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.builder import Builder

__all__ = ["LaplacianModes", "SPETransform"]

Numbers = NDArray[np.float64]
Positions = NDArray[np.int64]

RESIDUAL = 1e-8
"""Largest |L v − λ v| of a mode that Lanczos may return."""


@dataclass(frozen=True)
class LaplacianModes(Builder):
    """The `d` lowest eigenpairs of the symmetric normalised Laplacian L = I − D^{-1/2} A D^{-1/2}, in float64.

    The trivial pair is one of them. L of a node without edges is 1, so a single node has the eigenvalue 1. A
    disconnected graph has the eigenvalue 0 once for each part that has edges. A graph of n < d nodes has n pairs; the
    rest of its `eigenvalues` and of the columns of its `eigenvectors` is zero. Parallel edges add up.

    A cut through a repeated eigenvalue leaves some of its eigenvectors out, and which ones depends on the basis that
    the solver happened to return; what is made of them is then no function of the graph. So all pairs of that
    eigenvalue are left out, unless `guard` is `keep`. With d ≥ n nothing is ever cut.

    Args:
        d: number of eigenpairs.
        guard: `drop` the eigenvalue that the cut would divide, or `keep` what is there of it.
        tolerance: eigenvalues closer than this times 2, the width of the spectrum, are one.
        directed: `refuse` edges without an opposite one of equal weight, or `symmetrize`: the larger weight of the two.
        dense_limit: larger graphs are solved by Lanczos where d + 1 < n, with residuals checked.

    Source: Huang et al., ICLR 2024, arXiv:2310.02579. The guard is not in the published code.
    """

    kind: ClassVar[str] = "laplacian_modes"
    provides: ClassVar[tuple[str, ...]] = ("eigenvalues", "eigenvectors", "eigenvector_count")
    batched: ClassVar[bool] = False

    d: int
    guard: Literal["drop", "keep"] = "drop"
    tolerance: float = 1e-5
    directed: Literal["refuse", "symmetrize"] = "refuse"
    dense_limit: int = 1500

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ConfigError(f"LaplacianModes wants d = {self.d} eigenpairs; expected at least 1")
        if self.guard not in ("drop", "keep") or self.directed not in ("refuse", "symmetrize"):
            raise ConfigError(
                f"LaplacianModes has guard '{self.guard}' and directed '{self.directed}'; "
                "expected 'drop' or 'keep', and 'refuse' or 'symmetrize'"
            )

    def build(self, graph: GraphData) -> None:
        """Set `eigenvalues`, `eigenvectors` and `eigenvector_count` of a graph, or of a batch (faster per graph).

        Reads `edge_index` and, where there is one, `edge_weight`.

        Raises:
            DataError: no nodes, or edges that are directed, negative, not finite, or from a node to itself.
        """
        if "edge_index" not in graph:
            raise DataError("Laplacian modes need edges: the graph has no 'edge_index'")
        weights = graph.edge_weight if "edge_weight" in graph else None
        starts = graph.ptr if "ptr" in graph else torch.tensor([0, graph.num_nodes])
        values, vectors, count = self.modes(graph.edge_index, starts, weights)
        device = graph.edge_index.device
        graph.eigenvalues, graph.eigenvectors = values.to(device), vectors.to(device)
        graph.eigenvector_count = count.to(device)

    def modes(
        self, edge_index: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Modes of graphs that lie one after the other.

        Args:
            edge_index: `[2, edges]`, both directions of every edge.
            starts: `[graphs + 1]`, first node of each graph, and the number of nodes.
            weights: `[edges]`; 1 if not given.

        Returns:
            Eigenvalues `[graphs, d]`, eigenvectors `[nodes, d]` as columns, number of pairs `[graphs]`.

        Raises:
            DataError: see `build`.
        """
        first: Positions = starts.cpu().numpy()
        edges: Positions = edge_index.detach().cpu().numpy()
        weight: Numbers = (
            np.ones(edges.shape[1]) if weights is None else weights.detach().cpu().to(torch.float64).numpy()
        )
        sizes = np.diff(first)
        _check_edges(edges, sizes, first)
        if weights is not None:
            _check_weights(weight)
        values = np.zeros((len(sizes), self.d))
        vectors = np.zeros((int(first[-1]), self.d))
        count = np.zeros(len(sizes), dtype=np.int64)
        if len(sizes) == 1:
            count[0] = self._one(edges, weight, values[0], vectors)
            return torch.from_numpy(values), torch.from_numpy(vectors), torch.from_numpy(count)
        owner = np.searchsorted(first, edges[0], side="right") - 1
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            if self._is_large(size):
                for member in members.tolist():
                    own = owner == member
                    local = edges[:, own] - first[member]
                    count[member] = self._one(
                        local, weight[own], values[member], vectors[first[member] : first[member + 1]]
                    )
                continue
            rank = np.full(len(sizes), -1)
            rank[members] = np.arange(len(members))
            own = rank[owner] >= 0
            local = edges[:, own] - first[owner[own]]
            laplacians = self._dense(local, weight[own], rank[owner[own]], len(members), size)
            low, modes = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(laplacians)))
            kept = self._kept(low)
            width = min(size, self.d)
            mask = np.arange(width) < kept[:, None]
            nodes = (first[members][:, None] + np.arange(size)).ravel()
            values[members[:, None], np.arange(width)] = low[:, :width] * mask
            vectors[nodes, :width] = (modes[:, :, :width] * mask[:, None, :]).reshape(-1, width)
            count[members] = kept
        return torch.from_numpy(values), torch.from_numpy(vectors), torch.from_numpy(count)

    def _is_large(self, size: int) -> bool:
        return size > self.dense_limit and self.d + 1 < size

    def _one(self, edges: Positions, weight: Numbers, values: Numbers, vectors: Numbers) -> int:
        """Fill `values` and `vectors` for one graph; return the number of pairs."""
        size = len(vectors)
        if self._is_large(size):
            low, modes = self._lanczos(edges, weight, size)
        else:
            laplacian = self._dense(edges, weight, 0, 1, size)[0]
            low, modes = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(laplacian)))
        kept = int(self._kept(low[None])[0])
        values[:kept] = low[:kept]
        vectors[:, :kept] = modes[:, :kept]
        return kept

    def _kept(self, low: Numbers) -> Positions:
        """Number of pairs to keep, from `[graphs, at least d + 1 or all]` ascending eigenvalues."""
        graphs, found = low.shape
        if found <= self.d:
            return np.full(graphs, found)
        if self.guard == "keep":
            return np.full(graphs, self.d)
        apart = np.diff(low[:, : self.d + 1], axis=1) >= 2.0 * self.tolerance
        return np.where(apart.any(1), self.d - np.argmax(apart[:, ::-1], axis=1), 0)

    def _dense(self, edges: Positions, weight: Numbers, graph: Positions | int, graphs: int, size: int) -> Numbers:
        """Laplacians `[graphs, size, size]`."""
        flat = (graph * size + edges[0]) * size + edges[1]
        total = np.bincount(flat, weights=weight, minlength=graphs * size * size)
        # of no edges it is integer
        adjacency: Numbers = total.astype(np.float64, copy=False).reshape(graphs, size, size)
        transposed = adjacency.transpose(0, 2, 1)
        if self.directed == "symmetrize":
            adjacency = np.maximum(adjacency, transposed)
        elif (adjacency != transposed).any():
            _, row, column = np.argwhere(adjacency != transposed)[0].tolist()
            raise DataError(_one_way(row, column))
        degree = adjacency.sum(2)
        degree[degree == 0.0] = np.inf
        scale = 1.0 / np.sqrt(degree)
        laplacian = adjacency * -scale[:, :, None]
        laplacian *= scale[:, None, :]
        laplacian.reshape(graphs, -1)[:, :: size + 1] += 1.0
        return laplacian

    def _lanczos(self, edges: Positions, weight: Numbers, size: int) -> tuple[Numbers, Numbers]:
        """The d + 1 lowest pairs of one large graph; by the dense solver where Lanczos misses some."""
        adjacency = sparse.coo_array((weight, (edges[0], edges[1])), shape=(size, size)).tocsr()
        if self.directed == "symmetrize":
            adjacency = adjacency.maximum(adjacency.T)
        elif (one_way := (adjacency != adjacency.T).tocoo()).nnz:
            raise DataError(_one_way(int(one_way.row[0]), int(one_way.col[0])))
        degree = adjacency.sum(axis=1)
        scale = np.where(degree > 0, 1.0 / np.sqrt(np.where(degree > 0, degree, 1.0)), 0.0)
        diagonal = sparse.diags_array(scale)
        laplacian = (sparse.eye_array(size) - diagonal @ adjacency @ diagonal).tocsr()
        start = np.cos(
            np.arange(1, size + 1, dtype=np.float64)
        )  # any vector that no symmetry of a graph maps to itself
        wanted = self.d + 1
        try:
            # shifted below the spectrum, so that what is inverted is positive definite
            low, modes = eigsh(laplacian.tocsc(), k=wanted, sigma=-0.01, which="LM", v0=start)
        except (ArpackError, RuntimeError):
            return _all_modes(laplacian)
        order = np.argsort(low)
        low, modes = low[order], modes[:, order]
        if not _complete(laplacian, degree, low, modes, start):
            return _all_modes(laplacian)
        return low, modes


def _all_modes(laplacian: Any) -> tuple[Numbers, Numbers]:
    low, modes = torch.linalg.eigh(torch.from_numpy(laplacian.toarray()))
    return low.numpy(), modes.numpy()


def _complete(laplacian: Any, degree: Numbers, low: Numbers, modes: Numbers, start: Numbers) -> bool:
    """Whether pairs are accurate, orthonormal, and none below the highest one is missing."""
    residual = np.abs(laplacian @ modes - modes * low).max()
    overlap = np.abs(modes.T @ modes - np.eye(len(low))).max()
    if residual > RESIDUAL or overlap > RESIDUAL:
        return False
    parts, label = connected_components(laplacian, directed=False)
    zeros = int((np.bincount(label, weights=degree > 0, minlength=parts) > 0).sum())
    if int((low < RESIDUAL).sum()) != min(zeros, len(low)):
        return False
    # with the pairs that were found moved up by 2, the lowest that is left must not be below the highest of them

    def moved(vector: Numbers) -> Numbers:
        return laplacian @ vector + 2.0 * (modes @ (modes.T @ vector))

    rest = LinearOperator(laplacian.shape, matvec=moved, dtype=np.float64)
    try:
        left = eigsh(rest, k=1, which="SA", v0=start, tol=1e-4, return_eigenvectors=False)
    except ArpackError:
        return False
    return bool(left[0] > low[-1] - 1e-4)


def _one_way(source: int, target: int) -> str:
    return (
        f"edge {source} → {target} has no opposite edge of equal weight (nodes counted within their graph), and a "
        "Laplacian with real modes needs both: add it, or set directed to 'symmetrize'"
    )


def _check_edges(edges: Positions, sizes: Positions, first: Positions) -> None:
    """Raise unless these are edges of graphs that have Laplacian modes."""
    if not len(sizes) or sizes.min() == 0:
        raise DataError("Laplacian modes of a graph without nodes: leave empty graphs out")
    if not edges.shape[1]:
        return
    if edges.min() < 0 or edges.max() >= first[-1]:
        raise DataError(f"edge_index holds {edges.min()}…{edges.max()}, but there are {first[-1]} nodes")
    loops = edges[0] == edges[1]
    if loops.any():
        at = int(np.argmax(loops))
        raise DataError(
            f"edge {at} joins node {edges[0, at]} to itself: Laplacian modes are those of graphs without such loops; "
            "remove them (torch_geometric.utils.remove_self_loops)"
        )


def _check_weights(weight: Numbers) -> None:
    """Raise unless all are finite and at least 0."""
    wrong = ~(weight >= 0.0) | ~np.isfinite(weight)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"edge {at} has the weight {weight[at]}; expected a finite one, at least 0")


class SPETransform(BaseTransform):
    """`LaplacianModes` for plain PyG data sets: adds `eigenvalues`, `eigenvectors` and `eigenvector_count`.

        dataset = ZINC("zinc", pre_transform=SPETransform(37))

    They batch as PyG's loaders do: `[graphs, d]`, `[nodes, d]` and `[graphs]`.

    Args:
        d: number of eigenpairs.
        weight: attribute that holds weights of edges, if any.
        dtype: precision in which they are stored; they are computed in float64.
        **options: other arguments of `LaplacianModes`.
    """

    def __init__(self, d: int, weight: str | None = None, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        self.modes = LaplacianModes(d, **options)
        self.weight, self.dtype = weight, dtype

    def forward(self, data: Data) -> Data:
        """Add the modes to one graph.

        Raises:
            DataError: see `LaplacianModes`.
        """
        if data.edge_index is None or data.num_nodes is None:
            raise DataError("Laplacian modes need 'edge_index' and the number of nodes of a graph")
        starts = torch.tensor([0, data.num_nodes])
        weights = None if self.weight is None else data[self.weight]
        values, vectors, count = self.modes.modes(data.edge_index, starts, weights)
        data.eigenvalues, data.eigenvectors = values.to(self.dtype), vectors.to(self.dtype)
        data.eigenvector_count = count
        return data
