"""Learned sparsity: which pairs of atoms are worth a product, and which paths a product needs."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["PairGate", "quantiles"]


def quantiles(
    values: Float[Tensor, " rows"], group: Int[Tensor, " rows"], groups: int, level: float
) -> Float[Tensor, " groups"]:
    """Quantile of the values of each group, linear between order statistics; 0 for a group without rows."""
    order = torch.argsort(values, stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    counts = torch.bincount(group, minlength=groups)
    first = counts.cumsum(0) - counts
    position = level * (counts - 1).clamp_min(0).to(values.dtype)
    below = position.floor().long()
    above = torch.minimum(below + 1, (counts - 1).clamp_min(0))
    ranked = torch.cat([values[order], values.new_zeros(1)])  # for groups without rows at the end
    low, high = ranked[first + below], ranked[first + above]
    return (low + (position - below) * (high - low)) * (counts > 0)


class PairGate(nn.Module):
    """Keeps the pairs whose score reaches the quantile of its molecule.

    A pair with score e = w·s + b is kept where g = sigmoid(e − q) ≥ ½; its invariants are multiplied by g, which is how
    the gate learns.

    Args:
        invariants: width of the invariants of a pair.
        sparsity: share of the pairs of a molecule that is left out.
    Inputs:
        s: [pairs, invariants]
        group: molecule of each pair
        groups: number of molecules
    Returns: positions of the kept pairs, and their gated invariants
    Source: Luo et al. 2025 (arXiv 2502.01171); the quantile is that of a molecule, not of the batch.
    """

    def __init__(self, invariants: int, sparsity: float) -> None:
        super().__init__()
        self.score = nn.Linear(invariants, 1)
        self.sparsity = sparsity

    def forward(
        self, s: Float[Tensor, "pairs invariants"], group: Int[Tensor, " pairs"], groups: int
    ) -> tuple[Int[Tensor, " kept"], Float[Tensor, "kept invariants"]]:
        """Choose."""
        score = self.score(s).squeeze(1)
        # the threshold is a number that moves with the scores, not a way to learn them
        gate = torch.sigmoid(score - quantiles(score.detach(), group, groups, self.sparsity)[group])
        kept = (gate.detach() >= 0.5).nonzero().squeeze(1)
        return kept, s[kept] * gate[kept].unsqueeze(1)
