"""Hamiltonian Monte Carlo with many chains at once, and what tells whether they have converged."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from geomlib.errors import DataError

__all__ = ["Samples", "effective_size", "sample", "split_rhat"]

_TRAJECTORY = 1.5
"""Mean length of a trajectory in units of the standard deviation; a quarter of the period of a normal density."""

_LONGEST = 64


@dataclass(frozen=True)
class Samples:
    """Draws from a density.

    Attributes:
        draws: [chains, draws, parameters].
        acceptance: mean probability of a proposal.
        step: of the leapfrog, in standard deviations.
        divergent: share of trajectories that ran away.
    """

    draws: Float[Tensor, "chains draws parameters"]
    acceptance: float
    step: float
    divergent: float


def sample(
    log_density: Callable[[Tensor], Tensor],
    start: Float[Tensor, "chains parameters"],
    covariance: Float[Tensor, "parameters parameters"],
    draws: int = 500,
    warmup: int = 400,
    seed: int = 0,
    target: float = 0.8,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Draw from exp(log_density) with chains that move side by side.

    All chains have the same step and the same number of leapfrogs, a new random one for each iteration. In the
    warm-up the step is set by dual averaging so that `target` of the proposals are accepted, and three times the
    metric is renewed from the draws of all chains. Everything is float64 and repeats with the seed.

    Args:
        log_density: [chains, parameters] → [chains], differentiable; −∞ or NaN where there is nothing.
        start: first point of each chain.
        covariance: first guess of the covariance of the draws.
        draws: to keep of each chain.
        warmup: iterations that are thrown away.
        seed: of the random numbers.
        target: share of proposals to accept.
        progress: called with the number of iterations done.

    Raises:
        DataError: a chain starts where the density is zero.

    Source: Neal, Handbook of MCMC ch. 5 (2011); Hoffman and Gelman, J. Mach. Learn. Res. 15, 1593 (2014).
    """
    generator = torch.Generator().manual_seed(seed)
    x = start.double().clone()
    value, slope = _evaluate(log_density, x)
    if not bool(torch.isfinite(value).all()):
        raise DataError("a chain starts where the density is zero")
    factor = torch.linalg.cholesky(covariance.double())
    renewals = {int(warmup * share) for share in (0.2, 0.45, 0.7)}
    adapting = _StepSize(0.5 * len(factor) ** -0.25, target)
    kept, window = list[Tensor](), list[Tensor]()
    accepted = divergent = 0.0
    for iteration in range(warmup + draws):
        step = adapting.exploring if iteration < warmup else adapting.settled
        jitter = float(torch.rand((), generator=generator, dtype=torch.float64)) + 0.5
        leaps = min(max(1, round(jitter * _TRAJECTORY / step)), _LONGEST)
        momentum = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        new, p, new_value, new_slope = x, momentum, value, slope
        # in coordinates z with x = x0 + F z the metric is the unit matrix
        for _ in range(leaps):
            p = p + 0.5 * step * (new_slope @ factor)
            new = new + step * (p @ factor.T)
            new_value, new_slope = _evaluate(log_density, new)
            p = p + 0.5 * step * (new_slope @ factor)
        gain = new_value - value - 0.5 * (p.square().sum(1) - momentum.square().sum(1))
        gain = torch.where(torch.isfinite(gain), gain, torch.full_like(gain, -math.inf))
        probability = gain.clamp(max=0.0).exp()
        taken = torch.rand(len(x), generator=generator, dtype=torch.float64) < probability
        x = torch.where(taken.unsqueeze(1), new, x)
        slope = torch.where(taken.unsqueeze(1), new_slope, slope)
        value = torch.where(taken, new_value, value)
        if iteration < warmup:
            adapting.learn(float(probability.mean()))
            window.append(x)
            if iteration in renewals:
                factor = _factor(torch.cat(window))
                window.clear()
                adapting.restart()
        else:
            kept.append(x)
            accepted += float(probability.mean()) / draws
            divergent += float((gain < -1000.0).double().mean()) / draws
        if progress is not None:
            progress(iteration + 1)
    return Samples(torch.stack(kept, dim=1), accepted, adapting.settled, divergent)


def _evaluate(log_density: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    point = x.detach().requires_grad_()
    value = log_density(point)
    (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)


def _factor(draws: Tensor) -> Tensor:
    """Cholesky factor of the covariance, drawn a little towards its diagonal."""
    covariance = torch.cov(draws.T)
    share = 5.0 / (5.0 + len(draws))
    return torch.linalg.cholesky((1.0 - share) * covariance + share * torch.diag(covariance.diagonal() + 1e-10))


class _StepSize:
    """Dual averaging of the logarithm of the step."""

    def __init__(self, step: float, target: float) -> None:
        self.exploring = self.settled = step
        self.target = target
        self.restart()

    def restart(self) -> None:
        self._shift, self._sum, self._count, self._mean = math.log(2.0 * self.exploring), 0.0, 0, 0.0

    def learn(self, probability: float) -> None:
        self._count += 1
        self._sum += self.target - probability
        logarithm = self._shift - self._sum * math.sqrt(self._count) / (0.05 * (self._count + 10.0))
        weight = self._count**-0.75
        self._mean = weight * logarithm + (1.0 - weight) * self._mean
        self.exploring, self.settled = math.exp(logarithm), math.exp(self._mean)


def split_rhat(draws: NDArray[np.float64]) -> float:
    """Rank-normalised R̂ of [chains, draws], each chain cut into two; 1 where all see the same density.

    Source: Vehtari et al., Bayesian Analysis 16, 667 (2021).
    """
    folded = np.abs(draws - np.median(draws))
    return max(_rhat(_normal_scores(_halves(draws))), _rhat(_normal_scores(_halves(folded))))


def effective_size(draws: NDArray[np.float64]) -> float:
    """Number of independent draws that are worth as much as these [chains, draws] (bulk ESS).

    Source: Vehtari et al., Bayesian Analysis 16, 667 (2021).
    """
    z = _normal_scores(_halves(draws))
    chains, length = z.shape
    centred = z - z.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, n=2 * length, axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), axis=1)[:, :length] / length
    within = covariance[:, 0].mean() * length / (length - 1.0)
    total = within * (length - 1.0) / length + z.mean(1).var(ddof=1)
    if total <= 0:
        return float(z.size)
    correlation = 1.0 - (within - covariance.mean(0)) / total
    pairs = correlation[: length // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    time = max(-1.0 + 2.0 * pairs.sum(), 1.0 / math.log10(z.size))
    return float(chains * length / time)


def _halves(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _normal_scores(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    return ndtri((ranks - 0.375) / (draws.size + 0.25))


def _rhat(draws: NDArray[np.float64]) -> float:
    length = draws.shape[1]
    within = draws.var(axis=1, ddof=1).mean()
    if within <= 0:
        return math.inf if draws.mean(1).var() > 0 else 1.0
    return float(np.sqrt((length - 1.0) / length + draws.mean(1).var(ddof=1) / within))
