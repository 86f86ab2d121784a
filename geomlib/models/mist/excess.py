"""ExcessNet: properties of mixtures as linear mixing and an excess that vanishes at the pure ends."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError
from geomlib.models.mist.mixture import OfMolecules
from geomlib.models.mist.molecule_net import checked_fractions, kelvin
from geomlib.nn.excess import ExcessHead, MixtureParts

__all__ = ["ExcessNet"]


class ExcessNet(OfMolecules):
    """Properties of mixtures of any number of molecules: y = S(Σ_i x_i p_i) + S_e(excess).

    `geomlib.nn.excess.ExcessHead` makes both parts from the embeddings of the molecules, which come from any family
    that has one: `mist-property`, `dmpnn`, or `combined`. S brings the first part to natural units, S_e multiplies
    with the standard deviation of the excess. Nothing depends on the order of the molecules; a pure substance has no
    excess, exactly, whatever the weights are.

    Where the data have labels of the excess itself (`target_excess`), the task's loss has their squared error too.
    With `linear: false` the targets themselves are excesses, and there is no linear part.

    Args:
        targets: names, or rows of name, unit and normalizer `standardize` or `identity`.
        molecule: `family` and the arguments of the net of molecules, without `targets`.
        interactions: `difference`, `square-difference`, `gaussian`, `softmax` or `concat`.
        controls: control points of the curve of a pair.
        temperature: `none`, `concat`, `arrhenius` or `linear`.
        temperature_center: [K].
        temperature_scale: [K].
        dropout: in the head.
        relative: the excess is multiplied by the linear part.
        curve: `lagrange` or `redlich-kister`.
        linear: whether there is a linear part.
        excess_weight: of labels of the excess beside those of the property.

    Inputs (batch fields): those of the net of molecules, mole_fraction [components], temperature [graphs] if it is
        seen
    Returns: target [graphs, targets] in natural units, target_excess [graphs, targets], target_raw [graphs, targets]

    Raises:
        ConfigError: an argument out of its range.

    Source: MIST, arXiv 2510.18900; see `ExcessHead` for what differs.
    """

    family = "excess"
    family_version = 1
    outputs: tuple[str, ...] = ("target", "target_raw", "target_excess")
    excess_deviation: Tensor

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        molecule: dict[str, Any],
        *,
        interactions: str = "difference",
        controls: int = 3,
        temperature: str = "concat",
        temperature_center: float = 298.15,
        temperature_scale: float = 50.0,
        dropout: float = 0.1,
        relative: bool = False,
        curve: str = "lagrange",
        linear: bool = True,
        excess_weight: float = 1.0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        seen = temperature != "none"
        width = self.set_molecule(molecule, ("temperature",) if seen else ())
        self.set_head(width, targets, head="plain")
        odd = [row.name for row in self.targets if row.kind != "regression" or row.normalizer in ("log", "power")]
        if odd or excess_weight < 0:
            raise ConfigError(
                f"targets {odd}, excess_weight {excess_weight}: an excess adds to a linear part, so targets are "
                "regressions with the normalizer standardize or identity (take the logarithm beforehand), and the "
                "weight is not negative"
            )
        self.linear, self.excess_weight, self.seen = linear, excess_weight, seen
        self.head = ExcessHead(
            width,
            len(self.targets),
            interactions,
            controls,
            temperature,
            temperature_center,
            temperature_scale,
            dropout,
            relative,
            curve,
            linear,
        )
        self.register_buffer("excess_deviation", torch.ones(len(self.targets)))

    def parts(self, batch: GraphData) -> MixtureParts:
        """Linear part and excess of each mixture on the scale of the loss, and the control points of each pair.

        Raises:
            ConfigError: the head was removed.
            DataError: mole fractions or temperatures that are none.
        """
        if not isinstance(self.head, ExcessHead):
            raise ConfigError("this net has no head: it is a member of another net")
        values = self.embeddings(batch)
        return self.head(
            values,
            checked_fractions(batch, values),
            batch.component_graph,
            batch.num_graphs,
            kelvin(batch, values) if self.seen else None,
        )

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Properties and their excess in natural units, and the properties on the scale of the loss."""
        parts = self.parts(batch)
        excess = parts.excess * self.excess_deviation.to(parts.excess)
        target = self.normalizer.denormalize(parts.linear) + excess if self.linear else excess
        return {"target": target, "target_raw": self.normalizer.normalize(target), "target_excess": excess}

    def extra_loss(self, outputs: dict[str, Tensor], batch: GraphData) -> tuple[Tensor, Tensor]:
        """Squared errors of the excess in units of its deviation, and the number of labels of it."""
        excess = outputs["target_excess"]
        if not self.linear or "target_excess" not in batch:
            return excess.new_zeros(()), excess.new_zeros(())
        labels = batch.target_excess.to(excess)
        there = ~labels.isnan()
        off = torch.where(there, excess - labels, torch.zeros_like(excess)) / self.excess_deviation.to(excess)
        return self.excess_weight * off.square().sum(), there.sum().to(excess)

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the scales of the properties and of their excess, and whatever the net of molecules has.

        Without labels of the excess it has the scale of the property.

        Raises:
            DataError: a SMILES that is no molecule, or labels that don't fit.
        """
        if self.head is None:
            self.molecule.fit_statistics(graphs)
            return
        kept = graphs if isinstance(graphs, Store) else list(graphs)  # they are read several times
        super().fit_statistics(kept)
        if not self.linear:
            self.normalizer.mean.zero_()  # no property, no label: zero stays zero
        self.excess_deviation.copy_(self.normalizer.deviation)
        rows = [graph.target_excess for graph in kept if "target_excess" in graph]
        if not rows or not self.linear:
            return
        labels = torch.cat(rows).double()
        if labels.shape[1] != len(self.targets):
            raise DataError(f"{labels.shape[1]} labels of excesses for the {len(self.targets)} targets of the net")
        for column in range(labels.shape[1]):
            known = labels[:, column][~labels[:, column].isnan()]
            if len(known) > 1 and float(known.std()) > 0:
                self.excess_deviation[column] = known.std()
