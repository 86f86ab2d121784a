"""DPA3: a graph neural network on the line graph series of atoms, bonds and angles."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError, nearest
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.models.base import Net
from geomlib.models.dpa3.block import BlockOptions, LineGraphBlock
from geomlib.models.dpa3.config import check_config, plain
from geomlib.models.dpa3.embedding import IndexEmbedding, TypeEmbedding
from geomlib.models.dpa3.execution import Execution
from geomlib.models.dpa3.fitting import EnergyFitting
from geomlib.models.dpa3.geometry import GeometryOptions, build_geometry, traced_structure
from geomlib.models.dpa3.initialization import initialize
from geomlib.models.dpa3.presets import PRESETS
from geomlib.models.dpa3.statistics import element_energies, environment_stddev, parameter_statistics
from geomlib.nn.activation import Activation
from geomlib.nn.elements import ElementIndex
from geomlib.nn.reduce import segment_sum
from geomlib.nn.tracing import tracing

__all__ = ["DPA3"]

_CHARGES, _SPINS = 200, 100  # rows of the tables; charge −100 is row 0


class DPA3(Net):
    """Energy of atoms from the line graph series (atoms, bonds, angles).

    Every layer passes messages on atoms, bonds and angles at once; the energy is a sum of atomic energies that a
    fitting net gives from the last atom features. All inputs are distances, cosines and contracted vectors, so the
    energy is invariant; forces are its derivative (see `geomlib.nn.derivative`). The defaults are the published
    water example with dynamic selection; `from_preset` gives the published sizes.

    Args:
        elements: chemical symbols that the net knows, in the order of its type index.
        cutoff: neighbours closer than this [Å] are bonds.
        cutoff_smooth: where the switch of bonds begins [Å].
        max_neighbors: at most this many nearest bonds per atom.
        angle_cutoff: bonds shorter than this [Å] form angles.
        angle_cutoff_smooth: where the switch of angles begins [Å].
        max_angle_neighbors: at most this many nearest bonds per atom form angles.
        selection: `dynamic` divides sums by `max_neighbors / selection_reduction`, `fixed` by `max_neighbors`.
        selection_reduction: see `selection`.
        layers: number of blocks.
        node_dim: channels of atoms.
        edge_dim: channels of bonds.
        angle_dim: channels of angles.
        symmetrization_axes: channels contracted with all others in the environment invariants.
        edge_messages: number of bond → atom messages.
        angle_compression: 0 feeds angles all atom and bond channels; c > 0 feeds angle_dim/c atom channels.
        angle_edge_compression: ce in ce·angle_dim/(2c) bond channels.
        split_compression: take the first channels (true) or a linear map of all (false).
        update_angles: whether there are angles at all.
        update_order: `parallel` or `sequential` (edges, angles, edges, atoms).
        update_style: `residual` (trainable vectors), `average` or `increment`.
        residual_scale: initial size of the residual vectors.
        residual_init: `constant` or `normal`.
        smooth_edge_update: bonds without angles get a constant (true) or their own feature (false) as angle message.
        edge_init: bond features start from the `distance`, or from the normalised `inverse_distance`.
        switch: `exponential` or `quintic`.
        environment_scale: divides environment rows; 0 takes the standard deviations of the training data.
        environment_protection: added to distances in environment rows [Å].
        activation: of the descriptor; see `geomlib.nn.activation`.
        type_embedding: `table`, or a map of the `electron_configuration`.
        type_embedding_bias: whether it has a bias.
        concat_type_embedding: append the type embedding to the descriptor.
        charge_spin_embedding: add an embedding of total charge and spin to the atoms.
        default_charge_spin: (charge, spin) where a graph has none.
        excluded_pairs: pairs of symbols that do not interact.
        excluded_elements: symbols whose atoms have no energy.
        fitting_layers: hidden widths of the fitting net.
        fitting_activation: its activation.
        fitting_timestep: whether its shortcut layers have a trainable time-step.
        frame_parameters: number of parameters per frame (field `frame_parameters`).
        atom_parameters: number of parameters per atom (field `atom_parameters`).
        dataset_encoding: width of the data set's one-hot code in the fitting input.
        dataset_biases: whether that code also adds to the biases of the further hidden layers of the fitting net, so
            that data sets that share its weights have biases of their own.
        precision: `float32` or `float64`, of the descriptor.
        fitting_precision: of the fitting net; None is the same. Energies are summed in float64 always.
        initialization: fresh weights, `geomlib` or `published` (deepmd-kit's); see `initialization.py`.
        recompute: what to compute again for derivatives instead of keeping it; changes no result. `none` keeps
            pre-activations and is fastest; `angles` keeps only what enters messages, `layers` only what enters blocks,
            a group of atoms at a time. In evaluation a leaner way is taken by itself where memory would not do.
    Inputs (batch fields): pos [nodes 3, Å], atomic_number [nodes], cell [graphs 3 3, Å], edge_index, edge_shift,
        line_index
    Returns: energy [graphs, eV], atom_energy [nodes, eV], both float64
    Raises:
        ConfigError: an argument out of its range.
        UnknownElement: an atomic number the net was not built for.
    Source: Zhang et al., "A Graph Neural Network for the Era of Large Atomistic Models", arXiv:2506.01686;
        deepmd-kit 3.2. The line graph is compact; weights are split by input (same numbers, less work).
    """

    family = "dpa3"
    family_version = 1
    float64_buffers = ("energy_bias",)
    inputs: tuple[str, ...] = ("pos", "atomic_number", "edge_index", "edge_shift")
    outputs: tuple[str, ...] = ("energy", "atom_energy")

    energy_bias: Tensor
    environment_mean: Tensor
    environment_stddev: Tensor
    excluded: Tensor | None
    has_energy: Tensor | None

    def __init__(
        self,
        elements: list[str],
        *,
        cutoff: float = 6.0,
        cutoff_smooth: float = 5.3,
        max_neighbors: int = 1200,
        angle_cutoff: float = 4.0,
        angle_cutoff_smooth: float = 3.5,
        max_angle_neighbors: int = 300,
        selection: str = "dynamic",
        selection_reduction: float = 10.0,
        layers: int = 6,
        node_dim: int = 128,
        edge_dim: int = 64,
        angle_dim: int = 32,
        symmetrization_axes: int = 4,
        edge_messages: int = 1,
        angle_compression: int = 1,
        angle_edge_compression: int = 2,
        split_compression: bool = True,
        update_angles: bool = True,
        update_order: str = "parallel",
        update_style: str = "residual",
        residual_scale: float = 0.1,
        residual_init: str = "constant",
        smooth_edge_update: bool = True,
        edge_init: str = "distance",
        switch: str = "exponential",
        environment_scale: float = 0.3,
        environment_protection: float = 0.0,
        activation: str = "silut:10",
        type_embedding: str = "table",
        type_embedding_bias: bool = False,
        concat_type_embedding: bool = False,
        charge_spin_embedding: bool = False,
        default_charge_spin: list[int] | None = None,
        excluded_pairs: list[list[str]] | None = None,
        excluded_elements: list[str] | None = None,
        fitting_layers: list[int] = [240, 240, 240],  # noqa: B006 - copied into config, never changed
        fitting_activation: str = "silut:10",
        fitting_timestep: bool = True,
        frame_parameters: int = 0,
        atom_parameters: int = 0,
        dataset_encoding: int = 0,
        dataset_biases: bool = False,
        precision: str = "float32",
        fitting_precision: str | None = None,
        initialization: str = "geomlib",
        recompute: str = "none",
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: plain(value) for name, value in arguments.items()}
        check_config(self.config)
        self.recompute = recompute
        self.elements = list(elements)
        self.types = ElementIndex(elements)
        self.spec = _spec(self.config)
        if charge_spin_embedding:
            self.inputs = (*self.inputs, "charge", "spin_multiplicity")
        self.inputs += tuple(name for name in ("frame_parameters", "atom_parameters") if self.config[name])
        reduction = selection_reduction if selection == "dynamic" else 1.0
        options = BlockOptions(
            node_dim=node_dim,
            edge_dim=edge_dim,
            angle_dim=angle_dim,
            axes=symmetrization_axes,
            edge_messages=edge_messages,
            angle_compression=angle_compression,
            angle_edge_compression=angle_edge_compression,
            split_compression=split_compression,
            update_angles=update_angles,
            sequential=update_order == "sequential",
            update_style=update_style,
            residual_scale=residual_scale,
            residual_init=residual_init,
            smooth_edge_update=smooth_edge_update,
            activation=activation,
            edge_count=max_neighbors / reduction,
            angle_count=max_angle_neighbors / reduction,
        )
        self._geometry_options = GeometryOptions(
            cutoff, cutoff_smooth, angle_cutoff, angle_cutoff_smooth, switch, environment_protection
        )
        self._build_layers(options)
        self._build_buffers()
        initialize(self, initialization)
        self.to(getattr(torch, precision))
        self.fitting.to(getattr(torch, fitting_precision or precision))

    def _build_layers(self, options: BlockOptions) -> None:
        config = self.config
        n = options.node_dim
        self.activation = Activation(options.activation)
        self.type_embedding = TypeEmbedding(
            self.elements, n, config["type_embedding"], bias=config["type_embedding_bias"]
        )
        if config["charge_spin_embedding"]:
            self.charge_embedding = IndexEmbedding(_CHARGES, n)
            self.spin_embedding = IndexEmbedding(_SPINS, n)
            self.charge_spin_mix = nn.Linear(2 * n, n)
        self.edge_embedding = nn.Linear(1, options.edge_dim)
        self.angle_embedding = nn.Linear(1, options.angle_dim, bias=False)
        self.blocks = nn.ModuleList([LineGraphBlock(options) for _ in range(config["layers"])])
        self.fitting = EnergyFitting(
            n * (1 + config["concat_type_embedding"]),
            config["fitting_layers"],
            config["fitting_activation"],
            timestep=config["fitting_timestep"],
            frame_parameters=config["frame_parameters"],
            atom_parameters=config["atom_parameters"],
            dataset_encoding=config["dataset_encoding"],
            dataset_biases=config["dataset_biases"],
        )

    def _build_buffers(self) -> None:
        config, count = self.config, len(self.elements)
        self.register_buffer("energy_bias", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("environment_mean", torch.zeros(count, 4, dtype=torch.float64))
        scale = torch.full((count, 4), config["environment_scale"] or 1.0, dtype=torch.float64)
        self.register_buffer("environment_stddev", scale)
        excluded = None
        if config["excluded_pairs"]:
            excluded = torch.zeros(count, count, dtype=torch.bool)
            for a, b in config["excluded_pairs"]:
                i, j = self._type_index(a), self._type_index(b)
                excluded[i, j] = excluded[j, i] = True
        self.register_buffer("excluded", excluded, persistent=False)
        has_energy = None
        if config["excluded_elements"]:
            has_energy = torch.ones(count, dtype=torch.float64)
            has_energy[[self._type_index(symbol) for symbol in config["excluded_elements"]]] = 0.0
        self.register_buffer("has_energy", has_energy, persistent=False)

    def _type_index(self, symbol: str) -> int:
        if symbol not in self.elements:
            raise ConfigError(f"'{symbol}' is excluded but not among the elements {self.elements}")
        return self.elements.index(symbol)

    @classmethod
    def from_preset(cls, name: str, elements: Sequence[str] | None = None, **overrides: Any) -> Self:
        """A net of a published size.

        Args:
            name: key of `geomlib.models.dpa3.presets.PRESETS`: L3, L6, L12, L16, L24 (128/64/32), L3-wide, L6-wide,
                L12-wide (256/128/32), DPA-3.1-3M.
            elements: chemical symbols; the preset's own if it has them.
            **overrides: further constructor arguments.

        Raises:
            ConfigError: an unknown preset, or no elements.
        """
        if name not in PRESETS:
            raise ConfigError(f"preset '{name}' is unknown{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
        arguments = {**PRESETS[name], **overrides}
        if elements is not None:
            arguments["elements"] = list(elements)
        if "elements" not in arguments:
            raise ConfigError(f"preset '{name}' is for any elements: pass elements=[…]")
        return cls(**arguments)

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Energies of a graph or a batch; see the class."""
        if tracing():
            types = batch["types"]
        else:
            self.spec.check(batch)
            types = self.types(batch.atomic_number)
        geometry = build_geometry(
            batch, types, self.environment_mean, self.environment_stddev, self.excluded, self._geometry_options
        )
        embedding = self._embed(batch, types)
        node = self.activation(embedding)
        if self.config["edge_init"] == "distance":
            edge = self.edge_embedding(geometry.length)
        else:
            edge = self.activation(self.edge_embedding(geometry.radial))
        widths = (self.config["node_dim"], self.config["edge_dim"], self.config["angle_dim"])
        execution = Execution(geometry, self.recompute, len(self.blocks), widths, training=self.training)
        angle = None
        for position, block in enumerate(self.blocks, start=1):
            embedding_weight = self.angle_embedding.weight if position == 1 else None
            remaining = len(self.blocks) - position
            node, edge, angle = block(
                node, edge, angle, geometry, execution, angle_embedding=embedding_weight, remaining=remaining
            )
        if self.config["concat_type_embedding"]:
            node = torch.cat([node, embedding], dim=1)
        atom_energy = self._atom_energy(batch, node, types)
        return {"energy": segment_sum(atom_energy, batch.node_graph, batch.num_graphs), "atom_energy": atom_energy}

    def traced_inputs(self, batch: GraphData) -> dict[str, Tensor]:
        """Fields, type indices and line graph for a traced `forward`; see `Net`."""
        inputs = super().traced_inputs(batch)
        for name in ("atomic_number", "line_index"):
            inputs.pop(name, None)
        inputs["types"] = self.types(batch.atomic_number)
        if self.config["charge_spin_embedding"]:
            inputs["charge"], inputs["spin_multiplicity"] = self._charge_and_spin(batch)
        return inputs | traced_structure(batch, inputs["types"], self.excluded)

    def _embed(self, batch: GraphData, types: Tensor) -> Float[Tensor, "nodes dim"]:
        embedding = self.type_embedding().index_select(0, types)
        if not self.config["charge_spin_embedding"]:
            return embedding
        charge, spin = self._charge_and_spin(batch)
        both = torch.cat([self.charge_embedding(charge + _CHARGES // 2), self.spin_embedding(spin)], dim=1)
        mixed = self.activation(self.charge_spin_mix(both))
        return embedding + mixed.index_select(0, batch.node_graph)

    def _charge_and_spin(self, batch: GraphData) -> tuple[Tensor, Tensor]:
        default = self.config["default_charge_spin"]
        values = []
        for position, (name, low, high) in enumerate(
            [("charge", -_CHARGES // 2, _CHARGES // 2), ("spin_multiplicity", 0, _SPINS)]
        ):
            if name in batch:
                value = batch[name]
            elif default is not None:
                value = torch.full((batch.num_graphs,), int(default[position]), device=batch.pos.device)
            else:
                raise DataError(f"the net embeds charge and spin, but the graph has no '{name}' and the net no default")
            if not tracing() and bool(((value < low) | (value >= high)).any()):
                raise DataError(f"'{name}' is {value.tolist()}; the net knows {low}…{high - 1}")
            values.append(value)
        return values[0], values[1]

    def _atom_energy(self, batch: GraphData, node: Tensor, types: Tensor) -> Float[Tensor, " nodes"]:
        frame = atom = None
        if self.config["frame_parameters"]:
            if "frame_parameters" not in batch:
                raise DataError("the net needs the field 'frame_parameters', which the graph lacks")
            frame = batch.frame_parameters.index_select(0, batch.node_graph)
        if self.config["atom_parameters"]:
            if "atom_parameters" not in batch:
                raise DataError("the net needs the field 'atom_parameters', which the graph lacks")
            atom = batch.atom_parameters
        energy = self._fit(batch, node, frame, atom).double() + self._element_energy(batch, types)
        return energy if self.has_energy is None else energy * self.has_energy.index_select(0, types)

    def _fit(
        self, batch: GraphData, node: Tensor, frame: Tensor | None, atom: Tensor | None
    ) -> Float[Tensor, " nodes"]:
        return self.fitting(node, frame, atom)

    def _element_energy(self, batch: GraphData, types: Tensor) -> Float[Tensor, " nodes"]:
        return self.energy_bias.index_select(0, types)

    @torch.no_grad()
    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fill the energy bias of the elements and the other buffers that hold data statistics.

        Args:
            graphs: training graphs with `energy` or `atom_energy` labels.
        """
        graphs = list(graphs)
        self.energy_bias.copy_(element_energies(graphs, self))
        if not self.config["environment_scale"]:
            self.environment_stddev.copy_(environment_stddev(graphs, self, self._geometry_options))
        self._fit_parameter_statistics(self.fitting, graphs)

    def _fit_parameter_statistics(self, fitting: EnergyFitting, graphs: Sequence[GraphData]) -> None:
        for name, mean, inverse in (
            ("frame_parameters", fitting.frame_mean, fitting.frame_inv_std),
            ("atom_parameters", fitting.atom_mean, fitting.atom_inv_std),
        ):
            if self.config[name]:
                centre, spread = parameter_statistics(graphs, name)
                mean.copy_(centre)
                inverse.copy_(1.0 / spread)


def _spec(config: dict[str, Any]) -> GraphSpec:
    radius = RadiusEdges(config["cutoff"], config["max_neighbors"])
    if not config["update_angles"]:
        return GraphSpec((radius,))
    return GraphSpec((radius, LineGraph(config["angle_cutoff"], config["max_angle_neighbors"])))
