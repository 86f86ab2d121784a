"""Point fit of a scaling law: Huber loss on logarithms, from a grid of starts."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from geomlib.apply.scaling.law import Law

__all__ = ["HUBER", "PointFit", "agreement", "point_fit"]

HUBER = 1e-3
"""Where the Huber loss turns from quadratic to linear."""

_STARTS = 12
"""Points of the grid that are minimised from: the ones with the smallest objective."""

_CEILING = 1e6


@dataclass(frozen=True)
class PointFit:
    """Constants that describe the runs best.

    Attributes:
        values: name → constant; `sigma` is the standard deviation of the residuals.
        objective: sum of the Huber losses.
        coordinates: the constants as `Law` counts them.
        agreement: see `agreement`.
    """

    values: dict[str, float]
    objective: float
    coordinates: Float[Tensor, " constants"]
    agreement: dict[str, float]


def agreement(predicted: NDArray[np.float64], observed: NDArray[np.float64]) -> dict[str, float]:
    """Mean absolute error in per cent, and the correlations of Pearson and Spearman."""
    return {
        "mape_percent": float(100.0 * np.mean(np.abs(predicted / observed - 1.0))),
        "pearson": float(pearsonr(predicted, observed).statistic),
        "spearman": float(spearmanr(predicted, observed).statistic),
    }


def point_fit(law: Law) -> PointFit:
    """Minimise Σ Huber(ln L predicted − ln L observed).

    The base law is evaluated on a grid of constants and minimised with L-BFGS from its best points; penalties then
    start there, with their optima at the centres of their priors, and all constants are minimised together. Bounds are
    those of `Law`; nothing is drawn towards a prior.
    """
    base = [law.place[name] for name in ("A", "alpha", "B", "beta", "E")]
    penalties = [k for k, constant in enumerate(law.constants[:-1]) if k not in base]
    grid = _grid(law)
    with torch.no_grad():
        costs = torch.cat([_objective(law, part) for part in grid.split(256)])
    starts = grid[costs.argsort()[: _STARTS // 2 if penalties else _STARTS]]
    found = min((_minimise(law, start, base) for start in starts), key=lambda pair: pair[0])
    if penalties:
        found = min(
            (_minimise(law, start, [*base, *penalties]) for start in _penalised_starts(law, found[1])),
            key=lambda pair: pair[0],
        )
    objective, u = found
    residuals = law.residuals(u)
    u = u.clone()
    u[law.place["sigma"]] = residuals.square().mean().sqrt().clamp_min(1e-12).log()
    values = {name: float(value) for name, value in law.values(u).items()}
    return PointFit(values, objective, u, agreement(law.log_loss(u).exp().numpy(), law.runs.loss))


def _objective(law: Law, u: Tensor) -> Tensor:
    size = law.residuals(u).abs()
    return torch.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER)).sum(-1)


def _grid(law: Law) -> Tensor:
    """Exponents, and how much of the typical loss each term makes up; off-grid the scale of A and B is unknown."""
    typical = float(np.log(np.median(law.runs.loss)))
    ln_n, ln_d = (float(np.log(np.median(values))) for values in (law.runs.parameters, law.runs.tokens))
    exponents, shares = (0.1, 0.25, 0.4, 0.6, 0.9), (0.1, 0.3, 0.6)
    rows = []
    for alpha, beta, first, second, third in itertools.product(exponents, exponents, shares, shares, shares):
        ln_a = math.log(first) + typical + alpha * ln_n
        ln_b = math.log(second) + typical + beta * ln_d
        values = {"A": math.exp(ln_a), "alpha": alpha, "B": math.exp(ln_b), "beta": beta}
        rows.append(law.coordinates({**values, "E": third * math.exp(typical)}))
    grid = torch.stack(rows)
    off = [law.place[name] for name in law.names if name.startswith("c_")]
    grid[:, off] = -30.0  # no penalty yet
    return grid


def _penalised_starts(law: Law, base: Tensor) -> list[Tensor]:
    """Penalties of three strengths, each worth 0.01 to 1 in ln L at the typical distance from their optimum."""
    made = []
    for strength in (0.01, 0.1, 1.0):
        u = base.clone()
        for name in law.runs.shapes:
            x = law.runs.shapes[name]
            u[law.place[f"{name}_star"]] = math.log(float(np.median(x)))
            spread = float(np.var(x if law.shape == "linear" else np.log(x)))
            u[law.place[f"c_{name}"]] = math.log(strength / spread)
        if law.runs.rate is not None and law.runs.batch is not None:
            u[law.place["a"]] = float(np.mean(np.log(law.runs.rate) - 0.5 * np.log(law.runs.batch)))
            u[law.place["b"]], u[law.place["g"]] = 0.5, 0.0
            u[law.place["c_lr"]] = math.log(strength / float(np.var(np.log(law.runs.rate))))
        made.append(u)
    return made


def _minimise(law: Law, start: Tensor, free: list[int]) -> tuple[float, Tensor]:
    def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moving = torch.from_numpy(x.copy()).requires_grad_()
        u = start.clone().index_copy(0, torch.tensor(free), moving)
        cost = _objective(law, u)
        value = float(cost.detach())
        if not math.isfinite(value):
            return _CEILING, np.zeros_like(x)
        (slope,) = torch.autograd.grad(cost, moving)
        # the objective is of the order 1e-3, far below what L-BFGS takes for a change
        return value / HUBER, slope.numpy() / HUBER

    best = minimize(
        evaluate,
        start[free].numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 3000, "ftol": 1e-13, "maxcor": 30},
    )
    return float(best.fun) * HUBER, start.clone().index_copy(0, torch.tensor(free), torch.from_numpy(best.x.copy()))
