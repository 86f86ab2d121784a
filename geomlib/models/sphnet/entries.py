"""Entries of matrices from their blocks."""

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError

__all__ = ["entries_of_blocks", "hamiltonian_of_blocks"]


def hamiltonian_of_blocks(
    batch: GraphData, diagonal: Float[Tensor, "nodes b b"], pairs: Float[Tensor, "pairs b b"], *, delta: bool
) -> Float[Tensor, " entries"]:
    """Entries of the matrices in float64, on top of those of the initial density if `delta`.

    Raises:
        DataError: the batch does not hold those.
    """
    entries = entries_of_blocks(batch, diagonal, pairs).double()
    if not delta:
        return entries
    if "initial_hamiltonian" not in batch:
        raise DataError(
            "the net predicts the difference to the matrix of the initial density, but the graph has no field "
            "'initial_hamiltonian'"
        )
    return entries + batch.initial_hamiltonian


def entries_of_blocks(
    batch: GraphData, diagonal: Float[Tensor, "nodes b b"], pairs: Float[Tensor, "pairs b b"]
) -> Float[Tensor, " entries"]:
    """All entries of the matrices of a batch, in the order of `entry_atom` and `entry_slot`.

    Entries above the diagonal are read from the block of the pair the other way round, so each matrix is symmetric.

    Args:
        batch: one or several molecules with their pairs and entries.
        diagonal: symmetric blocks of the atoms.
        pairs: blocks of the pairs i > j in the order of `pair_index`.
    """
    size = diagonal.shape[1]
    row, column = batch.entry_atom
    slot_row, slot_column = batch.entry_slot.unbind(1)
    turned = row < column
    i, j = torch.where(turned, column, row), torch.where(turned, row, column)
    a, b = torch.where(turned, slot_column, slot_row), torch.where(turned, slot_row, slot_column)
    graph = batch.node_graph
    atoms = torch.bincount(graph, minlength=batch.num_graphs)
    first_atom = (atoms.cumsum(0) - atoms)[graph]
    of_graph = atoms * (atoms - 1) // 2
    first_pair = (of_graph.cumsum(0) - of_graph)[graph]
    local_i, local_j = i - first_atom[i], j - first_atom[j]
    pair = first_pair[i] + local_i * (local_i - 1) // 2 + local_j
    block = torch.where(i == j, i, len(diagonal) + pair)
    return torch.cat([diagonal, pairs]).flatten()[(block * size + a) * size + b]
