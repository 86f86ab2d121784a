"""DMPNN: properties of molecules from directed messages on their bonds, and from descriptors."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.data.molecular_features import ATOM_FEATURES, BOND_FEATURES
from geomlib.data.stores import Store
from geomlib.errors import ConfigError
from geomlib.graphs.builder import Builder
from geomlib.graphs.molecule import Descriptors, MoleculeGraph
from geomlib.graphs.spec import GraphSpec
from geomlib.models.dmpnn.encoder import BondEncoder
from geomlib.models.property import PropertyNet
from geomlib.nn.descriptors import DescriptorNormalizer
from geomlib.nn.mixture import mix
from geomlib.nn.reduce import segment_sum

__all__ = ["DMPNN"]

_AGGREGATIONS = ("norm", "mean", "sum")


class DMPNN(PropertyNet):
    """Properties of molecules and mixtures from a directed message-passing network.

    Messages on directed bonds give hidden states of atoms (see `BondEncoder`); those of a molecule are summed and
    divided by a constant (`norm`), averaged (`mean`) or summed (`sum`), descriptors of the molecule are appended, and
    what molecules of a mixture have is weighed by their mole fractions. A head makes the targets of it. With the
    defaults the numbers do not depend on how the SMILES was written.

    Args:
        targets: names, or rows of name, unit, kind and normalizer; see `geomlib.nn.targets.Target`.
        hidden: width of hidden states.
        depth: number of hidden states of a bond; 3 has two rounds of messages.
        aggregation: `norm`, `mean` or `sum`.
        norm: the constant of `norm`.
        undirected: average the two directions of a bond before each round.
        activation: in the encoder; see `geomlib.nn.activation`.
        bias: whether the maps of bonds have a bias.
        dropout: in the encoder and the head.
        descriptors: what to append: `rdkit`, `ecfp`, names of descriptors, or nothing.
        descriptor_dropout: probability that a descriptor is left out in training.
        descriptor_bound: standardised descriptors are cut off at ± this.
        fingerprint_size: columns of `ecfp`.
        hydrogens: give hydrogens atoms of their own.
        chirality: `cip`, `tag` (chemprop's, which depends on the writing) or `none`.
        head_layers: hidden widths of the head.
        head: `plain`, or `residual` (hidden layers of the width of the embedding with skips).

    Inputs (batch fields): node_features, edge_features, edge_index, node_component, component_graph, and where there
        are descriptors `descriptors`; mole_fraction of mixtures
    Returns: target [graphs, targets] in natural units or as probabilities, target_raw [graphs, targets]

    Raises:
        ConfigError: an argument out of its range.

    Source: Yang et al., J. Chem. Inf. Model. 59, 3370 (2019); chemprop 2. Chirality is R or S instead of the sense of
        rotation; descriptors without value are 0 after standardising.
    """

    family = "dmpnn"
    family_version = 1
    inputs: tuple[str, ...] = ("smiles", "character_component", "component_graph")
    outputs: tuple[str, ...] = ("target", "target_raw")

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        *,
        hidden: int = 300,
        depth: int = 3,
        aggregation: str = "norm",
        norm: float = 100.0,
        undirected: bool = False,
        activation: str = "relu",
        bias: bool = False,
        dropout: float = 0.0,
        descriptors: str | list[str] | None = None,
        descriptor_dropout: float = 0.0,
        descriptor_bound: float = 5.0,
        fingerprint_size: int = 2048,
        hydrogens: bool = False,
        chirality: str = "cip",
        head_layers: list[int] = [300],  # noqa: B006 - copied into config, never changed
        head: str = "plain",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        if aggregation not in _AGGREGATIONS or norm <= 0 or descriptor_bound <= 0:
            raise ConfigError(
                f"aggregation '{aggregation}', norm {norm}, descriptor_bound {descriptor_bound}: expected one of "
                f"{', '.join(_AGGREGATIONS)} and positive numbers"
            )
        if not 0.0 <= descriptor_dropout < 1.0:
            raise ConfigError(f"descriptor_dropout is {descriptor_dropout}; expected a probability below 1")
        self.aggregation, self.norm = aggregation, norm
        builders: list[Builder] = [MoleculeGraph(hydrogens=hydrogens, chirality=chirality)]
        width = hidden
        self.descriptor_normalizer: DescriptorNormalizer | None = None
        if descriptors:
            columns = Descriptors(
                descriptors if isinstance(descriptors, str) else tuple(descriptors), size=fingerprint_size
            )
            builders.append(columns)
            self.descriptor_normalizer = DescriptorNormalizer(columns.width, descriptor_bound)
            width += columns.width
        self.spec = GraphSpec(tuple(builders))
        self.encoder = BondEncoder(
            len(ATOM_FEATURES),
            len(BOND_FEATURES),
            hidden=hidden,
            depth=depth,
            dropout=dropout,
            undirected=undirected,
            activation=activation,
            bias=bias,
        )
        self.descriptor_dropout = nn.Dropout(descriptor_dropout)
        self.set_head(width, targets, head_layers=head_layers, dropout=dropout, head=head)

    def embed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """What the head sees of each molecule or mixture: pooled hidden states, then descriptors."""
        dtype = self.encoder.output.weight.dtype
        states = self.encoder(batch.node_features.to(dtype), batch.edge_features.to(dtype), batch.edge_index)
        components = len(batch.component_graph)
        pooled = segment_sum(states, batch.node_component, components)
        if self.aggregation == "norm":
            pooled = pooled / self.norm
        elif self.aggregation == "mean":
            sizes = torch.bincount(batch.node_component, minlength=components).clamp_min(1)
            pooled = pooled / sizes.unsqueeze(1)
        if self.descriptor_normalizer is not None:
            descriptors = self.descriptor_normalizer(batch.descriptors)
            pooled = torch.cat([pooled, self.descriptor_dropout(descriptors)], dim=1)
        return mix(pooled, batch)

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the normaliser of the targets, and that of the descriptors where there are some.

        Raises:
            DataError: a SMILES that is no molecule.
        """
        kept = graphs if isinstance(graphs, Store) else list(graphs)  # they are read twice
        super().fit_statistics(kept)
        columns = self.spec.find(Descriptors)
        if self.descriptor_normalizer is not None and columns is not None:
            self.descriptor_normalizer.fit(columns.rows(kept))
