"""ConductivityNet: ionic conductivity of liquid electrolytes."""

import copy
from typing import Any

import torch
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.models.mist.mixture import OfMolecules
from geomlib.models.mist.molecule_net import checked_fractions, kelvin
from geomlib.nn.conductivity import ConductivityHead
from geomlib.nn.reduce import segment_sum

__all__ = ["ConductivityNet"]


class ConductivityNet(OfMolecules):
    """Logarithm of the ionic conductivity of solvents with a salt, from Σ x_i e_i; see `ConductivityHead`.

    The salt is the last molecule of a mixture; where cation and anion are two molecules, the last of them, so that its
    mole fraction is that of the salt. The solvents may stand in any order.

    Args:
        target: name of ln k, or a row of name, unit and normalizer `standardize` or `identity`.
        molecule: `family` and the arguments of the net of molecules, without `targets`.
        decay_penalty: times the mean of α, the salt fraction where the decay begins, is added to the loss.

    Inputs (batch fields): those of the net of molecules, mole_fraction [components], temperature [graphs]
    Returns: target [graphs, 1], ln k in natural units, target_raw [graphs, 1]

    Raises:
        ConfigError: an argument out of its range.

    Source: MIST, arXiv 2510.18900.
    """

    family = "ionic-conductivity"
    family_version = 1
    outputs: tuple[str, ...] = ("target", "target_raw")

    def __init__(
        self,
        target: str | dict[str, Any] = "ln_conductivity",
        molecule: dict[str, Any] = {"family": "mist-property", "pool": "first"},  # noqa: B006 - copied, never changed
        *,
        decay_penalty: float = 1.0,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        width = self.set_molecule(molecule, ("temperature",))
        self.set_head(width, [target], head="plain")
        if self.targets[0].kind != "regression" or self.targets[0].normalizer in ("log", "power"):
            raise ConfigError(f"target '{self.targets[0].name}' is ln k: normalizer standardize or identity")
        if width < 2 or decay_penalty < 0:
            raise ConfigError(f"decay_penalty {decay_penalty}, embeddings of width {width}: expected ≥ 0 and ≥ 2")
        self.decay_penalty = decay_penalty
        self.head = ConductivityHead(width)
        self._alpha: Tensor | None = None

    def numbers(self, batch: GraphData) -> dict[str, Tensor]:
        """Ln k and what it is made of, see `ConductivityHead` [graphs].

        Raises:
            ConfigError: the head was removed.
            DataError: mole fractions or temperatures that are none, or a mixture without molecules.
        """
        if not isinstance(self.head, ConductivityHead):
            raise ConfigError("this net has no head: it is a member of another net")
        values = self.embeddings(batch)
        fractions = checked_fractions(batch, values)
        counts = torch.bincount(batch.component_graph, minlength=batch.num_graphs)
        if not bool((counts > 0).all()):
            raise DataError("a mixture without molecules")
        mixed = segment_sum(fractions.unsqueeze(1) * values, batch.component_graph, batch.num_graphs)
        return self.head(mixed, fractions[counts.cumsum(0) - 1], kelvin(batch, values))

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Ln k in natural units and on the scale of the loss."""
        found = self.numbers(batch)
        self._alpha = found["alpha"]
        target = found["ln_k"].unsqueeze(1)
        return {"target": target, "target_raw": self.normalizer.normalize(target)}

    def extra_loss(self, outputs: dict[str, Tensor], batch: GraphData) -> tuple[Tensor, Tensor]:
        """Sum of α of the last forward pass, and its number."""
        alpha = self._alpha
        assert alpha is not None
        self._alpha = None
        return self.decay_penalty * alpha.sum(), alpha.new_tensor(float(len(alpha)))
