"""Neighbour lists of many structures that move at their own pace, each built anew only when it has to be."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomlib.apply.budget import Size
from geomlib.apply.verlet import canonical_order
from geomlib.errors import DataError
from geomlib.graphs.radius import RadiusEdges, batched_neighbor_list, neighbor_list

__all__ = ["BatchedVerletList"]


class BatchedVerletList:
    """Lists out to cutoff + skin of the structures of a batch; the rule for building one anew is that of `VerletList`.

    Args:
        edges: what the net asks for.
        skin: additional radius [Å]; 0 builds all lists at every call.

    Attributes:
        builds: how often a list was built.
    """

    def __init__(self, edges: RadiusEdges, skin: float) -> None:
        if not skin >= 0.0:
            raise DataError(f"skin is {skin} Å; expected 0 or a positive length")
        self.skin = float(skin)
        self.builds = 0
        self._edges = edges
        self._lists: list[tuple[Tensor, Tensor] | None] = []
        self._pos: list[Tensor] = []
        self._cell: list[Tensor] = []
        self._sizes: list[Size | None] = []
        self._reference: tuple[Tensor, Tensor] | None = None

    def add(self, count: int) -> None:
        """Let `count` structures in, at the end."""
        self._lists += [None] * count
        self._pos += [torch.empty(0, 3)] * count
        self._cell += [torch.empty(3, 3)] * count
        self._sizes += [None] * count
        self._reference = None

    def keep(self, positions: Sequence[int]) -> None:
        """Let all structures go but those at `positions`."""
        self._lists = [self._lists[position] for position in positions]
        self._pos = [self._pos[position] for position in positions]
        self._cell = [self._cell[position] for position in positions]
        self._sizes = [self._sizes[position] for position in positions]
        self._reference = None

    def update(
        self,
        pos: Float[Tensor, "nodes 3"],
        cell: Float[Tensor, "graphs 3 3"],
        pbc: Bool[Tensor, "graphs 3"],
        node_graph: Int[Tensor, " nodes"],
        starts: Sequence[int],
    ) -> tuple[dict[int, str], bool]:
        """Make the lists good for these positions and cells.

        Args:
            pos: positions of all structures [Å].
            cell: their lattice vectors [Å].
            pbc: their periodic directions.
            node_graph: structure of each atom.
            starts: first atom of each structure, and the number of all atoms at the end.

        Returns:
            Position → why the list of a structure can't be built (it is empty then), and whether any list is new.
        """
        stale = self._stale(pos, cell, pbc, node_graph, starts)
        problems: dict[int, str] = {}
        if not stale:
            return problems, False
        self._reference = None
        for position in stale:
            self._sizes[position] = None
            nodes = slice(starts[position], starts[position + 1])
            self._pos[position] = pos[nodes].clone()
            self._cell[position] = cell[position].clone()
        if pos.device.type == "cpu":
            for position in stale:
                self._build([position], pos, cell, pbc, starts, problems)
        else:
            self._build(stale, pos, cell, pbc, starts, problems)
        return problems, True

    def joined(
        self, first: int, last: int, starts: Sequence[int]
    ) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
        """Lists of consecutive structures as one, atoms counted from the first of them."""
        chosen = [row for row in self._lists[first:last] if row is not None]
        index = [row[0] + (starts[first + k] - starts[first]) for k, row in enumerate(chosen)]
        return torch.cat(index, dim=1), torch.cat([row[1] for row in chosen])

    def size(self, position: int, angle_cutoff: float | None) -> Size:
        """Atoms, edges and angles of a structure as they were when its list was built."""
        known, row = self._sizes[position], self._lists[position]
        if known is not None or row is None:
            return known or Size()
        pos, cell = self._pos[position], self._cell[position]
        (source, target), shift = row
        lengths = (pos[source] - pos[target] + shift @ cell).norm(dim=1)
        angles = 0
        if angle_cutoff is not None:
            angles = int(torch.bincount(target[lengths < angle_cutoff]).square().sum())
        size = Size(len(pos), int((lengths < self._edges.cutoff).sum()), angles)
        self._sizes[position] = size
        return size

    # -- inside --------------------------------------------------------------------------------------------------------

    def _stale(
        self,
        pos: Float[Tensor, "nodes 3"],
        cell: Float[Tensor, "graphs 3 3"],
        pbc: Bool[Tensor, "graphs 3"],
        node_graph: Int[Tensor, " nodes"],
        starts: Sequence[int],
    ) -> list[int]:
        """Structures whose list might miss an edge."""
        new = [position for position, row in enumerate(self._lists) if row is None]
        if self.skin == 0.0 or len(new) == len(self._lists):
            return list(range(len(self._lists)))
        if self._reference is None:
            kept = [row is not None for row in self._lists]
            now = [pos[start:end] for start, end in pairwise(starts)]
            self._reference = (
                torch.cat([old if there else new for there, old, new in zip(kept, self._pos, now, strict=True)]),
                torch.stack([old if there else new for there, old, new in zip(kept, self._cell, cell, strict=True)]),
            )
        old, old_cell = self._reference
        least_stretch = torch.ones(len(cell), dtype=pos.dtype, device=pos.device)
        if not torch.equal(cell, old_cell):
            periodic = pbc.unsqueeze(2)
            before, after = (torch.where(periodic, each, 0.0) for each in (old_cell, cell))
            affine = torch.eye(3, dtype=pos.dtype, device=pos.device) + torch.linalg.pinv(before) @ (after - before)
            least_stretch = torch.linalg.svdvals(affine)[:, -1]
            old = torch.einsum("nc,ncd->nd", old, affine[node_graph])
        displacement = pos - old
        count = torch.bincount(node_graph, minlength=len(cell)).unsqueeze(1)
        mean = displacement.new_zeros(len(cell), 3).index_add(0, node_graph, displacement) / count
        square = (displacement - mean[node_graph]).square().sum(1)
        largest = square.new_zeros(len(cell)).scatter_reduce(0, node_graph, square, "amax").sqrt()
        holds = least_stretch * (self._edges.cutoff + self.skin) - 2.0 * largest >= self._edges.cutoff
        moved = (~holds).nonzero().squeeze(1).tolist()
        return sorted({*new, *moved})

    def _build(
        self,
        positions: Sequence[int],
        pos: Float[Tensor, "nodes 3"],
        cell: Float[Tensor, "graphs 3 3"],
        pbc: Bool[Tensor, "graphs 3"],
        starts: Sequence[int],
        problems: dict[int, str],
    ) -> None:
        """Lists of some structures, in one search; one by one where that fails."""
        cutoff = self._edges.cutoff + self.skin
        parts = [pos[starts[position] : starts[position + 1]] for position in positions]
        try:
            for position, part in zip(positions, parts, strict=True):
                if not bool(torch.isfinite(part).all() and torch.isfinite(cell[position]).all()):
                    raise DataError("positions or the cell are not finite")
            if len(positions) == 1 and pos.device.type == "cpu":
                found = [neighbor_list(parts[0], cell[positions[0]], pbc[positions[0]], cutoff)]
            else:
                found = _search(parts, cell[list(positions)], pbc[list(positions)], cutoff)
        except DataError as error:
            if len(positions) > 1:
                for position in positions:
                    self._build([position], pos, cell, pbc, starts, problems)
                return
            problems[positions[0]] = str(error)
            empty = torch.zeros(2, 0, dtype=torch.int64, device=pos.device)
            self._lists[positions[0]] = (empty, pos.new_zeros(0, 3))
            return
        for position, (index, shift) in zip(positions, found, strict=True):
            order = canonical_order(index, shift)
            self._lists[position] = (index[:, order], shift[order])
            self.builds += 1


def _search(
    parts: Sequence[Float[Tensor, "nodes 3"]],
    cell: Float[Tensor, "graphs 3 3"],
    pbc: Bool[Tensor, "graphs 3"],
    cutoff: float,
) -> list[tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]]:
    """Lists of several structures from one search on their device."""
    counts = torch.tensor([len(part) for part in parts], device=cell.device)
    owner = torch.repeat_interleave(torch.arange(len(parts), device=cell.device), counts)
    index, shift = batched_neighbor_list(torch.cat(list(parts)), cell, pbc, owner, cutoff)
    edges = torch.bincount(owner[index[1]], minlength=len(parts)).tolist()
    first = (counts.cumsum(0) - counts).tolist()
    columns = zip(index.split(edges, dim=1), shift.split(edges), first, strict=True)
    return [(part - start, shifts) for part, shifts, start in columns]
