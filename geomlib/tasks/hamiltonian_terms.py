"""Loss terms on Kohn-Sham matrices: their entries, their blocks, and what they do to the true orbitals."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.nn.orbitals import generalised_eigenproblem, settled_orbitals
from geomlib.tasks.matrices import matrix_stacks
from geomlib.tasks.terms import Term, difference, labelled

__all__ = ["HamiltonianTerm"]

_COMPARE = ("entries", "blocks", "levels", "residuals")


@dataclass(frozen=True)
class HamiltonianTerm(Term):
    """One term of the loss on matrices H; ΔH is the error, and H C = S C ε defines the true orbitals C.

    `entries` are those of the whole matrix, `blocks` those of the atoms' blocks and of each pair's block once, so that
    what is between atoms weighs half as much. `levels` compares in the basis of the true orbitals, which is what
    orbital energies follow: the mean over the diagonal of Cᵀ ΔH C (shifts of levels to first order) plus the mean
    over the rest of it (what mixes orbitals), averaged over molecules; `residuals` is the mean over ΔH C. Both need
    the overlap S in the data; no derivative is taken of a diagonalisation. Orbitals of a degenerate level are those
    that diagonalise ΔH among themselves, so that the loss doesn't depend on which the solver returns.

    Args:
        field: name in the field table.
        compare: `entries`, `blocks`, `levels` or `residuals`.

    The other arguments are those of `Term`.

    Source: Li et al. 2025 (arXiv 2502.19227), wavefunction alignment; blocks as in Luo et al. 2025 (arXiv 2502.01171).
        Their code multiplies both matrices by 627 (kcal/mol) before `levels` and by 100 before `residuals`, which is
        a weight of 627 or 100 here (of its square with mse).
    """

    field: str = "hamiltonian"
    compare: Literal["entries", "blocks", "levels", "residuals"] = "entries"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare not in _COMPARE:
            raise ConfigError(f"term '{self.field}': compare is {', '.join(_COMPARE)}; got '{self.compare}'")

    def sums(
        self, prediction: Float[Tensor, " entries"], batch: GraphData, *, partial: bool = False
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Sum of the losses of all entries or molecules, and their number; see `Term.sums`.

        Raises:
            DataError: as there; no overlap in the data where orbitals are compared.
        """
        if self.compare == "entries":
            return super().sums(prediction, batch, partial=partial)
        mask = labelled(self.field, batch, partial=partial)
        error, _ = difference(self.field, prediction, batch)
        if self.compare == "blocks":
            row, column = batch.entry_atom
            chosen = row >= column
            values = self.penalty(error[chosen if mask is None else chosen & mask])
            return values.sum(), values.new_tensor(float(len(values)))
        return self._of_orbitals(error, batch, mask)

    def _of_orbitals(
        self, error: Float[Tensor, " entries"], batch: GraphData, mask: Bool[Tensor, " entries"] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        if "overlap" not in batch:
            raise DataError(
                f"the loss compares orbitals ('{self.compare}'), which needs the field 'overlap', but the data does "
                "not hold it: add it to the store, or compare entries or blocks"
            )
        total, molecules = error.new_zeros(()), 0
        known = torch.ones_like(error, dtype=torch.bool) if mask is None else mask
        true = torch.where(known, batch[self.field].double(), 0.0)
        error = torch.where(known, error, 0.0)
        for _, (delta, h, s, labels) in matrix_stacks(batch, error, true, batch.overlap, known):
            whole = labels.flatten(1).all(1)
            delta, h, s = delta[whole], h[whole], s[whole]
            if not len(delta):
                continue
            orbitals = settled_orbitals(generalised_eigenproblem(h, s), delta)
            penalties = self._penalties(
                delta @ orbitals if self.compare == "residuals" else orbitals.mT @ delta @ orbitals
            )
            total, molecules = total + penalties.sum(), molecules + len(delta)
        return total, total.new_tensor(float(molecules))

    def _penalties(self, error: Float[Tensor, "molecules n n"]) -> Float[Tensor, " molecules"]:
        values = self.penalty(error)
        if self.compare == "residuals":
            return values.mean((1, 2))
        size = values.shape[1]
        diagonal = values.diagonal(dim1=1, dim2=2).sum(1)
        rest = (values.sum((1, 2)) - diagonal) / max(size * (size - 1), 1)
        return diagonal / size + rest
