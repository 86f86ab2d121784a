"""MixtureNet: properties of mixtures from the weighed embeddings of their molecules, and the temperature."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.stores import Store
from geomlib.errors import ConfigError
from geomlib.models.base import Net
from geomlib.models.mist.molecule_net import checked_fractions, embed_molecules, kelvin, molecule_net, molecule_stages
from geomlib.models.property import PropertyNet
from geomlib.nn.reduce import segment_sum

__all__ = ["MixtureNet", "OfMolecules"]


class OfMolecules(PropertyNet):
    """Base of nets of mixtures: they hold a net of molecules, `molecule`, whose embeddings they combine."""

    inputs: tuple[str, ...] = ("smiles", "character_component", "component_graph")
    molecule: PropertyNet

    def set_molecule(self, row: Mapping[str, Any], more: tuple[str, ...] = ()) -> int:
        """Make the net of molecules; return the width of its embeddings.

        Args:
            row: see `molecule_net`.
            more: fields that are read besides those of the molecules.

        Raises:
            ConfigError: a net that gives no embeddings.
        """
        self.molecule = molecule_net(row)
        self.spec = self.molecule.spec
        own = ("smiles", "character_component", "component_graph", *more)
        self.inputs = tuple(dict.fromkeys([*own, *self.molecule.inputs]))
        return self.molecule.embedding_width

    def embeddings(self, batch: GraphData) -> Float[Tensor, "components width"]:
        """Of every molecule, as if it were alone."""
        return embed_molecules(self.molecule, batch)

    def mixed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """Σ x_i e_i."""
        values = self.embeddings(batch)
        weights = checked_fractions(batch, values).unsqueeze(1)
        return segment_sum(weights * values, batch.component_graph, batch.num_graphs)

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the normaliser of the targets, and whatever the net of molecules has.

        Raises:
            DataError: a SMILES that is no molecule, or labels that don't fit.
        """
        kept = graphs if isinstance(graphs, Store) else list(graphs)  # they are read several times
        super().fit_statistics(kept)
        self.molecule.fit_statistics(kept)

    def thaw_stages(self) -> list[list[str]]:
        """See `PropertyNet.thaw_stages`."""
        return molecule_stages(self.molecule)

    def take_molecule(self, net: Net) -> None:
        """Start the net of molecules from one that was trained before: all of it but what belongs to a head.

        Args:
            net: its tensors have the names of those of `molecule`, as `mist` has those of `mist-property`.

        Raises:
            ConfigError: a tensor is missing, or of another shape.
        """
        wanted, found = self.molecule.state_dict(), net.state_dict()
        odd = [name for name, value in wanted.items() if name not in found or found[name].shape != value.shape]
        if odd:
            raise ConfigError(
                f"the net of molecules can't start from a net of the family '{net.family}': {len(odd)} tensors are "
                f"missing or of another shape, e.g. '{odd[0]}'; give 'molecule' the arguments {net.config}"
            )
        self.molecule.load_state_dict({name: found[name] for name in wanted})


class MixtureNet(OfMolecules):
    """Properties of mixtures of any number of molecules: target = head([T/400,] Σ_i x_i e_i).

    The embedding e_i is that of any family that has one: `mist-property` (pooled hidden states of the encoder),
    `dmpnn`, or `combined` (descriptors too). Nothing depends on the order of the molecules.

    Args:
        targets: names, or rows of name, unit, kind and normalizer; see `geomlib.nn.targets.Target`.
        molecule: `family` and the arguments of the net of molecules, without `targets`.
        temperature: `concat` puts T / `temperature_scale` before the embedding, `none` does not look at it.
        temperature_scale: [K].
        dropout: in the head.
        head_layers: hidden widths of the head.
        head: `residual` (as published) or `plain`.

    Inputs (batch fields): those of the net of molecules, mole_fraction [components], temperature [graphs]
    Returns: target [graphs, targets] in natural units or as probabilities, target_raw [graphs, targets]

    Raises:
        ConfigError: an argument out of its range.

    Source: MIST, arXiv 2510.18900.
    """

    family = "mixture"
    family_version = 1
    outputs: tuple[str, ...] = ("target", "target_raw")

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        molecule: dict[str, Any],
        *,
        temperature: str = "concat",
        temperature_scale: float = 400.0,
        dropout: float = 0.1,
        head_layers: list[int] | None = None,
        head: str = "residual",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        if temperature not in ("none", "concat") or temperature_scale <= 0:
            raise ConfigError(f"temperature '{temperature}', scale {temperature_scale}: expected none or concat, > 0")
        self.temperature, self.temperature_scale = temperature, temperature_scale
        seen = temperature == "concat"
        width = self.set_molecule(molecule, ("temperature",) if seen else ())
        self.set_head(width + int(seen), targets, head_layers=head_layers, dropout=dropout, head=head)

    def embed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """What the head sees of each mixture."""
        mixed = self.mixed(batch)
        if self.temperature == "none":
            return mixed
        return torch.cat([(kelvin(batch, mixed) / self.temperature_scale).unsqueeze(1), mixed], dim=1)
