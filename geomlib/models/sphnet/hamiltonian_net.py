"""What nets for Kohn-Sham matrices share: molecules in a basis come in, blocks between atoms become a matrix."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.orbitals import OrbitalLayout
from geomlib.graphs.orbitals import OrbitalEntries
from geomlib.graphs.spec import GraphSpec
from geomlib.models.base import Net
from geomlib.models.sphnet.entries import hamiltonian_of_blocks
from geomlib.nn.elements import ElementIndex

__all__ = ["HamiltonianNet"]


class HamiltonianNet(Net):
    """Kohn-Sham (Fock) matrix of a molecule from the blocks that a net makes of it.

    Args:
        elements: chemical symbols.
        basis: basis set of the matrix.
        delta: the blocks are the difference to the matrix of the initial density, which the data then has to hold.
    Inputs (batch fields): pos [nodes, 3, Å], atomic_number; initial_hamiltonian [entries, Hartree] with `delta`
    Returns: hamiltonian [entries, Hartree], float64, row after row in PySCF's order
    """

    outputs: tuple[str, ...] = ("hamiltonian",)

    def __init__(self, elements: Sequence[str], basis: str, delta: bool) -> None:
        super().__init__()
        self.elements = list(elements)
        self.layout = OrbitalLayout(basis, tuple(self.elements))
        self.spec = GraphSpec((OrbitalEntries(basis, tuple(self.elements)),))
        self.inputs = ("pos", "atomic_number", *(("initial_hamiltonian",) if delta else ()))
        self.delta = delta
        self.element_index = ElementIndex(self.elements)

    @property
    def least_l_max(self) -> int:
        """Degree that features need to reach every block."""
        return 2 * (len(self.layout.shells) - 1)

    def blocks(self, batch: GraphData) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks of atoms (symmetric) and of pairs i > j, in the order of `pair_index` [Hartree]."""
        raise TypeError(f"{type(self).__name__} must define blocks(batch)")

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Predict."""
        return {"hamiltonian": hamiltonian_of_blocks(batch, *self.blocks(batch), delta=self.delta)}

    @torch.no_grad()
    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Nothing: the net has no statistics of data."""
