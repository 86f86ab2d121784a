"""Pairs of atoms, and where each entry of a matrix over atomic orbitals stands in their blocks."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from geomlib.data.graph import GraphData
from geomlib.data.orbitals import OrbitalLayout
from geomlib.graphs.builder import Builder

__all__ = ["OrbitalEntries"]


@dataclass(frozen=True)
class OrbitalEntries(Builder):
    """All pairs i > j of a molecule, and the atoms and block places of all entries of a matrix over its orbitals.

    Args:
        basis: basis set, e.g. `"def2-svp"`.
        elements: chemical symbols of the layout.
    """

    basis: str
    elements: tuple[str, ...]

    kind: ClassVar[str] = "orbital-entries"
    provides: ClassVar[tuple[str, ...]] = ("pair_index", "entry_atom", "entry_slot")

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))  # a list where it comes from a file

    def layout(self) -> OrbitalLayout:
        """Where the orbitals of each element stand in a block."""
        return OrbitalLayout(self.basis, self.elements)

    def build(self, graph: GraphData) -> None:
        """Add the fields to a molecule, or to each molecule of a batch."""
        layout = self.layout()
        pairs, atoms, slots, first = [], [], [], 0
        sizes = torch.bincount(graph.node_graph, minlength=graph.num_graphs).tolist()
        for size, numbers in zip(sizes, graph.atomic_number.split(sizes), strict=True):
            atom, slot = layout.orbitals(numbers)
            count = len(atom)
            pairs.append(first + torch.tril_indices(size, size, -1))
            atoms.append(first + torch.stack([atom.repeat_interleave(count), atom.repeat(count)]))
            slots.append(torch.stack([slot.repeat_interleave(count), slot.repeat(count)], dim=1))
            first += size
        graph.pair_index, graph.entry_atom = torch.cat(pairs, dim=1), torch.cat(atoms, dim=1)
        graph.entry_slot = torch.cat(slots)
