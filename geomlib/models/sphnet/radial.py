"""Radial functions of SPHNet: trainable exponential-normal functions and exponential Bernstein polynomials."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from geomlib.nn.constants import ExactConstants

__all__ = ["BernsteinBasis", "ExpNormalBasis", "RadialNet", "shifted_softplus"]

PUBLISHED_GAIN = 1.878204668541552
"""Constant that e3nn finds by sampling for the shifted softplus; published weights were trained with it."""

EXACT_GAIN = 1.8755963
"""1/√E[ssp(t)²] for a standard normal t, by quadrature."""


def shifted_softplus(x: Tensor) -> Tensor:
    """softplus(x) − ln 2, which is zero at zero."""
    return softplus(x) - math.log(2.0)


class ExpNormalBasis(nn.Module):
    """φ_k(d) = f_c(d) exp(−β_k (exp(−αd) − μ_k)²), α = 5/cutoff; f_c is a cosine switch.

    Args:
        functions: their number K.
        cutoff: where they end [Å].
    Inputs: d [edges, Å]
    Returns: [edges, K]
    Source: Unke and Meuwly 2019 (PhysNet); ViSNet.
    """

    def __init__(self, functions: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        start = math.exp(-cutoff)
        self.means = nn.Parameter(torch.linspace(start, 1.0, functions))
        self.betas = nn.Parameter(torch.full((functions,), (2 / functions * (1 - start)) ** -2))

    def switch(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, " edges"]:
        """½(cos(πd/cutoff) + 1) below the cutoff, 0 beyond."""
        values = 0.5 * (torch.cos(distance * (math.pi / self.cutoff)) + 1.0)
        return values * (distance < self.cutoff)

    def forward(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, "edges functions"]:
        """Evaluate."""
        decay = torch.exp(-5.0 / self.cutoff * distance).unsqueeze(1)
        return self.switch(distance).unsqueeze(1) * torch.exp(-self.betas * (decay - self.means).square())


class BernsteinBasis(ExactConstants):
    """Bernstein polynomials of exp(−αd) with a smooth end, α = softplus(parameter).

    b_v(d) = c(d) exp(log binom(K−1, v) + (K−1−v) x + v log(1 − eˣ)), x = −αd, c(d) = exp(−d²/((R−d)(R+d))).

    Args:
        functions: their number K.
        cutoff: R [Å].
    Inputs: d [edges, Å]
    Returns: [edges, K]
    Source: Unke et al. 2021 (PhiSNet), with the trainable decay of QHNet.
    """

    log_binomial: Tensor

    def __init__(self, functions: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.raw_decay = nn.Parameter(torch.tensor(math.log(math.expm1(0.5))))
        binomial = [math.log(math.comb(functions - 1, order)) for order in range(functions)]
        self.register_constant("log_binomial", torch.tensor(binomial, dtype=torch.float64, device="cpu"))
        self.functions = functions

    def forward(self, distance: Float[Tensor, " edges"]) -> Float[Tensor, "edges functions"]:
        """Evaluate."""
        inside = distance < self.cutoff
        safe = torch.where(inside, distance, 0.5 * self.cutoff)
        switch = torch.exp(-safe.square() / ((self.cutoff - safe) * (self.cutoff + safe))) * inside
        x = (-softplus(self.raw_decay) * distance).unsqueeze(1)
        order = torch.arange(self.functions, dtype=x.dtype, device=x.device)
        exponent = self.log_binomial + (self.functions - 1 - order) * x + order * torch.log(-torch.expm1(x))
        return switch.unsqueeze(1) * torch.exp(exponent)


class RadialNet(nn.Module):
    """Two bias-free layers with unit-variance activations: [κ ssp(x A)] B.

    Args:
        sizes: input, hidden and output width.
        gain: κ.
    Inputs: x [rows, input]
    Returns: [rows, output]
    Source: e3nn `FullyConnectedNet`.
    """

    def __init__(self, sizes: tuple[int, int, int], gain: float = EXACT_GAIN) -> None:
        super().__init__()
        inputs, hidden, outputs = sizes
        self.first = nn.Parameter(torch.randn(inputs, hidden) / math.sqrt(inputs))
        self.second = nn.Parameter(torch.randn(hidden, outputs) / math.sqrt(hidden))
        self.gain = gain

    def hidden(self, x: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows hidden"]:
        """What the last layer gets."""
        return self.gain * shifted_softplus(x @ self.first)

    def forward(self, x: Float[Tensor, "rows inputs"], outputs: Tensor | None = None) -> Float[Tensor, "rows outputs"]:
        """Evaluate; with `outputs` only these columns are made."""
        second = self.second if outputs is None else self.second.index_select(1, outputs)
        return self.hidden(x) @ second
