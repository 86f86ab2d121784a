"""What the nets that use positional encodings are made of: inputs, layers, pooling."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.models.spe.encoding import PositionalEncoding, edge_distances
from geomlib.models.spe.mlp import MLP, modules
from geomlib.nn.reduce import segment_sum

__all__ = ["GINELayers", "GPSLayers", "NodeInput", "pooled"]


def embedding(types: int | None, features: int | None, width: int, what: str) -> nn.Module | None:
    """A table of types, a linear map of features, or None if there are neither.

    Raises:
        ConfigError: both are given.
    """
    if types is not None and features is not None:
        raise ConfigError(f"{what}_types and {what}_features are both given: a {what} has either")
    if types is not None:
        return nn.Embedding(types, width)
    return None if features is None else nn.Linear(features, width)


class NodeInput(nn.Module):
    """Nodes as they enter the first layer: their type or features, and their encoding.

    Args:
        node_types: number of types; or
        node_features: number of features. Neither: all nodes are alike.
        width: channels of a node.
        encoding: of positions.
        combine: `add` a linear map of the encoding, `concat` one and mix, or `distance`: nodes stay as they are, and
            edges have the distance of the encodings of their two ends.
    """

    def __init__(
        self,
        node_types: int | None,
        node_features: int | None,
        width: int,
        encoding: PositionalEncoding,
        combine: str = "add",
    ) -> None:
        super().__init__()
        if combine not in ("add", "concat", "distance"):
            raise ConfigError(f"encodings are combined by '{combine}'; expected 'add', 'concat' or 'distance'")
        self.embedding = embedding(node_types, node_features, width, "node") or nn.Embedding(1, width)
        self.of_edges = encoding.per_edge or combine == "distance"
        self.distance = combine == "distance" and not encoding.per_edge
        self.encoding_width = (1 if self.distance else encoding.width) if encoding.width else 0
        self.linear: nn.Linear | None = None
        self.mix: nn.Linear | None = None
        if encoding.width and not self.of_edges:
            self.linear = nn.Linear(encoding.width, width)
            self.mix = nn.Linear(2 * width, width) if combine == "concat" else None

    def forward(
        self,
        nodes: Tensor,
        encoded: Float[Tensor, "rows encoding"],
        edge_index: Int[Tensor, "2 edges"],
    ) -> tuple[Float[Tensor, "nodes width"], Tensor | None]:
        """Rows of nodes, and what layers may inject: the encoding, of nodes or edges; None where there is none."""
        x = self.embedding(nodes)
        if not self.encoding_width:
            return x, None
        if self.distance:
            encoded = edge_distances(encoded, edge_index)
        encoded = encoded.to(x.dtype)
        if self.linear is not None:
            linear = self.linear(encoded)
            x = x + linear if self.mix is None else self.mix(torch.cat([x, linear], 1))
        return x, encoded


class GINELayer(nn.Module):
    """MLP((1 + ε) x_i + Σ_j relu(x_j + e_ij)), plus the input.

    Args:
        edge: table or linear map of edges; None if they are alike.
        width: channels of a node.
        mlp_width: hidden channels of the MLPs.
        injected: channels of an encoding that enters every layer; 0 if none.
        of_edges: whether it is one of edges.
        epsilon: initial value of ε: `zero` or `normal`.
        mlp: other arguments of `MLP`.
    """

    def __init__(
        self,
        edge: nn.Module | None,
        width: int,
        mlp_width: int,
        injected: int,
        of_edges: bool,
        epsilon: str,
        mlp: dict,
    ) -> None:
        super().__init__()
        self.edge_embedding, self.of_edges = edge, of_edges
        self.eps = nn.Parameter(torch.zeros(1) if epsilon == "zero" else torch.randn(1))
        self.mlp = MLP(width, mlp_width, width, **mlp)
        self.injection = MLP(injected, mlp_width, width, **mlp) if injected else None

    def forward(self, x: Tensor, edge_index: Tensor, edges: Tensor | None, encoded: Tensor | None) -> Tensor:
        """One layer, without what is added to its outcome."""
        e = None if self.edge_embedding is None or edges is None else self.edge_embedding(edges)
        if self.injection is not None and encoded is not None:
            injected = self.injection(encoded)
            if self.of_edges:
                e = injected if e is None else e * injected
            else:
                x = x + injected
        message = x.index_select(0, edge_index[0])
        message = torch.relu(message if e is None else message + e)
        return self.mlp((1.0 + self.eps) * x + segment_sum(message, edge_index[1], len(x)))


class GINELayers(nn.Module):
    """Graph isomorphism layers with edges.

    Args:
        edge_types: number of types of edges; or
        edge_features: number of features of edges. Neither: all edges are alike.
        width: channels of a node.
        layers: number of them.
        mlp_width: hidden channels of the MLPs; `width` if not given.
        mlp_layers: linear maps of each.
        norm: inside the MLPs.
        dropout: in the MLPs.
        epsilon: initial value of ε: `zero` or `normal`.
        encoding_width: channels of the encoding.
        of_edges: whether it is one of edges, which every layer needs.
        injection: `input`, or `input+layers` to add an MLP of the encoding of nodes before every layer.
    """

    def __init__(
        self,
        edge_types: int | None,
        edge_features: int | None,
        width: int = 128,
        layers: int = 4,
        mlp_width: int | None = None,
        mlp_layers: int = 3,
        norm: str = "batch",
        dropout: float = 0.0,
        epsilon: str = "zero",
        encoding_width: int = 0,
        of_edges: bool = False,
        injection: str = "input",
    ) -> None:
        super().__init__()
        if injection not in ("input", "input+layers"):
            raise ConfigError(f"encodings are injected at '{injection}'; expected 'input' or 'input+layers'")
        injected = encoding_width if of_edges or injection == "input+layers" else 0
        mlp = {"layers": mlp_layers, "norm": norm, "dropout": dropout}
        self.layers = modules(
            GINELayer(
                embedding(edge_types, edge_features, width, "edge"),
                width,
                mlp_width or width,
                injected,
                of_edges,
                epsilon,
                mlp,
            )
            for _ in range(layers)
        )

    def forward(
        self,
        x: Float[Tensor, "nodes width"],
        edge_index: Int[Tensor, "2 edges"],
        batch: Int[Tensor, " nodes"],
        edges: Tensor | None,
        encoded: Tensor | None,
    ) -> Float[Tensor, "nodes width"]:
        """All layers; `edges` are types or features, `encoded` is the encoding."""
        for layer in self.layers:
            x = x + layer(x, edge_index, edges, encoded)
        return x


class GPSLayers(nn.Module):
    """Layers of PyG's `GPSConv`: message passing (GINE) beside attention between all nodes of a graph.

    Args:
        edge_types: number of types of edges; or
        edge_features: number of features of edges. Neither: all edges are alike.
        width: channels of a node.
        layers: number of them.
        heads: of attention; divides `width`.
        norm: `batch` or `layer`.
        dropout: everywhere.
        encoding_width: channels of an encoding of edges, which is added to the edges.
        of_edges: whether the encoding is one of edges.

    Source: Rampášek et al., NeurIPS 2022, arXiv:2205.12454.
    """

    def __init__(
        self,
        edge_types: int | None,
        edge_features: int | None,
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        norm: str = "batch",
        dropout: float = 0.0,
        encoding_width: int = 0,
        of_edges: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"nodes have {width} channels, which {heads} heads don't divide")
        from torch_geometric.nn import GINEConv, GPSConv  # takes a second

        self.edge_embedding = embedding(edge_types, edge_features, width, "edge")
        self.injection = nn.Linear(encoding_width, width) if of_edges and encoding_width else None
        self.layers = modules(())
        for _ in range(layers):
            own = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            name = {"batch": "batch_norm", "layer": "layer_norm"}.get(norm)
            self.layers.append(GPSConv(width, GINEConv(own), heads=heads, dropout=dropout, norm=name))

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, edges: Tensor | None, encoded: Tensor | None
    ) -> Tensor:
        """See `GINELayers`."""
        if self.edge_embedding is not None and edges is not None:
            e = self.edge_embedding(edges)
        else:
            e = x.new_zeros(edge_index.shape[1], x.shape[1])
        if self.injection is not None and encoded is not None:
            e = e + self.injection(encoded)
        for layer in self.layers:
            x = layer(x, edge_index, batch, edge_attr=e)
        return x


def pooled(
    rows: Float[Tensor, "nodes width"], batch: Int[Tensor, " nodes"], graphs: int, pooling: str
) -> Float[Tensor, "graphs width"]:
    """`mean` or `add` of the nodes of each graph; 0 of a graph without nodes.

    Raises:
        ConfigError: another word.
    """
    if pooling not in ("mean", "add"):
        raise ConfigError(f"pooling is '{pooling}'; expected 'mean' or 'add'")
    sums = segment_sum(rows, batch, graphs)
    if pooling == "add":
        return sums
    return sums / torch.bincount(batch, minlength=graphs).clamp(min=1)[:, None].to(rows.dtype)
