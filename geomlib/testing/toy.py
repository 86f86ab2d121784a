"""The smallest whole net: a pair and an angle term with a dozen parameters."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.data.elements import atomic_numbers
from geomlib.data.graph import GraphData
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.models.base import Net
from geomlib.nn.cutoff import quintic_switch
from geomlib.nn.elements import ElementIndex
from geomlib.nn.reduce import segment_sum

__all__ = ["ToyPotential"]


class ToyPotential(Net):
    """A smooth three-body potential that costs next to nothing: an example of a `Net`, and a stand-in in tests.

    E_i = b_i + ½ Σ_j s(r_ij) D_i D_j [(1 − e^{−α(r_ij − R_i − R_j)})² − 1] + λ Σ_{jk} t(r_ij) t(r_ik) (cos θ_jik + ⅓)²,
    with b, D and R of each element and the quintic switches s and t: a Morse potential with a Stillinger–Weber angle
    term. Energies are exactly zero, with continuous second derivatives, at both cutoffs.

    Args:
        elements: chemical symbols that the net knows.
        cutoff: radius of the pair term [Å].
        angle_cutoff: radius of the angle term [Å].
        precision: `float32` or `float64`, of the terms; energies are summed in float64.
    Inputs (batch fields): pos [nodes 3, Å], atomic_number [nodes], edge_index, edge_shift, line_index
    Returns: energy [graphs, eV], atom_energy [nodes, eV]

    Raises:
        UnknownElement: an atomic number the net was not built for.
    """

    family = "toy"
    float64_buffers = ("energy_bias",)
    inputs: tuple[str, ...] = ("pos", "atomic_number", "edge_index", "edge_shift", "line_index")
    outputs: tuple[str, ...] = ("energy", "atom_energy")

    energy_bias: Tensor

    def __init__(
        self, elements: list[str], cutoff: float = 4.5, angle_cutoff: float = 3.5, precision: str = "float64"
    ) -> None:
        super().__init__()
        self.config = {
            "elements": list(elements),
            "cutoff": cutoff,
            "angle_cutoff": angle_cutoff,
            "precision": precision,
        }
        self.elements = list(elements)
        self.types = ElementIndex(elements)
        self.spec = GraphSpec((RadiusEdges(cutoff), LineGraph(angle_cutoff)))
        numbers = torch.tensor(atomic_numbers(elements))
        # larger atoms for higher numbers, so that elements differ
        self.register_buffer("energy_bias", -0.1 * numbers.to(torch.float64))
        self.depth = nn.Parameter(0.5 + 0.005 * numbers)
        self.radius = nn.Parameter(0.5 + 0.06 * numbers**0.75)
        self.stiffness = nn.Parameter(torch.tensor(1.4))
        self.angle_strength = nn.Parameter(torch.tensor(0.02))
        self.to(getattr(torch, precision))

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Energies of a graph or a batch; see the class."""
        self.spec.check(batch)
        types = self.types(batch.atomic_number)
        vector = batch.edge_vectors().to(self.depth.dtype)
        length = vector.norm(dim=1)
        neighbor, center = batch.edge_index.unbind(0)
        pair = self._pair_energy(types[neighbor], types[center], length)
        angle = self._angle_energy(vector, length, batch.line_index)
        edge_energy = (0.5 * pair + angle).double()
        atom_energy = self.energy_bias[types] + segment_sum(edge_energy, center, batch.num_nodes)
        return {"energy": segment_sum(atom_energy, batch.node_graph, batch.num_graphs), "atom_energy": atom_energy}

    def traced_inputs(self, batch: GraphData) -> dict[str, Tensor]:
        """As `Net.traced_inputs`; elements are checked here, for traced code can't."""
        self.types(batch.atomic_number)
        return super().traced_inputs(batch)

    def _pair_energy(
        self, neighbor: Int[Tensor, " edges"], center: Int[Tensor, " edges"], length: Float[Tensor, " edges"]
    ) -> Float[Tensor, " edges"]:
        cutoff = self.config["cutoff"]
        bond = self.radius[neighbor] + self.radius[center]
        morse = (1.0 - torch.exp(-self.stiffness * (length - bond))).square() - 1.0
        return quintic_switch(length, 0.6 * cutoff, cutoff) * self.depth[neighbor] * self.depth[center] * morse

    def _angle_energy(
        self, vector: Float[Tensor, "edges 3"], length: Float[Tensor, " edges"], lines: Int[Tensor, "2 lines"]
    ) -> Float[Tensor, " edges"]:
        """Angle energy, on the second edge of each pair; an edge with itself makes no angle."""
        other, edge = lines.unbind(0)
        cutoff = self.config["angle_cutoff"]
        weight = quintic_switch(length, 0.6 * cutoff, cutoff)
        unit = vector / length.unsqueeze(1)
        cosine = (unit[other] * unit[edge]).sum(1)
        energy = self.angle_strength * weight[other] * weight[edge] * (cosine + 1 / 3).square() * (other != edge)
        return segment_sum(energy, edge, length.shape[0])
