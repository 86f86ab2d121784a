"""How many neighbours there are: what the neighbour counts of a net should hold."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.radius import RadiusEdges

__all__ = ["NeighborCounts", "count_neighbors"]


@dataclass(frozen=True, slots=True)
class NeighborCounts:
    """Neighbours of an atom within a cutoff, over a data set.

    Args:
        cutoff: radius [Å].
        mean: over all atoms.
        largest: of any atom.
        shortest: distance of the closest pair [Å]; infinite if no atom has a neighbour.
    """

    cutoff: float
    mean: float
    largest: int
    shortest: float

    def selection(self, factor: float = 1.1) -> int:
        """Count to choose for a net with fixed selection: the largest times `factor`, up to a multiple of 4.

        Source: `"auto:f"` of deepmd-kit's `e_sel` and `a_sel`.
        """
        return max(4, math.ceil(self.largest * factor / 4 - 1e-9) * 4)


def count_neighbors(
    graphs: Iterable[GraphData], cutoffs: Iterable[float], progress: Callable[[int], None] | None = None
) -> list[NeighborCounts]:
    """Neighbours within each of several cutoffs, from one list a structure.

    Args:
        graphs: structures without edges.
        cutoffs: radii [Å].
        progress: told the number of structures that are done.

    Raises:
        DataError: no cutoff, no structure, or what `RadiusEdges` raises.
    """
    radii = sorted(cutoffs)
    if not radii:
        raise DataError("no cutoff to count neighbours within")
    edges = RadiusEdges(radii[-1])
    atoms, totals, largest, shortest = 0, [0] * len(radii), [0] * len(radii), math.inf
    for done, graph in enumerate(graphs, start=1):
        structure = GraphData(**{name: graph[name] for name in ("pos", "cell", "pbc") if name in graph})
        edges.build(structure)
        lengths = structure.edge_vectors().norm(dim=1)
        atoms += structure.num_nodes
        shortest = min(shortest, float(lengths.min()) if len(lengths) else math.inf)
        for position, radius in enumerate(radii):
            degree = torch.bincount(structure.edge_index[1][lengths < radius], minlength=structure.num_nodes)
            totals[position] += int(degree.sum())
            largest[position] = max(largest[position], int(degree.max()))
        if progress is not None:
            progress(done)
    if not atoms:
        raise DataError("there is no structure to count neighbours in")
    return [
        NeighborCounts(radius, total / atoms, most, shortest)
        for radius, total, most in zip(radii, totals, largest, strict=True)
    ]
