"""Loss terms: what is compared, how it is weighed and normalised. Levels and units come from the field table."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from geomlib.data.fields import field
from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError

__all__ = ["EXTENSIVE", "Term", "difference", "labelled"]

EXTENSIVE = frozenset({"energy", "virial"})
"""Graph-level fields that grow with the number of atoms; their errors are reported and weighed per atom."""


@dataclass(frozen=True)
class Term:
    """One term of the loss, `prefactor · mean(loss(prediction − label))`.

    The mean runs over every labelled component of the whole global batch, so that the number of processes and the
    way graphs are spread over them change nothing. Extensive fields (energy, virial) are divided by the number of
    atoms N of their graph inside the loss (`per_atom`, so a squared error carries 1/N²); `legacy` is deepmd-kit's
    normalisation, which divides the squared error by N once. Stress is intensive and never divided.

    The prefactor follows the learning rate, p = limit + (weight − limit) · lr / lr_start; no limit, no change.

    Args:
        field: name in the field table; the net must return it and the data must hold it.
        weight: prefactor at the start.
        weight_limit: prefactor towards which it moves as the learning rate falls; None keeps `weight`.
        loss: mse, mae, huber, or rmse, the root of the mean square (over the global batch too).
        delta: where huber turns from quadratic to linear [unit of the field; per atom for extensive fields].
        normalization: per_atom or legacy.
        norm: with mae or huber on a vector field, take the length of the error vector instead of its components.

    Source: deepmd-kit `deepmd/pt/loss/ener.py` for `legacy` and the schedule; huber acts on Δ/N there too.
    """

    field: str
    weight: float = 1.0
    weight_limit: float | None = None
    loss: Literal["mse", "mae", "huber", "rmse"] = "mse"
    delta: float = 0.01
    normalization: Literal["per_atom", "legacy"] = "per_atom"
    norm: bool = False

    def __post_init__(self) -> None:
        row = field(self.field)
        limits = (self.weight, self.weight if self.weight_limit is None else self.weight_limit)
        if min(limits) < 0:
            raise ConfigError(f"term '{self.field}': weight and weight_limit must not be negative, got {limits}")
        if self.delta <= 0:
            raise ConfigError(f"term '{self.field}': delta must be positive, got {self.delta}")
        if self.norm and (row.kind != "vector" or self.loss in ("mse", "rmse")):
            raise ConfigError(f"term '{self.field}': norm needs a vector field and loss mae or huber")
        losses = ("mse", "mae", "huber", "rmse")
        if self.loss not in losses or self.normalization not in ("per_atom", "legacy"):
            raise ConfigError(
                f"term '{self.field}': loss is mse, mae, huber or rmse and normalization per_atom or legacy, "
                f"got '{self.loss}' and '{self.normalization}'"
            )

    @property
    def active(self) -> bool:
        """Whether the term ever contributes: not both its weight and its limit are zero."""
        return self.weight > 0 or bool(self.weight_limit)

    def prefactor(self, lr_ratio: float) -> float:
        """Weight when the learning rate is `lr_ratio` times its start value."""
        limit = self.weight if self.weight_limit is None else self.weight_limit
        return limit + (self.weight - limit) * lr_ratio

    def sums(
        self, prediction: Float[Tensor, "items ..."], batch: GraphData, *, partial: bool = False
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Sum of the losses of all labelled components, and their number; the loss is their quotient.

        Args:
            prediction: what the net returned for the field.
            batch: holds the label.
            partial: the store declares that some graphs carry no label (NaN); they are left out.

        Raises:
            DataError: the label is missing, of another shape than the prediction, or NaN though not partial.
        """
        error, atoms = difference(self.field, prediction, batch, partial=partial)
        extensive = self.field in EXTENSIVE
        if extensive and not (self.normalization == "legacy" and self.loss != "huber"):
            error = error / atoms
        if self.norm:
            # the gradient of a norm at exactly zero is undefined; 1e-300 keeps it zero in float64
            error = (error.square().sum(-1) + torch.finfo(error.dtype).tiny).sqrt()
        values = self.penalty(error)
        if extensive and self.normalization == "legacy" and self.loss != "huber":
            values = values / atoms
        return values.sum(), torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)

    def penalty(self, error: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What each component of an error adds to the sum."""
        if self.loss in ("mse", "rmse"):
            return error.square()
        if self.loss == "mae":
            return error.abs()
        return torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.delta)

    def of_mean(self, mean: float) -> float:
        """The loss from the quotient of `sums`: its root for `rmse`, else itself."""
        return mean**0.5 if self.loss == "rmse" else mean

    def slope(self, mean: float) -> float:
        """Derivative of `of_mean`; zero where the root has none."""
        if self.loss != "rmse":
            return 1.0
        return 0.5 * mean**-0.5 if mean > 0 else 0.0


def labelled(name: str, batch: GraphData, *, partial: bool) -> Bool[Tensor, " items"] | None:
    """Items of field `name` that carry a label, or None if all do.

    Raises:
        DataError: there is no such label, or NaN in a field that is not declared partial.
    """
    if name not in batch:
        known = sorted(str(key) for key in batch.keys())  # noqa: SIM118 - GraphData iterates over pairs
        raise DataError(
            f"the loss needs the label '{name}', which the data does not hold (it holds {known}): name its key "
            "in the store, or remove the term"
        )
    label = batch[name]
    if not partial:
        return None
    finite = torch.isfinite(label).reshape(len(label), -1).all(1)
    return None if bool(finite.all()) else finite


def difference(
    name: str, prediction: Float[Tensor, "items ..."], batch: GraphData, *, partial: bool = False
) -> tuple[Float[Tensor, "labelled ..."], Float[Tensor, "labelled ..."]]:
    """Prediction minus label of the labelled items in float64, and the number of atoms of each one's graph.

    The second tensor has a trailing axis of 1 for every axis of an item, so that it divides the first.

    Raises:
        DataError: the label is missing or of another shape than the prediction.
    """
    mask = labelled(name, batch, partial=partial)
    label = batch[name]
    if label.shape != prediction.shape:
        raise DataError(f"label '{name}' has shape {list(label.shape)}, the net predicts {list(prediction.shape)}")
    error = prediction.double() - label.double()
    graphs = batch.node_graph
    atoms = torch.bincount(graphs, minlength=batch.num_graphs).to(error.dtype)
    if field(name).level == "node":
        atoms = atoms.index_select(0, graphs)
    if mask is not None:
        error, atoms = error[mask], atoms[mask]
    return error, atoms.view(-1, *([1] * (error.dim() - 1)))
