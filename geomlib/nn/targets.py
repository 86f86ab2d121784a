"""Properties that a net learns: what they are, and the scale on which the loss sees them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError, DataError

__all__ = ["KINDS", "NORMALIZERS", "Target", "TargetNormalizer", "masked_losses"]

KINDS = ("regression", "binary")
NORMALIZERS = ("standardize", "log", "power", "identity")

_LARGEST_EXPONENT = 80.0
"""exp of more than this is infinite in float32."""


@dataclass(frozen=True)
class Target:
    """A property.

    Args:
        name: column of tables and predictions.
        unit: in words; for messages and files.
        kind: `regression`, or `binary` for a label 0 or 1, which is predicted as a probability.
        normalizer: of a regression: `standardize`, `log` (logarithm, then standardise), `power` (Yeo-Johnson, then
            standardise) or `identity`.

    Raises:
        ConfigError: a word that is none of these.
    """

    name: str
    unit: str = ""
    kind: str = "regression"
    normalizer: str = "standardize"

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a target has no name")
        if self.kind not in KINDS or self.normalizer not in NORMALIZERS:
            raise ConfigError(
                f"target '{self.name}': kind is one of {', '.join(KINDS)} and normalizer one of "
                f"{', '.join(NORMALIZERS)}, got '{self.kind}' and '{self.normalizer}'"
            )

    @classmethod
    def read(cls, value: "str | Mapping[str, Any] | Target") -> Self:
        """From a name, or from a mapping of the arguments.

        Raises:
            ConfigError: an argument that a target does not have.
        """
        if isinstance(value, cls):
            return value
        row: dict[str, Any] = {"name": value} if isinstance(value, str) else {**cast(Mapping[str, Any], value)}
        if "name" not in row or (unknown := sorted(set(row) - {"name", "unit", "kind", "normalizer"})):
            raise ConfigError(
                f"target {row}: expected a name, and perhaps unit, kind and normalizer"
                + (f"; {unknown} are unknown" if "name" in row else "")
            )
        return cls(**row)

    def to_dict(self) -> dict[str, str]:
        """JSON-able form; `read` is its inverse."""
        return asdict(self)


class TargetNormalizer(nn.Module):
    """From natural units to the scale of the loss, and back.

        standardize  z = (y − mean) / sd            log    z = (ln y − mean) / sd
        power        z = (ψ(y, λ) − mean) / sd      binary: labels as they are, p = sigmoid(z) on the way back

    with ψ the Yeo-Johnson transform. Mean, sample standard deviation and λ are those of the labels that are there (NaN
    is a missing one); they are buffers, so they go into model files.

    Args:
        targets: one for each column.

    Raises:
        ConfigError: no targets, or two of one name.

    Source: Yeo and Johnson, Biometrika 87, 954 (2000).
    """

    mean: Tensor
    deviation: Tensor
    exponent: Tensor

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()
        names = [target.name for target in targets]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"targets {names}: expected at least one, each with a name of its own")
        self.targets = tuple(targets)
        self._columns = {
            way: [k for k, row in enumerate(targets) if row.kind == "regression" and row.normalizer == way]
            for way in NORMALIZERS
        }
        self._columns["binary"] = [k for k, row in enumerate(targets) if row.kind == "binary"]
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("deviation", torch.ones(len(names)))
        self.register_buffer("exponent", torch.ones(len(names)))

    def fit(self, values: Float[Tensor, "graphs targets"]) -> None:
        """Take the statistics from labels of training.

        Args:
            values: NaN where there is no label.

        Raises:
            DataError: another number of targets, one without labels, or labels that its normalizer can't take.
        """
        if values.ndim != 2 or values.shape[1] != len(self.targets):
            raise DataError(f"labels of shape {list(values.shape)} for the {len(self.targets)} targets of the net")
        for column, target in enumerate(self.targets):
            labels = values[:, column].double()
            labels = labels[~labels.isnan()]
            if len(labels) == 0:
                raise DataError(f"target '{target.name}' has no label in the training set")
            self._check(target, labels)
            if target.kind == "binary" or target.normalizer == "identity":
                continue
            if target.normalizer == "log":
                labels = labels.log()
            elif target.normalizer == "power":
                self.exponent[column] = _best_exponent(labels)
                labels = _yeo_johnson(labels, self.exponent[column].double())
            self.mean[column] = labels.mean()
            spread = labels.std() if len(labels) > 1 else labels.new_zeros(())
            # all labels alike: any scale does, and 1 keeps the loss finite
            self.deviation[column] = spread + 1e-8 if spread > 1e-12 * (1.0 + labels.mean().abs()) else 1.0

    @staticmethod
    def _check(target: Target, labels: Tensor) -> None:
        if target.kind == "binary" and not bool(((labels == 0) | (labels == 1)).all()):
            odd = labels[(labels != 0) & (labels != 1)][0].item()
            raise DataError(f"target '{target.name}' is binary, but a label is {odd:g}; expected 0, 1 or nothing")
        if not bool(torch.isfinite(labels).all()):
            raise DataError(f"target '{target.name}' has an infinite label")
        if target.kind == "regression" and target.normalizer == "log" and not bool((labels > 0).all()):
            raise DataError(
                f"target '{target.name}' has the normalizer log, but a label is {labels.min().item():g}: use power or "
                "standardize"
            )

    def normalize(self, values: Float[Tensor, "graphs targets"]) -> Float[Tensor, "graphs targets"]:
        """Labels on the scale of the loss; NaN stays NaN."""
        columns = list(values.unbind(1))
        for k in self._columns["log"]:
            columns[k] = columns[k].log()
        for k in self._columns["power"]:
            columns[k] = _yeo_johnson(columns[k], self.exponent[k].to(columns[k]))
        return (torch.stack(columns, dim=1) - self.mean.to(values)) / self.deviation.to(values)

    def denormalize(self, raw: Float[Tensor, "graphs targets"]) -> Float[Tensor, "graphs targets"]:
        """Predictions in natural units; probabilities of binary targets."""
        columns = list((raw * self.deviation.to(raw) + self.mean.to(raw)).unbind(1))
        for k in self._columns["log"]:
            columns[k] = columns[k].clamp(max=_LARGEST_EXPONENT).exp()
        for k in self._columns["power"]:
            columns[k] = _inverse_yeo_johnson(columns[k], self.exponent[k].to(raw))
        for k in self._columns["binary"]:
            columns[k] = columns[k].sigmoid()
        return torch.stack(columns, dim=1)


def _yeo_johnson(y: Tensor, exponent: Tensor) -> Tensor:
    """ψ(y, λ): ((y+1)^λ − 1)/λ for y ≥ 0, −((1−y)^(2−λ) − 1)/(2−λ) below, and their limits."""
    up, down = y.clamp_min(0).log1p(), (-y).clamp_min(0).log1p()
    return torch.where(y.isnan(), y, torch.where(y >= 0, _power(up, exponent), -_power(down, 2.0 - exponent)))


def _power(logarithm: Tensor, exponent: Tensor) -> Tensor:
    """(x^λ − 1)/λ of a logarithm ln x, and ln x for λ = 0."""
    if abs(float(exponent)) < 1e-6:
        return logarithm
    return torch.expm1(exponent * logarithm) / exponent


def _inverse_yeo_johnson(z: Tensor, exponent: Tensor) -> Tensor:
    return torch.where(
        z >= 0,
        torch.expm1(_logarithm(z.clamp_min(0), exponent)),
        -torch.expm1(_logarithm((-z).clamp_min(0), 2.0 - exponent)),
    )


def _logarithm(z: Tensor, exponent: Tensor) -> Tensor:
    """Inverse of `_power`; where no x gives z, the largest that can be told from infinity."""
    if abs(float(exponent)) < 1e-6:
        return z.clamp(max=_LARGEST_EXPONENT)
    return (torch.log1p((exponent * z).clamp_min(-1 + 1e-7)) / exponent).clamp(max=_LARGEST_EXPONENT)


def _best_exponent(labels: Tensor) -> float:
    """λ of the largest likelihood that the transformed labels are normally distributed."""
    from scipy.optimize import minimize_scalar

    jacobian = (labels.sign() * labels.abs().log1p()).sum()

    def cost(exponent: float) -> float:
        spread = _yeo_johnson(labels, labels.new_tensor(exponent)).var(correction=0)
        if not bool(torch.isfinite(spread)) or spread <= 0:
            return float("inf")
        return float(0.5 * len(labels) * spread.log() - (exponent - 1.0) * jacobian)

    if len(labels) < 2 or bool((labels == labels[0]).all()):
        return 1.0
    return float(minimize_scalar(cost, bounds=(-3.0, 5.0), method="bounded").x)


def masked_losses(
    raw: Float[Tensor, "graphs targets"],
    labels: Float[Tensor, "graphs targets"],
    targets: Sequence[Target],
    loss: str = "mse",
    delta: float = 1.0,
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"]]:
    """Sum of the losses of each target over the labels that are there, and their number.

    Args:
        raw: normalised predictions, logits of binary targets.
        labels: normalised labels; NaN where there is none.
        targets: of the columns; binary ones have the cross-entropy, −y ln p − (1 − y) ln(1 − p).
        loss: of the other ones: `mse`, `mae` or `huber`.
        delta: where `huber` turns from quadratic to linear.
    """
    there = ~labels.isnan()
    known = torch.where(there, labels, torch.zeros_like(labels)).to(raw.dtype)
    ways: dict[str, Callable[..., Tensor]] = {
        "bce": F.binary_cross_entropy_with_logits,
        "mse": F.mse_loss,
        "mae": F.l1_loss,
        "huber": partial(F.huber_loss, delta=delta),
    }
    columns = [
        ways["bce" if target.kind == "binary" else loss](raw[:, k], known[:, k], reduction="none")
        for k, target in enumerate(targets)
    ]
    values = torch.where(there, torch.stack(columns, dim=1), torch.zeros_like(raw))
    return values.sum(0), there.sum(0).to(raw.dtype)
