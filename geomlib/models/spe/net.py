"""GINE and GPS: properties of graphs or nodes from message passing with positional encodings."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.builder import Builder
from geomlib.graphs.molecule import MoleculeGraph
from geomlib.graphs.spec import GraphSpec
from geomlib.graphs.zinc import ZincGraph
from geomlib.models.property import PropertyNet
from geomlib.models.spe.body import GINELayers, GPSLayers, NodeInput, pooled
from geomlib.models.spe.encodings import make_encoding
from geomlib.models.spe.mlp import MLP

__all__ = ["GINE", "GPS"]

_BUILDERS: dict[str, tuple[Builder, ...]] = {"given": (), "zinc": (ZincGraph(),), "molecule": (MoleculeGraph(),)}


class _EncodedNet(PropertyNet):
    """What GINE and GPS share: inputs, pooling and the last perceptron."""

    family_version = 1
    layers: GINELayers | GPSLayers
    readout: MLP

    def _begin(self, arguments: dict[str, Any]) -> None:
        """Config, spec and everything before the layers, from the constructor's arguments."""
        self.config = copy.deepcopy(arguments)
        graph, pooling = arguments["graph"], arguments["pooling"]
        if graph not in _BUILDERS:
            raise ConfigError(f"graph is '{graph}'; expected one of {sorted(_BUILDERS)}")
        if pooling not in ("mean", "add", "node"):
            raise ConfigError(f"pooling is '{pooling}'; expected 'mean', 'add', or 'node' for properties of nodes")
        self.pooling = pooling
        self.outputs = ("node_target",) if pooling == "node" else ("target", "target_raw")
        self.encoding = make_encoding(arguments["encoding"])
        self.spec = GraphSpec((*_BUILDERS[graph], *self.encoding.builders))
        self.node_field = _field("node", arguments)
        self.edge_field = _field("edge", arguments)
        if graph == "given":
            fields = tuple(name for name in (self.node_field, self.edge_field) if name)
            self.inputs = ("edge_index", *fields)
        else:
            self.inputs = ("smiles", "character_component", "component_graph")
        self.input = NodeInput(
            arguments["node_types"],
            arguments["node_features"],
            arguments["width"],
            self.encoding,
            arguments["combine"],
        )

    def node_rows(self, batch: GraphData) -> Float[Tensor, "nodes width"]:
        """Rows of nodes after the last layer."""
        dtype = next(self.input.parameters()).dtype
        owner = batch.node_graph
        nodes = torch.zeros_like(owner) if self.node_field is None else _values(batch, self.node_field, dtype)
        edges = None if self.edge_field is None else _values(batch, self.edge_field, dtype)
        known = getattr(self.input.embedding, "num_embeddings", None)
        if known is not None and nodes.device.type == "cpu" and nodes.numel() and int(nodes.max()) >= known:
            raise DataError(f"a node is of type {int(nodes.max())}, but the net knows {known} types, from 0 on")
        x, injected = self.input(nodes, self.encoding.encode(batch), batch.edge_index)
        return self.layers(x, batch.edge_index, owner, edges, injected)

    def embed(self, batch: GraphData) -> Float[Tensor, "rows width"]:
        """Rows of graphs, or of nodes with pooling `node`, before the head."""
        rows = self.node_rows(batch)
        if self.pooling != "node":
            rows = pooled(rows, batch.node_graph, batch.num_graphs, self.pooling)
        return self.readout(rows)

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Targets; see `PropertyNet`. With pooling `node` those of each node, `node_target`."""
        out = super().forward(batch)
        return out if self.pooling != "node" else {"node_target": out["target"]}

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the normaliser of the targets to the labels of the training graphs, or of their nodes.

        Raises:
            DataError: graphs without labels.
        """
        if self.pooling != "node":
            return super().fit_statistics(graphs)
        labels = [graph.node_target for graph in graphs if "node_target" in graph]
        if not labels:
            raise DataError("the training graphs have no field 'node_target'")
        return self.normalizer.fit(torch.cat(labels))


def _field(level: str, arguments: dict[str, Any]) -> str | None:
    if arguments[f"{level}_types"] is not None:
        return f"{level}_type"
    return f"{level}_features" if arguments[f"{level}_features"] is not None else None


def _values(batch: GraphData, name: str, dtype: torch.dtype) -> Tensor:
    if name not in batch:
        raise DataError(f"the net reads '{name}', which the graph lacks; it has {sorted(batch.keys())}")
    value = batch[name]
    return value.to(dtype) if value.is_floating_point() else value


class GINE(_EncodedNet):
    """Properties from graph isomorphism layers with edges, and a positional encoding of nodes or edges.

    Args:
        targets: names, or rows of name, unit, kind and normalizer; see `geomlib.nn.targets.Target`.
        encoding: name, or `{kind: …, …}`: `spe`, `spe_edges`, `signnet`, `basisnet`, `laplacian`, `peg`, `rwse`,
            `pearl` or `none`; see `geomlib.models.spe.encodings`.
        graph: `given` in the data (`edge_index` and types or features), or built from SMILES as `zinc` graphs (28
            node types, 4 edge types) or `molecule` graphs (features of atoms and bonds).
        node_types: number of types of nodes; or
        node_features: number of features of nodes. Neither: all nodes are alike.
        edge_types: number of types of edges; or
        edge_features: number of features of edges. Neither: all edges are alike.
        width: channels of a node.
        layers: number of them.
        mlp_width: hidden channels of all MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        norm: inside the MLPs: `batch`, `layer` or `none`.
        dropout: in the MLPs.
        epsilon: initial value of ε: `zero` or `normal`.
        combine: `add` a linear map of the encoding to the nodes, `concat` it and mix, or `distance`: only distances of
            encodings enter, at the edges.
        injection: `input`, or `input+layers` to add an MLP of the encoding before every layer.
        pooling: `mean` or `add` of the nodes of a graph, or `node` for properties of nodes.

    Inputs (batch fields): edge_index and types or features of nodes and edges; smiles where graphs are built; the
        Laplacian modes or whatever the encoding reads
    Returns: target [graphs, targets] and target_raw; node_target [nodes, targets] with pooling `node`

    Raises:
        ConfigError: an argument out of its range.

    Source: Huang et al., ICLR 2024, arXiv:2310.02579; Hu et al., ICLR 2020, arXiv:1905.12265. Published with
        ε ~ N(0, 1).
    """

    family = "gine"

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        *,
        encoding: str | dict[str, Any] | None = None,
        graph: str = "given",
        node_types: int | None = None,
        node_features: int | None = None,
        edge_types: int | None = None,
        edge_features: int | None = None,
        width: int = 128,
        layers: int = 4,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        norm: str = "batch",
        dropout: float = 0.0,
        epsilon: str = "zero",
        combine: str = "add",
        injection: str = "input",
        pooling: str = "mean",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self._begin(arguments)
        self.layers = GINELayers(
            edge_types,
            edge_features,
            width,
            layers,
            mlp_width,
            mlp_layers,
            norm,
            dropout,
            epsilon,
            self.input.encoding_width,
            self.input.of_edges,
            injection,
        )
        self.readout = MLP(width, mlp_width or width, None, mlp_layers, norm, dropout=dropout)
        self.set_head(self.readout.width_out, targets, head="plain")


class GPS(_EncodedNet):
    """Properties from PyG's `GPSConv` layers, message passing beside attention, and a positional encoding.

    Args:
        targets: names, or rows of name, unit, kind and normalizer; see `geomlib.nn.targets.Target`.
        encoding: as of `GINE`; an encoding of edges is added to the edges.
        graph: as of `GINE`.
        node_types: number of types of nodes; or
        node_features: number of features of nodes. Neither: all nodes are alike.
        edge_types: number of types of edges; or
        edge_features: number of features of edges. Neither: all edges are alike.
        width: channels of a node.
        layers: number of them.
        heads: of attention; divides `width`.
        mlp_layers: linear maps of the last MLP.
        norm: `batch` or `layer`.
        dropout: everywhere.
        combine: as of `GINE`.
        pooling: as of `GINE`.

    Inputs (batch fields): as of `GINE`
    Returns: as of `GINE`

    Raises:
        ConfigError: an argument out of its range.

    Source: Rampášek et al., NeurIPS 2022, arXiv:2205.12454.
    """

    family = "gps"

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        *,
        encoding: str | dict[str, Any] | None = None,
        graph: str = "given",
        node_types: int | None = None,
        node_features: int | None = None,
        edge_types: int | None = None,
        edge_features: int | None = None,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        mlp_layers: int = 2,
        norm: str = "batch",
        dropout: float = 0.0,
        combine: str = "add",
        pooling: str = "mean",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self._begin(arguments)
        self.layers = GPSLayers(
            edge_types,
            edge_features,
            width,
            layers,
            heads,
            norm,
            dropout,
            self.input.encoding_width,
            self.input.of_edges,
        )
        self.readout = MLP(width, width, None, mlp_layers, norm, dropout=dropout)
        self.set_head(self.readout.width_out, targets, head="plain")
