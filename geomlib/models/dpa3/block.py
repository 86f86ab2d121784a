"""One update of the node, edge and angle features of DPA3."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from geomlib.models.dpa3.execution import Execution
from geomlib.models.dpa3.geometry import AngleGraph, Geometry
from geomlib.models.dpa3.parts import Part
from geomlib.nn.activation import Activation
from geomlib.nn.message import Keep, MessageGraph, message_step
from geomlib.nn.moments import outer_sum
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
        execution: Execution,
        *,
        angle_embedding: Float[Tensor, "angle 1"] | None = None,
        remaining: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Updated node, edge and angle features.

        Args:
            node: atom features.
            edge: bond features.
            angle: angle features; None in the first block and for a net without angles.
            geometry: of the batch.
            execution: what to keep for derivatives, and what to compute again.
            angle_embedding: weights that make the angle features of cosines, in the first block.
            remaining: number of blocks that follow. The last one needs to update atoms only, the one before it no
                angles, unless the order is sequential.
        """
        updates_edges = remaining > 0 or self.options.sequential
        angles = geometry.angles if updates_edges else None
        updates_angles = angles is not None and (remaining > 1 or self.options.sequential)
        inputs = self._edge_inputs(node, edge, geometry, update=updates_edges)
        if angles is not None:
            inputs |= self._angle_inputs(node, angle, angles, angle_embedding, update=updates_angles)
        levels = ["node", "node"] + ["edge"] * updates_edges + ["angle"] * updates_angles
        new_edge, new_angle = edge, angle
        summed, moments, *others = execution.run(
            lambda part, *values: self._messages(part, dict(zip(inputs, values, strict=True)), keep=execution.keep),
            inputs=list(inputs.values()),
            outputs=levels,
        )
        if others:
            new_edge, new_angle = others[0], others[1] if len(others) > 1 else None
        return self._update_nodes(node, summed, moments), new_edge, new_angle

    def _edge_inputs(
        self, node: Tensor, edge: Tensor, geometry: Geometry, *, update: bool
    ) -> dict[str, tuple[str, Tensor]]:
        """What messages are made of, by name: level and value. Maps of atoms are applied here, once to each."""
        n = self.options.node_dim
        maps = [self.node_edge, self.edge_self] if update else [self.node_edge]
        weight = torch.cat([layer.weight for layer in maps])
        bias = torch.cat([layer.bias for layer in maps])
        inputs = {
            "edge": ("edge", edge),
            "weight": ("edge", geometry.weight),
            "direction": ("edge", geometry.direction),
            "node": ("neighbor", node),
            "of_center": ("node", functional.linear(node, weight[:, :n], bias)),
            "of_neighbor": ("neighbor", functional.linear(node, weight[:, n : 2 * n])),
            "by_edge": ("all", weight[:, 2 * n :]),
        }
        if update:
            inputs |= {f"edge_residual_{k}": ("all", vector) for k, vector in enumerate(self.edge_residuals)}
        return inputs

    def _angle_inputs(
        self, node: Tensor, angle: Tensor | None, angles: AngleGraph, embedding: Tensor | None, *, update: bool
    ) -> dict[str, tuple[str, Tensor]]:
        """The same of what messages of angles are made of."""
        options = self.options
        maps = [self.edge_angle_message, self.angle_self] if update else [self.edge_angle_message]
        widths = [options.angle_dim, options.angle_node_dim, options.angle_edge_dim, options.angle_edge_dim]
        weight = torch.cat([layer.weight for layer in maps])
        bias = torch.cat([layer.bias for layer in maps])
        by_angle, by_node, by_source, by_target = weight.split(widths, dim=1)
        inputs = {
            "switch": ("short", angles.switch),
            "by_angle": ("all", by_angle),
            "by_source": ("all", by_source),
            "by_target": ("all", by_target),
            "update_weight": ("all", self.edge_angle_update.weight),
            "update_bias": ("all", self.edge_angle_update.bias),
        }
        if options.angle_compression and not options.split_compression:
            node = self.compress_node(node)
            inputs["compress_edge"] = ("all", self.compress_edge.weight)
        inputs["angle_of_center"] = ("node", functional.linear(node[:, : options.angle_node_dim], by_node, bias))
        if update:
            inputs |= {f"angle_residual_{k}": ("all", vector) for k, vector in enumerate(self.angle_residuals)}
        if angle is not None:
            inputs["angle"] = ("angle", angle)
        elif embedding is not None:
            inputs["short_direction"] = ("short", angles.direction)
            inputs["angle_embedding"] = ("all", embedding)
        return inputs

    def _messages(self, part: Part, values: Mapping[str, Tensor], *, keep: Keep) -> tuple[Tensor, ...]:
        """What the atoms of a part are sent, and their updated bonds and angles.

        Returns: weighted sum of bond messages, moments of the environment and, if anything follows, bonds and angles.
        """
        if self.options.sequential and "switch" in values:
            return self._sequential(part, values, keep=keep)
        edge = values["edge"]
        moments = self._moments(part, values, edge, keep=keep)
        if len(values["by_edge"]) == self.node_edge.out_features:  # nothing follows that needs the edges
            return *self._edge_step(part, values, edge, to_node=True, keep=keep), moments
        summed, new_edge = self._edge_step(part, values, edge, to_node=True, to_edge=True, keep=keep)
        from_angles: list[Tensor] = []
        angle: list[Tensor] = []
        if "switch" in values:
            to_angle = len(values["by_angle"]) > self.edge_angle_message.out_features
            of_angles, *angle = self._angle_step(part, values, edge, to_edge=True, to_angle=to_angle, keep=keep)
            from_angles.append(self._angle_to_edge(part, values, of_angles, edge))
        if self.options.update_style != "residual":
            new_edge = self._combine(edge, [new_edge, *from_angles])
        elif from_angles:
            new_edge = torch.addcmul(new_edge, values["edge_residual_1"], from_angles[0])
        return summed, moments, new_edge, *angle

    def _sequential(self, part: Part, values: Mapping[str, Tensor], *, keep: Keep) -> tuple[Tensor, ...]:
        """Edges, angles, edges again, then nodes; each with what was updated before it."""
        (edge,) = self._edge_step(part, values, values["edge"], to_edge=True, keep=keep)
        (angle,) = self._angle_step(part, values, edge, to_angle=True, keep=keep)
        (of_angles,) = self._angle_step(part, {**values, "angle": angle}, edge, to_edge=True, keep=keep)
        edge = torch.addcmul(edge, values["edge_residual_1"], self._angle_to_edge(part, values, of_angles, edge))
        (summed,) = self._edge_step(part, values, edge, to_node=True, keep=keep)
        return summed, self._moments(part, values, edge, keep=keep), edge, angle

    def _edge_step(
        self,
        part: Part,
        values: Mapping[str, Tensor],
        edge: Tensor,
        *,
        keep: Keep,
        to_node: bool = False,
        to_edge: bool = False,
    ) -> tuple[Tensor, ...]:
        """σ of linear maps of [centre ‖ neighbour ‖ edge]: summed messages to atoms, updated bonds, or both."""
        width = self.node_edge.out_features
        columns = slice(0 if to_node else width, None if to_edge else width)
        return message_step(
            edge,
            values["by_edge"][columns],
            values["of_center"][:, columns],
            values["of_neighbor"][:, columns],
            values["weight"] if to_node else None,
            values.get("edge_residual_0") if to_edge else None,
            None,
            MessageGraph(part.center, part.neighbor),
            self.activation,
            width if to_node else 0,
            keep=keep,
        )

    def _angle_step(
        self,
        part: Part,
        values: Mapping[str, Tensor],
        edge: Tensor,
        *,
        keep: Keep,
        to_edge: bool = False,
        to_angle: bool = False,
    ) -> tuple[Tensor, ...]:
        """σ of linear maps of [angle ‖ centre ‖ edge ik ‖ edge ij]: summed messages to bonds, updated angles, or both.

        What belongs to atoms and bonds is multiplied before it is spread over their angles.
        """
        width = self.edge_angle_message.out_features
        columns = slice(0 if to_edge else width, None if to_angle else width)
        short = edge.index_select(0, part.short_edges)
        if "compress_edge" in values:
            short = functional.linear(short, values["compress_edge"])
        short = short[:, : self.options.angle_edge_dim]
        of_target = functional.linear(short, values["by_target"][columns])
        of_center = values["angle_of_center"][:, columns].index_select(0, part.short_center)
        angle, embedding = values.get("angle"), None
        by_angle = values["by_angle"][columns]
        if angle is None:  # in the first block the features are a linear map of the cosines
            angle, embedding = self._cosines(part, values["short_direction"]), values["angle_embedding"]
            by_angle = by_angle @ embedding
        results = message_step(
            angle,
            by_angle,
            of_target + of_center,
            functional.linear(short, values["by_source"][columns]),
            values["switch"] if to_edge else None,
            values.get("angle_residual_0") if to_angle else None,
            embedding,
            MessageGraph(part.target, part.source, weight_of_source=True),
            self.activation,
            width if to_edge else 0,
            keep=keep,
        )
        if to_angle and self.options.update_style != "residual":
            carried = angle if embedding is None else angle @ embedding.mT
            results = (*results[:-1], self._combine(carried, [results[-1]]))
        if to_edge:
            results = (results[0] * (values["switch"] * self.options.angle_count**-0.5), *results[1:])
        return results

    @staticmethod
    def _cosines(part: Part, direction: Tensor) -> Float[Tensor, "angles 1"]:
        """Regularised cosines over √π."""
        cosine = direction.index_select(0, part.source) * direction.index_select(0, part.target)
        return cosine.sum(1, keepdim=True) * ((1.0 - 1e-6) * math.pi**-0.5)

    def _angle_to_edge(self, part: Part, values: Mapping[str, Tensor], summed: Tensor, edge: Tensor) -> Tensor:
        """One more map of the angle messages; edges without angles get what σ(bias) gives."""
        weight, bias = values["update_weight"], values["update_bias"]
        if not self.options.smooth_edge_update:
            return self.activation(functional.linear(edge.index_copy(0, part.short_edges, summed), weight, bias))
        updated = self.activation(functional.linear(summed, weight, bias))
        return self.activation(bias).expand(edge.shape[0], -1).index_copy(0, part.short_edges, updated)

    def _moments(self, part: Part, values: Mapping[str, Tensor], edge: Tensor, *, keep: Keep) -> Tensor:
        """Moments of the environment, Σ_j w h ⊗ [e_ij ‖ n_j], not yet normalised."""
        direction, node = values["direction"], values["node"]
        if keep != "everything":
            parts = [
                outer_sum(direction, edge, part.neighborhoods, of_neighbors=False),
                outer_sum(direction, node, part.neighborhoods, of_neighbors=True),
            ]
        else:
            features = (edge, node.index_select(0, part.neighbor))
            parts = [
                segment_sum(direction.unsqueeze(2) * feature.unsqueeze(1), part.center, part.nodes)
                for feature in features
            ]
        return torch.cat(parts, dim=2)

    def _update_nodes(self, node: Tensor, summed: Tensor, moments: Tensor) -> Tensor:
        """Atoms with what they were sent; invariants are the first axes of Hᵀ against all of H, / 3."""
        options = self.options
        invariants = [
            (moment[:, :, : options.axes].mT @ moment / (3.0 * options.edge_count)).flatten(1)
            for moment in moments.split([options.edge_dim, options.node_dim], dim=2)
        ]
        messages = [
            self.activation(self.node_self(node)),
            self.activation(self.node_symmetric(torch.cat(invariants, dim=1))),
            *(summed / options.edge_count).split(options.node_dim, dim=1),
        ]
        if options.update_style != "residual":
            return self._combine(node, messages)
        for message, residual in zip(messages, self.node_residuals, strict=True):
            node = torch.addcmul(node, residual, message)
        return node

    def _combine(self, value: Tensor, messages: Sequence[Tensor]) -> Tensor:
        """The styles without trainable vectors."""
        total = torch.stack(list(messages)).sum(0) if len(messages) > 1 else messages[0]
        if self.options.update_style == "average":
            return (value + total) / math.sqrt(len(messages) + 1)
        return value + total / math.sqrt(len(messages))
