"""The scaling law with penalties for hyperparameters: its constants, its priors, and the loss that it predicts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.apply.scaling.runs import Runs
from geomlib.errors import ConfigError

__all__ = ["Constant", "Law", "optimum"]


@dataclass(frozen=True)
class Constant:
    """A constant of the law, and its prior.

    Args:
        name: how it is called in tables.
        space: `log` (positive: u = ln c), `bounded` (0 to 2: u = logit(c/2)) or `real`.
        prior: `normal` in u, `uniform`, or `exponential` (of rate 1).
        center: of the normal prior, in u.
        width: of the normal prior, in u.
    """

    name: str
    space: str
    prior: str
    center: float = 0.0
    width: float = 1.0

    def value(self, u: Tensor) -> Tensor:
        """From the line of real numbers to where the constant lives."""
        if self.space == "log":
            return u.exp()
        return 2.0 * u.sigmoid() if self.space == "bounded" else u

    def log_prior(self, u: Tensor) -> Tensor:
        """Density in u, up to a constant."""
        if self.prior == "exponential":
            return u - u.exp()
        if self.prior == "uniform":
            return torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u)
        return -0.5 * ((u - self.center) / self.width) ** 2


_BASE = (
    Constant("A", "log", "normal", math.log(500.0), 2.0),
    Constant("alpha", "bounded", "uniform"),
    Constant("B", "log", "normal", math.log(500.0), 2.0),
    Constant("beta", "bounded", "uniform"),
    Constant("E", "log", "normal", math.log(1e-3), 1.0),
)
_RATE = (
    Constant("c_lr", "log", "exponential"),
    Constant("a", "real", "normal", math.log(3.9e-5), 1.0),
    Constant("b", "real", "normal", 0.5, 0.1),
    Constant("g", "real", "normal", 0.0, 0.5),
)
_SHAPE = {
    "ff": (math.log(4.0), math.log(2.0)),
    "head": (math.log(64.0), 1.0),
    "aspect": (math.log(64.0), 2.0),
}


class Law:
    """Loss of a run from its size, its data and its hyperparameters.

        ln L = ln(A N^−α + B D^−β + E) + c_lr (ln lr − ln lr*)² + Σ_s c_s (x_s − x_s*)²
        ln lr* = a + b ln batch + g ln N,    observed loss ~ LogNormal(ln L, σ)

    with s the shapes of the net that vary: feed-forward ratio, head size, aspect ratio. A penalty exists only where
    the runs have its columns. All functions take unbounded coordinates u [..., constants] and work on many at once.

    Priors: A, B ~ LogNormal(ln 500, 2); α, β ~ U(0, 2); E ~ LogNormal(ln 10⁻³, 1); a ~ N(ln 3.9·10⁻⁵, 1);
    b ~ N(0.5, 0.1); g ~ N(0, 0.5); each c ~ Exp(1); F/H* ~ LogNormal(ln 4, ln 2); head size* ~ LogNormal(ln 64, 1);
    aspect* ~ LogNormal(ln 64, 2); σ ~ Exp(1).

    Args:
        runs: what to describe.
        shape: `linear` penalises (x − x*)², `log` (ln x − ln x*)².

    Attributes:
        constants: of the law, in order; the last is σ.

    Raises:
        ConfigError: another `shape`.

    Source: MIST, arXiv 2510.18900; without penalties Hoffmann et al., arXiv 2203.15556.
    """

    def __init__(self, runs: Runs, shape: str = "linear") -> None:
        if shape not in ("linear", "log"):
            raise ConfigError(f"the penalty of shapes is '{shape}'; expected linear or log")
        self.runs, self.shape = runs, shape
        penalties = list(_RATE) if runs.rate is not None else []
        for name in runs.shapes:
            center, width = _SHAPE[name]
            penalties += [
                Constant(f"c_{name}", "log", "exponential"),
                Constant(f"{name}_star", "log", "normal", center, width),
            ]
        self.constants = (*_BASE, *penalties, Constant("sigma", "log", "exponential"))
        self.place = {constant.name: k for k, constant in enumerate(self.constants)}
        self._log_parameters = torch.from_numpy(np.log(runs.parameters))
        self._log_tokens = torch.from_numpy(np.log(runs.tokens))
        self._log_loss = torch.from_numpy(np.log(runs.loss))
        self._shapes = {name: torch.from_numpy(values) for name, values in runs.shapes.items()}
        if runs.rate is not None and runs.batch is not None:
            self._log_rate = torch.from_numpy(np.log(runs.rate))
            self._log_batch = torch.from_numpy(np.log(runs.batch))

    @property
    def names(self) -> list[str]:
        """Of the constants, in order."""
        return [constant.name for constant in self.constants]

    def values(self, u: Float[Tensor, "*shape constants"]) -> dict[str, Float[Tensor, "*shape"]]:
        """Name → the constant."""
        return {constant.name: constant.value(u[..., k]) for k, constant in enumerate(self.constants)}

    def coordinates(self, values: Mapping[str, float]) -> Float[Tensor, " constants"]:
        """Coordinates u of given constants; those that are not named stand at the centre of their prior."""
        row = []
        for constant in self.constants:
            value = values.get(constant.name)
            if value is None:
                row.append(-4.0 if constant.prior == "exponential" else constant.center)
            elif constant.space == "bounded":
                row.append(math.log(value / (2.0 - value)))
            else:
                row.append(math.log(value) if constant.space == "log" else value)
        return torch.tensor(row, dtype=torch.float64)

    def log_loss(self, u: Float[Tensor, "*shape constants"]) -> Float[Tensor, "*shape runs"]:
        """Predicted ln L of each run."""
        at = {name: value.unsqueeze(-1) for name, value in self.values(u).items()}
        ln_a, ln_b, ln_e = (u[..., self.place[name]].unsqueeze(-1) for name in ("A", "B", "E"))
        size = ln_a - at["alpha"] * self._log_parameters
        data = ln_b - at["beta"] * self._log_tokens
        predicted = torch.logaddexp(torch.logaddexp(size, data), ln_e)
        if "c_lr" in at:
            best = at["a"] + at["b"] * self._log_batch + at["g"] * self._log_parameters
            predicted = predicted + at["c_lr"] * (self._log_rate - best) ** 2
        for name, x in self._shapes.items():
            star = at[f"{name}_star"]
            away = x - star if self.shape == "linear" else x.log() - star.log()
            predicted = predicted + at[f"c_{name}"] * away**2
        return predicted

    def residuals(self, u: Float[Tensor, "*shape constants"]) -> Float[Tensor, "*shape runs"]:
        """Predicted − observed logarithm of the loss."""
        return self.log_loss(u) - self._log_loss

    def log_likelihood(self, u: Float[Tensor, "*shape constants"]) -> Float[Tensor, "*shape runs"]:
        """Logarithm of the density of each observed loss."""
        ln_sigma = u[..., self.place["sigma"]].unsqueeze(-1)
        scaled = self.residuals(u) * torch.exp(-ln_sigma)
        return -0.5 * scaled**2 - ln_sigma - 0.5 * math.log(2.0 * math.pi) - self._log_loss

    def log_density(self, u: Float[Tensor, "*shape constants"]) -> Float[Tensor, "*shape"]:
        """Logarithm of the posterior in u, up to a constant."""
        prior = torch.stack([constant.log_prior(u[..., k]) for k, constant in enumerate(self.constants)], dim=-1)
        return self.log_likelihood(u).sum(-1) + prior.sum(-1)


def optimum(values: Mapping[str, Tensor], compute: float) -> tuple[Tensor, Tensor, Tensor]:
    """Best size, data and loss for a compute C = 6 N D.

        N_opt = G (C/6)^(β/(α+β)),  D_opt = G⁻¹ (C/6)^(α/(α+β)),  G = (αA / βB)^(1/(α+β))

    Args:
        values: A, alpha, B, beta and E, of one law or of many.
        compute: C [FLOP].

    Returns:
        N_opt, D_opt and the loss there without penalties.
    """
    alpha, beta = values["alpha"], values["beta"]
    ln_c = math.log(compute / 6.0)
    ln_g = ((alpha * values["A"]).log() - (beta * values["B"]).log()) / (alpha + beta)
    ln_n = ln_g + beta / (alpha + beta) * ln_c
    ln_d = ln_c - ln_n
    loss = values["A"] * torch.exp(-alpha * ln_n) + values["B"] * torch.exp(-beta * ln_d) + values["E"]
    return ln_n.exp(), ln_d.exp(), loss
