"""Molecules given as SMILES, as the graphs of the ZINC benchmark."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from geomlib.data.graph import GraphData
from geomlib.graphs.builder import Builder

__all__ = ["ZincGraph"]


@dataclass(frozen=True)
class ZincGraph(Builder):
    """Heavy atoms of 28 types and bonds of types 1 to 3, of every molecule; see `geomlib.data.zinc`."""

    kind: ClassVar[str] = "zinc_graph"
    provides: ClassVar[tuple[str, ...]] = ("node_type", "edge_type", "edge_index", "node_component")

    def build(self, graph: GraphData) -> None:
        """Set the fields in `provides` from `smiles`, for a graph or a batch.

        Raises:
            DataError: a SMILES that is no molecule, or has an atom that is of no type.
        """
        from geomlib.data.molecules import parse_molecule, to_smiles  # RDKit takes a while to load
        from geomlib.data.zinc import zinc_structure

        structures = [zinc_structure(parse_molecule(smiles), smiles) for smiles in to_smiles(graph)]
        sizes = torch.tensor([len(types) for types, _, _ in structures])
        first = sizes.cumsum(0) - sizes
        device = graph.smiles.device
        graph.node_type = torch.cat([types for types, _, _ in structures]).to(device)
        graph.edge_type = torch.cat([orders for _, _, orders in structures]).to(device)
        edges = [edges + start for (_, edges, _), start in zip(structures, first, strict=True)]
        graph.edge_index = torch.cat(edges, dim=1).to(device)
        graph.node_component = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(device)
        if graph.num_graphs > 1:  # batching text alone could not say which nodes belong to a graph
            graph.batch = graph.component_graph.index_select(0, graph.node_component)
            counts = torch.bincount(graph.batch, minlength=graph.num_graphs)
            graph.ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
