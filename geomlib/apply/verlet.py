"""Neighbour lists that live through many steps of a simulation (Verlet lists with a skin)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.radius import RadiusEdges

__all__ = ["VerletList", "canonical_order"]


class VerletList:
    """Edges of one structure that moves little by little.

    The list is built out to cutoff + skin, and every call only drops what is too long now. It is built anew when an
    edge could be missing: with F the affine map from the old periodic lattice vectors to the new ones and u the
    displacements that F does not explain (their mean taken off), two atoms that were at least cutoff + skin apart are
    now at least σ_min(F)·(cutoff + skin) − 2·max|u| apart, and that must not be less than the cutoff. With a fixed
    cell this is the rule of half the skin.

    The edges of an atom are sorted by neighbour and image, so that sums over them, and with them a trajectory, do
    not depend on when the list was built.

    Args:
        edges: what the net asks for.
        skin: additional radius [Å]; 0 builds a list at every call.

    Attributes:
        builds: how often a list was built.
    """

    def __init__(self, edges: RadiusEdges, skin: float) -> None:
        if not skin >= 0.0:
            raise DataError(f"skin is {skin} Å; expected 0 or a positive length")
        self.skin = float(skin)
        self.builds = 0
        self._edges = edges
        self._wide = RadiusEdges(edges.cutoff + self.skin)
        self._reference: GraphData | None = None

    def update(self, graph: GraphData) -> None:
        """Set `edge_index` and `edge_shift` of `graph` as `RadiusEdges.build` would, the order within a centre apart.

        Raises:
            DataError: see `geomlib.graphs.radius.neighbor_list`.
        """
        if self._reference is None or not self._holds(self._reference, graph):
            self._reference = None  # nothing half-made stays if building fails
            self._reference = self._build(graph)
        graph.edge_index, graph.edge_shift = self._reference.edge_index, self._reference.edge_shift
        self._edges.select(graph)

    def _build(self, graph: GraphData) -> GraphData:
        self.builds += 1
        reference = GraphData(**{name: graph[name] for name in ("pos", "atomic_number", "cell", "pbc")}).clone()
        self._wide.build(reference)
        order = canonical_order(reference.edge_index, reference.edge_shift)
        reference.edge_index, reference.edge_shift = reference.edge_index[:, order], reference.edge_shift[order]
        return reference

    def _holds(self, old: GraphData, new: GraphData) -> bool:
        if self.skin == 0.0 or len(new.pos) != len(old.pos) or not torch.equal(new.pbc, old.pbc):
            return False
        pos, least_stretch = old.pos, 1.0
        if not torch.equal(new.cell, old.cell):
            affine = _affine_map(old.cell[0][old.pbc[0]], new.cell[0][new.pbc[0]])
            least_stretch = float(torch.linalg.svdvals(affine)[-1])
            pos = old.pos @ affine
        displacement = new.pos - pos
        displacement = displacement - displacement.mean(0)
        largest = float(displacement.square().sum(1).max().sqrt())
        return least_stretch * self._wide.cutoff - 2.0 * largest >= self._edges.cutoff


def _affine_map(old: Float[Tensor, "axes 3"], new: Float[Tensor, "axes 3"]) -> Float[Tensor, "3 3"]:
    """F with old·F = new that leaves directions without lattice vectors alone."""
    identity = torch.eye(3, dtype=old.dtype, device=old.device)
    return identity + torch.linalg.pinv(old) @ (new - old) if len(old) else identity


def canonical_order(edge_index: Int[Tensor, "2 edges"], shift: Float[Tensor, "edges 3"]) -> Int[Tensor, " edges"]:
    """Order by centre, neighbour and the three components of the shift."""
    order = torch.arange(edge_index.size(1), device=edge_index.device)
    for key in (shift[:, 2], shift[:, 1], shift[:, 0], edge_index[0], edge_index[1]):
        order = order[torch.argsort(key[order], stable=True)]
    return order
