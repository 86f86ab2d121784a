"""Ionic conductivity of electrolytes from the embedding of the mixture."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ConductivityHead"]

_NEAREST = 1.0
"""K by which the temperature is kept above that of the glass."""


class ConductivityHead(nn.Module):
    """ln k of an electrolyte: a Vogel law, which decays where there is more salt than α.

        ln k = ln A − E / (T − T_g)                                           x_salt ≤ α
        ln k = (ln A − E / (T − T_g)) ((1 − β) exp(−(x_salt − α)/λ) + β)      x_salt > α

    ln A, E, T_g, α, β, λ come from the embedding; α and λ lie between 0 and 1. T − T_g is kept above 1 K.

    Args:
        width: of the embedding, at least 2.

    Source: MIST, arXiv 2510.18900; there β stood in the place of λ, and the exponential grew.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.third, self.last = nn.Linear(width, width // 2), nn.Linear(width // 2, 6)

    def forward(
        self,
        embedding: Float[Tensor, "graphs width"],
        salt: Float[Tensor, " graphs"],
        temperature: Float[Tensor, " graphs"],
    ) -> dict[str, Float[Tensor, " graphs"]]:
        """`ln_k`, `ln_k_dilute` (without decay), `alpha`, `beta`, `lam`.

        Args:
            embedding: Σ x_i e_i.
            salt: mole fraction of the salt.
            temperature: [K].
        """
        gelu = nn.functional.gelu
        h = gelu(self.first(embedding)) + embedding
        numbers = self.last(gelu(self.third(gelu(self.second(h)))))
        ln_a, energy, glass, alpha, beta, lam = numbers.unbind(1)
        alpha, lam = alpha.sigmoid(), lam.sigmoid()
        dilute = ln_a - energy / (temperature.to(embedding) - glass).clamp_min(_NEAREST)
        beyond = (salt.to(embedding) - alpha).clamp_min(0.0)
        decay = (1.0 - beta) * torch.exp(-beyond / lam) + beta
        return {"ln_k": dilute * decay, "ln_k_dilute": dilute, "alpha": alpha, "beta": beta, "lam": lam}
