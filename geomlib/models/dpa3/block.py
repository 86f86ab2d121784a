"""One update of the node, edge and angle features of DPA3."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from geomlib.models.dpa3.geometry import AngleGraph, Geometry
from geomlib.nn.activation import Activation
from geomlib.nn.reduce import segment_sum

__all__ = ["BlockOptions", "LineGraphBlock"]


@dataclass(frozen=True)
class BlockOptions:
    """Widths and variants of a block; see `DPA3` for what each one means."""

    node_dim: int
    edge_dim: int
    angle_dim: int
    axes: int
    edge_messages: int
    angle_compression: int
    angle_edge_compression: int
    split_compression: bool
    update_angles: bool
    sequential: bool
    update_style: str
    residual_scale: float
    residual_init: str
    smooth_edge_update: bool
    activation: str
    edge_count: float
    angle_count: float

    @property
    def angle_node_dim(self) -> int:
        """Node channels that enter the angle maps."""
        return self.angle_dim // self.angle_compression if self.angle_compression else self.node_dim

    @property
    def angle_edge_dim(self) -> int:
        """Channels of each of the two edges that enter the angle maps."""
        if not self.angle_compression:
            return self.edge_dim
        return self.angle_edge_compression * self.angle_dim // (2 * self.angle_compression)

    @property
    def angle_input_dim(self) -> int:
        """Width of [angle ‖ node ‖ edge ik ‖ edge ij]."""
        return self.angle_dim + self.angle_node_dim + 2 * self.angle_edge_dim


class LineGraphBlock(nn.Module):
    """Messages between atoms, bonds and angles, added to all three.

    Maps of concatenated inputs are split by input, so that what belongs to atoms and bonds is multiplied before it
    is gathered: nothing of the size angles × (node + 2·edge) is ever formed.

    Source: DPA3 (arXiv 2506.01686) and deepmd-kit 3.2 (`repflow_layer.py`).
    """

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.options = options
        self.activation = Activation(options.activation)
        n, e, a = options.node_dim, options.edge_dim, options.angle_dim
        self.node_self = nn.Linear(n, n)
        self.node_symmetric = nn.Linear(options.axes * (e + n), n)
        self.node_edge = nn.Linear(2 * n + e, options.edge_messages * n)
        self.edge_self = nn.Linear(2 * n + e, e)
        if options.update_angles:
            self.edge_angle_message = nn.Linear(options.angle_input_dim, e)
            self.edge_angle_update = nn.Linear(e, e)
            self.angle_self = nn.Linear(options.angle_input_dim, a)
            if options.angle_compression and not options.split_compression:
                self.compress_node = nn.Linear(n, options.angle_node_dim, bias=False)
                self.compress_edge = nn.Linear(e, options.angle_edge_dim, bias=False)
        angle_messages = int(options.update_angles)
        self.node_residuals = self._residuals(2 + options.edge_messages, n)
        self.edge_residuals = self._residuals(1 + angle_messages, e)
        self.angle_residuals = self._residuals(angle_messages, a)

    def _residuals(self, count: int, width: int) -> nn.ParameterList:
        options = self.options
        if options.update_style != "residual":
            return nn.ParameterList()
        constant = options.residual_init == "constant"
        vectors = [torch.full((width,), options.residual_scale) for _ in range(count)]
        if not constant:
            vectors = [torch.empty(width).normal_(0.0, options.residual_scale) for _ in range(count)]
        return nn.ParameterList([nn.Parameter(vector) for vector in vectors])

    def forward(
        self,
        node: Float[Tensor, "nodes node"],
        edge: Float[Tensor, "edges edge"],
        angle: Float[Tensor, "angles angle"] | None,
        geometry: Geometry,
        *,
        last: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Updated node, edge and angle features.

        Args:
            node: atom features.
            edge: bond features.
            angle: angle features; None for a net without angles.
            geometry: of the batch.
            last: the angles are not needed afterwards, so they are not updated.
        """
        if self.options.sequential and angle is not None and geometry.angles is not None:
            return self._sequential(node, edge, angle, geometry, geometry.angles, last=last)
        edge_to_node, edge_self = self._edge_maps([self.node_edge, self.edge_self], node, edge, geometry)
        edge_updates = [edge_self]
        new_angle = angle
        if angle is not None and geometry.angles is not None:
            maps = [self.edge_angle_message] if last else [self.edge_angle_message, self.angle_self]
            message, *update = self._angle_maps(maps, node, edge, angle, geometry.angles)
            edge_updates.append(self._angle_to_edge(message, edge, geometry.angles))
            if update:
                new_angle = self._combine(angle, update, self.angle_residuals)
        new_node = self._update_nodes(node, edge, edge_to_node, geometry)
        return new_node, self._combine(edge, edge_updates, self.edge_residuals), new_angle

    def _sequential(
        self, node: Tensor, edge: Tensor, angle: Tensor, geometry: Geometry, angles: AngleGraph, *, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Edges, angles, edges again, then nodes; each with what was updated before it."""
        (edge_self,) = self._edge_maps([self.edge_self], node, edge, geometry)
        edge = self._combine(edge, [edge_self], self.edge_residuals[:1])
        (update,) = self._angle_maps([self.angle_self], node, edge, angle, angles)
        angle = self._combine(angle, [update], self.angle_residuals)
        (message,) = self._angle_maps([self.edge_angle_message], node, edge, angle, angles)
        edge = self._combine(edge, [self._angle_to_edge(message, edge, angles)], self.edge_residuals[1:])
        (edge_to_node,) = self._edge_maps([self.node_edge], node, edge, geometry)
        return self._update_nodes(node, edge, edge_to_node, geometry), edge, angle

    def _edge_maps(
        self, maps: Sequence[nn.Linear], node: Tensor, edge: Tensor, geometry: Geometry
    ) -> tuple[Tensor, ...]:
        """σ of linear maps of [centre ‖ neighbour ‖ edge], all in one pass."""
        n = self.options.node_dim
        weight = torch.cat([layer.weight for layer in maps])
        bias = torch.cat([layer.bias for layer in maps])
        of_center = functional.linear(node, weight[:, :n], bias)
        of_neighbor = functional.linear(node, weight[:, n : 2 * n])
        total = functional.linear(edge, weight[:, 2 * n :])
        total = total.add_(of_center.index_select(0, geometry.center))
        total = total.add_(of_neighbor.index_select(0, geometry.neighbor))
        return self.activation(total).split([layer.out_features for layer in maps], dim=1)

    def _angle_maps(
        self, maps: Sequence[nn.Linear], node: Tensor, edge: Tensor, angle: Tensor, angles: AngleGraph
    ) -> tuple[Tensor, ...]:
        """σ of linear maps of [angle ‖ centre ‖ edge ik ‖ edge ij], all in one pass."""
        options = self.options
        short = edge.index_select(0, angles.edges)
        if options.angle_compression and not options.split_compression:
            node, short = self.compress_node(node), self.compress_edge(short)
        else:
            node, short = node[:, : options.angle_node_dim], short[:, : options.angle_edge_dim]
        widths = [options.angle_dim, options.angle_node_dim, options.angle_edge_dim, options.angle_edge_dim]
        weight = torch.cat([layer.weight for layer in maps])
        by_angle, by_node, by_source, by_target = weight.split(widths, dim=1)
        of_center = functional.linear(node, by_node, torch.cat([layer.bias for layer in maps]))
        of_target = functional.linear(short, by_target) + of_center.index_select(0, angles.center)
        of_source = functional.linear(short, by_source)
        total = functional.linear(angle, by_angle)
        total = total.add_(of_target.index_select(0, angles.target))
        total = total.add_(of_source.index_select(0, angles.source))
        return self.activation(total).split([layer.out_features for layer in maps], dim=1)

    def _angle_to_edge(self, message: Tensor, edge: Tensor, angles: AngleGraph) -> Tensor:
        """Sum angle messages on their edges, then one more map; edges without angles get what σ(bias) gives."""
        summed = segment_sum(angles.weight * message, angles.target, len(angles.edges))
        summed = summed * self.options.angle_count**-0.5
        if not self.options.smooth_edge_update:
            return self.activation(self.edge_angle_update(edge.index_copy(0, angles.edges, summed)))
        updated = self.activation(self.edge_angle_update(summed))
        elsewhere = self.activation(self.edge_angle_update.bias).expand(len(edge), -1)
        return elsewhere.index_copy(0, angles.edges, updated)

    def _update_nodes(self, node: Tensor, edge: Tensor, edge_to_node: Tensor, geometry: Geometry) -> Tensor:
        options = self.options
        itself = self.activation(self.node_self(node))
        symmetric = torch.cat(
            [
                self._symmetrize(edge, geometry),
                self._symmetrize(node.index_select(0, geometry.neighbor), geometry),
            ],
            dim=1,
        )
        environment = self.activation(self.node_symmetric(symmetric))
        summed = segment_sum(geometry.weight * edge_to_node, geometry.center, geometry.nodes) / options.edge_count
        messages = [itself, environment, *summed.split(options.node_dim, dim=1)]
        return self._combine(node, messages, self.node_residuals)

    def _symmetrize(self, features: Float[Tensor, "edges dim"], geometry: Geometry) -> Float[Tensor, "nodes axesdim"]:
        """Invariants of the environment: H = Σ_j w h ⊗ g / √n, then the first axes of Hᵀ against all of H, / 3."""
        products = geometry.direction.unsqueeze(2) * features.unsqueeze(1)
        moments = segment_sum(products, geometry.center, geometry.nodes) * self.options.edge_count**-0.5
        invariants = torch.bmm(moments[:, :, : self.options.axes].mT, moments) / 3.0
        return invariants.flatten(1)

    def _combine(self, value: Tensor, messages: Sequence[Tensor], residuals: Iterable[Tensor]) -> Tensor:
        style = self.options.update_style
        if style == "residual":
            for message, residual in zip(messages, residuals, strict=True):
                value = torch.addcmul(value, residual, message)
            return value
        total = torch.stack(list(messages)).sum(0) if len(messages) > 1 else messages[0]
        if style == "average":
            return (value + total) / math.sqrt(len(messages) + 1)
        return value + total / math.sqrt(len(messages))
