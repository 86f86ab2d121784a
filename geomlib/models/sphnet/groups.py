"""Groups of atoms by a rule that neither the order of the atoms nor chance plays a part in."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.models.sphnet.vectorial import Groups

__all__ = ["atom_groups"]


def atom_groups(
    pos: Float[Tensor, "nodes 3"],
    atomic_number: Int[Tensor, " nodes"],
    graph: Int[Tensor, " nodes"],
    graphs: int,
    size: int,
) -> Groups:
    """⌊N/size⌋ groups of each molecule (at least one), around atoms that lie far apart.

    The first seed is the atom farthest from the centre of charge, each further one that farthest from the seeds so far;
    of equally far ones the heavier is taken. Atoms go to the nearest seed. All atoms of a molecule see all its groups.

    Args:
        pos: positions [Å].
        atomic_number: of the atoms.
        graph: molecule of each atom, ascending.
        graphs: number of molecules.
        size: atoms of a group, about.
    """
    of_atom = torch.zeros_like(graph)
    atoms: list[Tensor] = []
    seen: list[Tensor] = []
    count = 0
    for molecule in range(graphs):
        rows = (graph == molecule).nonzero().squeeze(1)
        seeds = _seeds(pos[rows], atomic_number[rows], max(1, len(rows) // size))
        distance = torch.cdist(pos[rows], pos[rows][seeds])
        of_atom[rows] = count + _rounded(distance).argmin(1)
        found = torch.unique(of_atom[rows])
        atoms.append(rows.repeat_interleave(len(found)))
        seen.append(found.repeat(len(rows)))
        count += len(seeds)
    return Groups(of_atom, count, torch.cat(atoms), torch.cat(seen))


def _seeds(pos: Float[Tensor, "nodes 3"], atomic_number: Int[Tensor, " nodes"], count: int) -> Int[Tensor, " seeds"]:
    charge = atomic_number.to(pos).unsqueeze(1)
    farthest = (pos - (pos * charge).sum(0) / charge.sum()).norm(dim=1)
    seeds: list[Tensor] = []
    for _ in range(count):
        score = _rounded(farthest)
        tied = (score == score.max()).nonzero().squeeze(1)
        seeds.append(tied[atomic_number[tied].argmax()])
        distance = (pos - pos[seeds[-1]]).norm(dim=1)
        farthest = distance if len(seeds) == 1 else torch.minimum(farthest, distance)
    return torch.stack(seeds)


def _rounded(distance: Tensor) -> Tensor:
    """Equal where symmetry makes them equal up to rounding."""
    return (distance * 1e4).round()
