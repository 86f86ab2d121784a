"""Linear maps from vectors to labels in closed form or by Newton's method, with the penalty chosen on the same rows."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LogisticProbe", "RidgeProbe"]

_PENALTIES = tuple(10.0**power for power in range(-6, 5))
_LOGISTIC_PENALTIES = (1e-4, 1e-2, 1.0, 100.0)
_FOLDS = 3


class _Scaled:
    """Rows with mean 0 and variance 1 by the training rows; constant columns become zeros."""

    def __init__(self, x: Float[Tensor, "rows width"]) -> None:
        self.mean = x.mean(0)
        spread = x.std(0, correction=0)
        self.scale = torch.where(spread > 1e-10 * (1 + self.mean.abs()), 1 / spread, torch.zeros_like(spread))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class RidgeProbe:
    """min ‖y − b − X w‖² + λ n ‖w‖², with the λ whose leave-one-out error is the smallest.

    All of it follows from one singular value decomposition of the standardised rows, so that many labels cost little.

    Args:
        x: training rows, float64.

    Source: Hoerl and Kennard, Technometrics 12, 55 (1970); the leave-one-out residual is (y − ŷ) / (1 − h).
    """

    def __init__(self, x: Float[Tensor, "rows width"]) -> None:
        self.scaled = _Scaled(x)
        self.u, self.s, self.v = torch.linalg.svd(self.scaled(x), full_matrices=False)

    def penalty(self, y: Float[Tensor, " rows"]) -> float:
        """The best λ by leave-one-out."""
        errors = []
        for penalty in _PENALTIES:
            shrink = self._shrink(penalty)
            leverage = 1 / len(y) + (self.u.square() * shrink).sum(1)
            residual = y - y.mean() - self.u @ (shrink * (self.u.T @ (y - y.mean())))
            errors.append(float((residual / (1 - leverage).clamp_min(1e-9)).square().sum()))
        return _PENALTIES[min(range(len(errors)), key=errors.__getitem__)]

    def predict(self, y: Float[Tensor, " rows"], x: Float[Tensor, "items width"]) -> Float[Tensor, " items"]:
        """Predictions for `x` of the map that is fitted to labels `y` of the training rows."""
        shrink = self._shrink(self.penalty(y))
        inner = self.u.T @ (y - y.mean())
        weights = self.v.T @ torch.where(self.s > 0, shrink / self.s.clamp_min(1e-300), 0.0).mul(inner)
        return y.mean() + self.scaled(x) @ weights

    def _shrink(self, penalty: float) -> Tensor:
        square = self.s.square()
        shrink = square / (square + penalty * len(self.u))
        return torch.where(square > 1e-20 * square.max(), shrink, torch.zeros_like(shrink))


class LogisticProbe:
    """min −ln likelihood + λ n ‖w‖² / 2 of p = sigmoid(b + X w), by Newton's method, λ by cross-validation.

    Args:
        x: training rows, float64.
    """

    def __init__(self, x: Float[Tensor, "rows width"]) -> None:
        self.scaled = _Scaled(x)
        rows = self.scaled(x)
        self.rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)

    def penalty(self, y: Float[Tensor, " rows"]) -> float:
        """The best λ by the likelihood of the parts left out; rows are dealt out in turn within each class."""
        fold = torch.empty(len(y), dtype=torch.int64)
        for label in (0.0, 1.0):
            places = (y == label).nonzero().squeeze(1)
            fold[places] = torch.arange(len(places)) % _FOLDS
        errors = []
        for penalty in _LOGISTIC_PENALTIES:
            error = 0.0
            for number in range(_FOLDS):
                out = fold == number
                logits = self.rows[out] @ _newton(self.rows[~out], y[~out], penalty)
                error += float(torch.nn.functional.binary_cross_entropy_with_logits(logits, y[out], reduction="sum"))
            errors.append(error)
        return _LOGISTIC_PENALTIES[min(range(len(errors)), key=errors.__getitem__)]

    def predict(
        self, y: Float[Tensor, " rows"], x: Float[Tensor, "items width"], penalty: float | None = None
    ) -> Float[Tensor, " items"]:
        """Logits for `x` of the map that is fitted to labels 0 and 1 of the training rows."""
        weights = _newton(self.rows, y, self.penalty(y) if penalty is None else penalty)
        return self.scaled(x) @ weights[:-1] + weights[-1]


def _newton(rows: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Weights, the last one that of the constant column, which has no penalty."""
    weights = rows.new_zeros(rows.shape[1])
    ridge = torch.full_like(weights, penalty * len(rows))
    ridge[-1] = 1e-9
    for _ in range(25):
        p = (rows @ weights).sigmoid()
        slope = rows.T @ (p - y) + ridge * weights
        curvature = (rows.T * (p * (1 - p)).clamp_min(1e-9)) @ rows + ridge.diag()
        step = torch.linalg.solve(curvature, slope)
        weights = weights - step * min(1.0, 5.0 / float(step.norm().clamp_min(1e-12)))
        if float(step.abs().max()) < 1e-6:
            break
    return weights
