"""Matrices over orbitals of the molecules of a batch, from all their entries."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError

__all__ = ["matrices", "matrix_stacks", "occupied_orbitals"]


def matrices(entries: Float[Tensor, " entries"], batch: GraphData) -> Iterator[Float[Tensor, "n n"]]:
    """The matrices of a batch, molecule after molecule."""
    for part in entries.split(_counts(batch)):
        size = round(len(part) ** 0.5)
        yield part.view(size, size)


def matrix_stacks(
    batch: GraphData, *entries: Float[Tensor, " entries"]
) -> Iterator[tuple[Int[Tensor, " molecules"], list[Float[Tensor, "molecules n n"]]]]:
    """Matrices of the same size on top of each other, for solvers that take many at once.

    Args:
        batch: the molecules.
        *entries: of one or several matrices of each molecule.

    Yields: numbers of the molecules of one size, and a stack for each of `entries`.
    """
    counts = _counts(batch)
    parts = [values.split(counts) for values in entries]
    for count in sorted(set(counts)):
        members = [number for number, own in enumerate(counts) if own == count]
        size = round(count**0.5)
        stacks = [torch.stack([rows[number] for number in members]).view(-1, size, size) for rows in parts]
        yield torch.tensor(members), stacks


def occupied_orbitals(atomic_number: Int[Tensor, " nodes"], charge: int = 0) -> int:
    """Doubly occupied orbitals of a closed shell.

    Raises:
        DataError: an odd number of electrons, or none.
    """
    electrons = int(atomic_number.sum()) - charge
    if electrons % 2 or electrons < 2:
        raise DataError(f"{electrons} electrons make no closed shell; the matrices here are those of closed shells")
    return electrons // 2


def _counts(batch: GraphData) -> list[int]:
    graph = batch.node_graph[batch.entry_atom[0]]
    return torch.bincount(graph, minlength=batch.num_graphs).tolist()
