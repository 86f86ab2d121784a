"""Scaling laws of training runs: constants with uncertainty, and the best net and data for a given compute."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from geomlib.apply.hamiltonian_sampler import Samples, effective_size, sample, split_rhat
from geomlib.apply.scaling.law import Law, optimum
from geomlib.apply.scaling.point_fit import PointFit, agreement, point_fit
from geomlib.apply.scaling.runs import Runs
from geomlib.errors import ConfigError, GeomlibWarning

__all__ = ["Band", "Optimum", "Posterior", "Scaling", "fit_scaling"]

_TEMPERING = 0.2
"""Power of the posterior that starts are drawn from."""

_MAX_RHAT, _MIN_SIZE = 1.01, 400.0


@dataclass(frozen=True)
class Band:
    """A quantity with its uncertainty.

    Attributes:
        mean: of the posterior; of quantities that span decades that of their logarithm.
        low: 2.5 % of the posterior lie below.
        high: 2.5 % lie above.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Tensor, decades: bool = False) -> "Band":
        """From draws of the posterior."""
        low, high = np.quantile(draws.numpy(), [0.025, 0.975])
        mean = draws.log().mean().exp() if decades else draws.mean()
        return cls(float(mean), float(low), float(high))


@dataclass(frozen=True)
class Optimum:
    """What to train with a given compute.

    Attributes:
        compute: C = 6 N D [FLOP].
        parameters: N_opt, without the embedding.
        tokens: D_opt.
        loss: there, with the best hyperparameters.
        rate: best learning rate for N_opt and `batch`; None where the runs say nothing about it.
        batch: that the learning rate is for.
    """

    compute: float
    parameters: Band
    tokens: Band
    loss: Band
    rate: Band | None = None
    batch: float | None = None


@dataclass(frozen=True)
class Posterior:
    """Draws of the constants, and how far they can be trusted.

    Attributes:
        constants: name → mean and band.
        draws: name → draws of all chains [draws].
        rhat: name → R̂ (below 1.01 where the chains agree).
        effective: name → effective number of draws.
        acceptance: share of proposals that were taken.
        divergent: share of trajectories that ran away; 0 is sound.
        waic: widely applicable information criterion, smaller is better.
        waic_error: its standard error.
        waic_parameters: effective number of constants.
        agreement: of the mean prediction with the losses.
    """

    constants: dict[str, Band]
    draws: dict[str, Tensor]
    rhat: dict[str, float]
    effective: dict[str, float]
    acceptance: float
    divergent: float
    waic: float
    waic_error: float
    waic_parameters: float
    agreement: dict[str, float]


@dataclass(frozen=True)
class Scaling:
    """Everything that `fit_scaling` found.

    Attributes:
        runs: that were fitted.
        law: with the constants' names.
        point: fit of the smallest Huber loss.
        posterior: draws, None if none were wanted.
    """

    runs: Runs
    law: Law
    point: PointFit
    posterior: Posterior | None

    def optimum(self, compute: float, batch: float | None = None) -> Optimum:
        """Best size, data and learning rate for a compute; without draws of the posterior the bands are points.

        Args:
            compute: C [FLOP].
            batch: molecules per step; that of the middle run if not given.

        Raises:
            ConfigError: a compute or batch that is not positive.
        """
        if not (compute > 0 and math.isfinite(compute)) or (batch is not None and not batch > 0):
            raise ConfigError(f"compute {compute:g}, batch {batch}: expected positive numbers")
        if self.posterior is not None:
            values = self.posterior.draws
        else:
            values = {name: torch.tensor([value], dtype=torch.float64) for name, value in self.point.values.items()}
        parameters, tokens, loss = optimum(values, compute)
        rate = None
        if self.runs.batch is not None:
            batch = float(np.median(self.runs.batch)) if batch is None else batch
            best = values["a"] + values["b"] * math.log(batch) + values["g"] * parameters.log()
            rate = Band.of(best.exp(), decades=True)
        return Optimum(
            compute,
            Band.of(parameters, decades=True),
            Band.of(tokens, decades=True),
            Band.of(loss),
            rate,
            batch if rate else None,
        )

    def frontier(self, points: int = 33, beyond: float = 100.0, batch: float | None = None) -> list[Optimum]:
        """Optima from the smallest compute of the runs to `beyond` times the largest."""
        compute = self.runs.compute
        ends = math.log(compute.min()), math.log(beyond * compute.max())
        return [self.optimum(float(value), batch) for value in np.exp(np.linspace(*ends, points))]


def fit_scaling(
    runs: Runs,
    shape: str = "linear",
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 16,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Scaling:
    """Fit a scaling law: the point of the smallest Huber loss, and the posterior with the priors of `Law`.

    Args:
        runs: finished runs.
        shape: see `Law`.
        draws: of each chain; 0 leaves the posterior out.
        warmup: iterations of each chain before.
        chains: that run side by side.
        seed: of the random numbers.
        progress: called with the number of iterations done.

    Raises:
        ConfigError: too few draws or chains to judge whether they agree.
    """
    if draws < 0 or 0 < draws < 20 or (draws and (warmup < 50 or chains < 4)):
        raise ConfigError(
            f"{chains} chains of {warmup} + {draws} draws: expected at least 4 chains of 50 + 20, or draws 0 for the "
            "point fit alone"
        )
    law = Law(runs, shape)
    point = point_fit(law)
    if not draws:
        return Scaling(runs, law, point, None)
    peak, covariance = _laplace(law, point.coordinates)
    generator = torch.Generator().manual_seed(seed)
    start = _starts(law, peak, covariance, chains, generator)
    found = sample(law.log_density, start, covariance, draws, warmup, seed + 1, progress=progress)
    posterior = _summary(law, found)
    _judge(posterior)
    return Scaling(runs, law, point, posterior)


def _laplace(law: Law, start: Tensor) -> tuple[Tensor, Float[Tensor, "constants constants"]]:
    """Peak of the posterior, and the covariance of the normal density that touches it there."""

    def cost(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        u = torch.from_numpy(x.copy()).requires_grad_()
        value = -law.log_density(u)
        (slope,) = torch.autograd.grad(value, u)
        value = value.detach()
        return (float(value), slope.numpy()) if math.isfinite(float(value)) else (1e12, np.zeros_like(x))

    best = minimize(cost, start.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxcor": 30})
    peak = torch.from_numpy(best.x.copy())
    curvature = torch.autograd.functional.hessian(lambda u: -law.log_density(u), peak)
    values, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.T))
    # a direction that the runs say nothing about is as wide as a prior
    return peak, (vectors / values.clamp_min(0.25)) @ vectors.T


def _starts(law: Law, peak: Tensor, covariance: Tensor, chains: int, generator: torch.Generator) -> Tensor:
    """Points around the peak, wider apart than the posterior but none where it is as good as zero."""
    scatter = torch.randn((50 * chains, len(peak)), generator=generator, dtype=torch.float64)
    points = peak + scatter @ torch.linalg.cholesky(covariance).T
    with torch.no_grad():
        density = torch.nan_to_num(law.log_density(points), nan=-math.inf)
    weights = torch.softmax(_TEMPERING * density, dim=0)
    return points[torch.multinomial(weights, chains, replacement=False, generator=generator)]


def _summary(law: Law, found: Samples) -> Posterior:
    flat = found.draws.flatten(0, 1)
    values = law.values(flat)
    chains = {name: found.draws[..., k].numpy() for k, name in enumerate(law.names)}
    with torch.no_grad():
        likelihood = law.log_likelihood(flat)
        predicted = law.log_loss(flat).exp().mean(0).numpy()
    density = likelihood.logsumexp(0) - math.log(len(flat))
    penalty = likelihood.var(0)
    each = -2.0 * (density - penalty)
    return Posterior(
        constants={name: Band.of(draws) for name, draws in values.items()},
        draws=values,
        rhat={name: split_rhat(draws) for name, draws in chains.items()},
        effective={name: effective_size(draws) for name, draws in chains.items()},
        acceptance=found.acceptance,
        divergent=found.divergent,
        waic=float(each.sum()),
        waic_error=float((len(each) * each.var()).sqrt()),
        waic_parameters=float(penalty.sum()),
        agreement=agreement(predicted, law.runs.loss),
    )


def _judge(posterior: Posterior) -> None:
    worst: Sequence[tuple[float, str]] = sorted((value, name) for name, value in posterior.rhat.items())
    fewest = min((value, name) for name, value in posterior.effective.items())
    if worst[-1][0] > _MAX_RHAT or fewest[0] < _MIN_SIZE:
        warnings.warn(
            f"the chains have not converged: R̂ of {worst[-1][1]} is {worst[-1][0]:.3f} (wanted: {_MAX_RHAT} or less), "
            f"{fewest[1]} has {fewest[0]:.0f} effective draws (wanted: {_MIN_SIZE:.0f}); give more draws and warm-up",
            GeomlibWarning,
            stacklevel=3,
        )
