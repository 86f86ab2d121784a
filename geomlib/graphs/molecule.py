"""Atoms, bonds and descriptors of molecules that are given as SMILES."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.descriptors import calculate_descriptors, descriptor_width, expand_descriptors
from geomlib.data.graph import GraphData
from geomlib.data.molecular_features import CHIRALITY, MoleculeStructure, molecule_structure
from geomlib.data.molecules import parse_molecule, to_smiles
from geomlib.errors import ConfigError
from geomlib.graphs.builder import Builder

__all__ = ["Descriptors", "MoleculeGraph"]

_REMEMBERED = 8192
"""Molecules whose descriptors are kept: they take milliseconds, and a fit asks twice."""


@dataclass(frozen=True)
class MoleculeGraph(Builder):
    """Atoms and directed bonds of every molecule, with features.

    Features and their columns are `ATOM_FEATURES` and `BOND_FEATURES` of `geomlib.data.molecular_features`. Each bond
    stands twice, from either end; bonds are sorted by the atom they lead to.

    Args:
        hydrogens: give hydrogens atoms of their own.
        chirality: how stereocentres are marked: `cip`, `tag` or `none`; see `molecule_structure`.

    Raises:
        ConfigError: another `chirality`.
    """

    kind: ClassVar[str] = "molecule_graph"
    provides: ClassVar[tuple[str, ...]] = ("node_features", "edge_features", "edge_index", "node_component")

    hydrogens: bool = False
    chirality: str = "cip"

    def __post_init__(self) -> None:
        if self.chirality not in CHIRALITY:
            raise ConfigError(f"chirality is '{self.chirality}'; choose from {', '.join(CHIRALITY)}")

    def build(self, graph: GraphData) -> None:
        """Set the fields in `provides` from `smiles`, for a graph or a batch.

        Raises:
            DataError: a SMILES that is no molecule.
        """
        structures = [self._structure(smiles) for smiles in to_smiles(graph)]
        sizes = torch.tensor([len(structure.node_features) for structure in structures])
        first = sizes.cumsum(0) - sizes
        edges = [structure.edge_index + start for structure, start in zip(structures, first, strict=True)]
        device = graph.smiles.device
        graph.node_features = torch.cat([structure.node_features for structure in structures]).to(device)
        graph.edge_features = torch.cat([structure.edge_features for structure in structures]).to(device)
        graph.edge_index = torch.cat(edges, dim=1).to(device)
        graph.node_component = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)
        if graph.num_graphs > 1:  # batching text alone could not say which nodes belong to a graph
            graph.batch = graph.component_graph.index_select(0, graph.node_component)
            counts = torch.bincount(graph.batch, minlength=graph.num_graphs)
            graph.ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def _structure(self, smiles: str) -> MoleculeStructure:
        return molecule_structure(parse_molecule(smiles), chirality=self.chirality, hydrogens=self.hydrogens)


@dataclass(frozen=True)
class Descriptors(Builder):
    """Descriptors of every molecule, as RDKit gives them.

    What RDKit can't calculate for a molecule is NaN; a net that reads descriptors has to mind that.

    Args:
        names: `rdkit` (all two-dimensional descriptors but Ipc), `ecfp` (a Morgan fingerprint), or names of
            descriptors; one or several.
        radius: of the fingerprint [bonds]; 2 is ECFP4.
        size: of the fingerprint.
        counts: whether the fingerprint says how often a substructure occurs, or only that it does.

    Raises:
        ConfigError: an unknown name, or a fingerprint without a size.
    """

    kind: ClassVar[str] = "descriptors"
    provides: ClassVar[tuple[str, ...]] = ("descriptors",)

    names: str | tuple[str, ...] = "rdkit"
    radius: int = 2
    size: int = 2048
    counts: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.names, str):
            object.__setattr__(self, "names", tuple(self.names))  # JSON gives a list
        expand_descriptors(self.names)
        if self.size < 1 or self.radius < 0:
            raise ConfigError(f"a fingerprint of radius {self.radius} and size {self.size}: expected ≥ 0 and ≥ 1")

    @property
    def width(self) -> int:
        """Number of columns of `descriptors`."""
        return descriptor_width(self.names, self.size)

    def build(self, graph: GraphData) -> None:
        """Set `descriptors` from `smiles`, for a graph or a batch.

        Raises:
            DataError: a SMILES that is no molecule, or a descriptor that the installed RDKit does not have.
        """
        rows = [_row(smiles, self) for smiles in to_smiles(graph)]
        graph.descriptors = torch.stack(rows).to(graph.smiles.device)

    def rows(self, graphs: Iterable[GraphData]) -> Iterator[Float[Tensor, "molecules width"]]:
        """Descriptors of the molecules of each graph, which stays as it is; for statistics."""
        for graph in graphs:
            yield torch.stack([_row(smiles, self) for smiles in to_smiles(graph)])


@lru_cache(maxsize=_REMEMBERED)
def _row(smiles: str, builder: Descriptors) -> Float[Tensor, " width"]:
    values = calculate_descriptors(
        parse_molecule(smiles),
        expand_descriptors(builder.names),
        radius=builder.radius,
        size=builder.size,
        counts=builder.counts,
    )
    return torch.from_numpy(values).to(torch.float32)
