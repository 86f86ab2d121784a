"""SPHNet: Kohn-Sham matrices from equivariant features of atoms and pairs, with learned sparsity."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models.sphnet.compaction import Shrunk
from geomlib.models.sphnet.directions import harmonics_of, pair_vectors
from geomlib.models.sphnet.expansion import BlockExpansion, block_irreps
from geomlib.models.sphnet.groups import atom_groups
from geomlib.models.sphnet.hamiltonian_net import HamiltonianNet
from geomlib.models.sphnet.interaction import SphericalInteraction
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.pairs import DiagonalLayer, PairLayer
from geomlib.models.sphnet.path_gate import PathSchedule
from geomlib.models.sphnet.radial import BernsteinBasis
from geomlib.models.sphnet.vectorial import VectorialInteraction
from geomlib.nn.constants import follow_loaded_precision
from geomlib.nn.spherical import SphericalLinear
from geomlib.nn.tensor_product import Irrep, all_paths, natural_irreps

__all__ = ["SPHNet"]


class SPHNet(HamiltonianNet):
    """Kohn-Sham (Fock) matrix of a molecule in a basis of atomic orbitals.

    Scalars of the atoms (`VectorialInteraction`) are lifted to spherical features by two layers of messages. Products
    of those make features of atoms and pairs, which expand to blocks of the matrix. It is symmetric by construction
    and turns with the molecule; with `parity` reflections are kept too.

    Args:
        elements: chemical symbols.
        basis: basis set of the matrix.
        functional: what the matrices were made with, in PySCF's words (`"b3lyp5"`); makes that of the initial density
            where the net is used.
        channels: of all features, a multiple of `heads`.
        bottleneck: channels that are expanded to blocks.
        l_max: degree of the features; by default 2·(largest degree of the basis), the least that reaches every block.
        delta: predict the difference to the matrix of the initial density, which the data then has to hold.
        short_layers, long_layers: of the vectorial part; `long_layers` need groups of atoms and pay off from about
            20 atoms.
        heads: of attention.
        vector_functions, functions: radial functions of the vectorial and of the spherical part.
        bond_cutoff, short_cutoff, long_cutoff: pairs that exchange vectors, where their radial functions end, and those
            of groups [Å].
        cutoff, pair_cutoff: where radial functions of messages and of pairs end [Å].
        group_size: atoms of a group.
        pair_sparsity: share of each molecule's pairs that is left out of the second layers.
        path_sparsity: share of the paths of the four products of pair construction that is left out in the end; they
            are chosen in three phases, see `geomlib.models.sphnet.path_gate`.
        path_steps: optimizer steps of the first and the second phase.
        kept_paths: numbers of the paths that are left where they are chosen for good, for the products of the two
            layers of atoms and then of the two of pairs; `compact` sets it, and the net then has no other paths.
        both_orders: make each pair's block from both orders of its atoms, so that the order of the atoms plays no part;
            without it, as published, it does.
        parity: O(3) instead of SO(3); features then have both parities, so that every block stays within reach.
        normalization: `component` or, for published weights, `published`.
        norm: normalise the messages.
        gate_width: hidden width of the gates behind the four products; by default that of the norms which they read.
        pair_irreps: with `parity`, `needed`: features of pairs have the irreps of the atoms and what blocks need of
            those of the other parity; `all`: all of these, as in model files of version 1.
    Inputs (batch fields): pos [nodes, 3, Å], atomic_number; initial_hamiltonian [entries, Hartree] with `delta`
    Returns: hamiltonian [entries, Hartree], float64, row after row in PySCF's order
    Raises:
        ConfigError: arguments out of range.
    Source: Luo et al. 2025 (arXiv 2502.01171). Differences: thresholds of gates are those of a molecule, groups are
        made by a rule instead of k-means, pairs have no order, reflections are kept unless `parity` is off.
    """

    family = "sphnet"
    family_version = 2

    def __init__(
        self,
        elements: list[str],
        *,
        basis: str = "def2-svp",
        functional: str = "b3lyp5",
        channels: int = 128,
        bottleneck: int = 32,
        l_max: int | None = None,
        delta: bool = True,
        short_layers: int = 4,
        long_layers: int = 0,
        heads: int = 8,
        vector_functions: int = 50,
        functions: int = 16,
        bond_cutoff: float = 3.0,
        short_cutoff: float = 5.0,
        long_cutoff: float = 15.0,
        cutoff: float = 15.0,
        pair_cutoff: float = 30.0,
        group_size: int = 4,
        pair_sparsity: float = 0.0,
        path_sparsity: float = 0.0,
        path_steps: list[int] | None = None,
        kept_paths: list[list[int]] | None = None,
        both_orders: bool = True,
        parity: bool = True,
        normalization: str = "component",
        norm: bool = False,
        gate_width: int | None = None,
        pair_irreps: str = "needed",
    ) -> None:
        super().__init__(elements, basis, delta)
        l_max = self.least_l_max if l_max is None else l_max
        if l_max < self.least_l_max:
            raise ConfigError(
                f"SPHNet l_max={l_max}: blocks of {basis} with {self.elements} need at least {self.least_l_max}"
            )
        if channels % heads:
            raise ConfigError(f"SPHNet channels={channels} is no multiple of heads={heads}")
        if not 0 <= pair_sparsity < 1:
            raise ConfigError(f"SPHNet pair_sparsity={pair_sparsity}: expected 0 ≤ sparsity < 1")
        if path_steps is not None and len(path_steps) != 2:
            raise ConfigError(f"SPHNet path_steps={path_steps}: expected the steps of the first and the second phase")
        if kept_paths is not None and len(kept_paths) != 4:
            raise ConfigError(f"SPHNet kept_paths has {len(kept_paths)} lists: expected one for each of four products")
        if normalization not in ("component", "published"):
            raise ConfigError(f"SPHNet normalization='{normalization}': expected component or published")
        if gate_width is not None and gate_width < 1:
            raise ConfigError(f"SPHNet gate_width={gate_width}: expected at least 1")
        if pair_irreps not in ("needed", "all"):
            raise ConfigError(f"SPHNet pair_irreps='{pair_irreps}': expected needed or all")
        self.config = {
            "elements": self.elements,
            "basis": basis,
            "functional": functional,
            "channels": channels,
            "bottleneck": bottleneck,
            "l_max": l_max,
            "delta": delta,
            "short_layers": short_layers,
            "long_layers": long_layers,
            "heads": heads,
            "vector_functions": vector_functions,
            "functions": functions,
            "bond_cutoff": bond_cutoff,
            "short_cutoff": short_cutoff,
            "long_cutoff": long_cutoff,
            "cutoff": cutoff,
            "pair_cutoff": pair_cutoff,
            "group_size": group_size,
            "pair_sparsity": pair_sparsity,
            "path_sparsity": path_sparsity,
            "path_steps": list(path_steps or (2000, 1000)),
            "kept_paths": kept_paths,
            "both_orders": both_orders,
            "parity": parity,
            "normalization": normalization,
            "norm": norm,
            "gate_width": gate_width,
            "pair_irreps": pair_irreps,
        }
        self.l_max, self.both_orders = l_max, both_orders
        self.bond_cutoff, self.cutoff, self.group_size = bond_cutoff, cutoff, group_size
        constants = Normalization(normalization == "published")
        natural = natural_irreps(l_max)
        atoms = natural if parity else natural_irreps(l_max, parity=False)
        pairs = atoms
        if parity and pair_irreps == "all":
            pairs = (*natural, *(Irrep(irrep.degree, -irrep.parity) for irrep in natural))
        elif parity:
            pairs = block_irreps(self.layout.shells, natural)
        self.vectorial = VectorialInteraction(
            channels, short_layers, long_layers, heads, vector_functions, short_cutoff, long_cutoff
        )
        self.radial, self.pair_radial = BernsteinBasis(functions, cutoff), BernsteinBasis(functions, pair_cutoff)
        self.interactions = nn.ModuleList(
            SphericalInteraction(
                natural[:1] if first else natural,
                natural,
                channels,
                functions,
                first=first,
                normalization=constants,
                norm=norm,
                sparsity=0.0 if first else pair_sparsity,
            )
            for first in (True, False)
        )
        schedules = [self._schedule(len(all_paths(atoms, atoms, pairs)), seed) for seed in range(4)]
        kept: list[list[int] | None] = [None] * 4 if kept_paths is None else [*kept_paths]
        self.diagonal = nn.ModuleList(
            DiagonalLayer(
                atoms,
                pairs,
                channels,
                residual=residual,
                gate_width=gate_width,
                normalization=constants,
                schedule=schedules[residual],
                kept=kept[residual],
            )
            for residual in (False, True)
        )
        self.pairs = nn.ModuleList(
            PairLayer(
                atoms,
                pairs,
                channels,
                functions,
                gate_width=gate_width,
                normalization=constants,
                schedule=schedules[2 + residual],
                kept=kept[2 + residual],
                sparsity=pair_sparsity if residual else 0.0,
                both_orders=both_orders,
            )
            for residual in (False, True)
        )
        self.diagonal_out = SphericalLinear(pairs, channels, bottleneck, bias=False)
        self.pairs_out = SphericalLinear(pairs, channels, bottleneck, bias=False)
        self.diagonal_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, channels, channels)
        self.pair_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, channels, channels)
        follow_loaded_precision(self)

    def _schedule(self, count: int, seed: int) -> PathSchedule | None:
        sparsity, (explore, compete) = self.config["path_sparsity"], self.config["path_steps"]
        chosen = not sparsity or self.config["kept_paths"] is not None
        return None if chosen else PathSchedule(count, sparsity, explore, compete, seed)

    # ---------------------------------------------------------------- choice of paths

    def _schedules(self) -> list[PathSchedule]:
        return [module for module in self.modules() if isinstance(module, PathSchedule)]

    def advance(self, step: int) -> None:
        """Tell the products how many optimizer steps are done, which decides the phase of their paths."""
        for schedule in self._schedules():
            schedule.advance(step)

    @property
    def can_compact(self) -> bool:
        """Whether the paths are chosen for good, but those left out are still there."""
        return any(schedule.phase == 3 for schedule in self._schedules())

    def compact(self) -> list[Shrunk]:
        """Take away the paths that are left out for good, and whatever is there for them alone.

        The results stay the same. The net is then like one made with the argument `kept_paths`, which stands in its
        `config` from now on; `geomlib.models.sphnet.compaction.carry_over` lets an optimizer go on.

        Returns: what became of the parameters.

        Raises:
            ConfigError: the paths are not chosen yet.
        """
        if not self.can_compact:
            raise ConfigError("SPHNet compact: there are no paths that are chosen for good (phase 3) to be kept alone")
        return self.keep_paths([schedule.active().tolist() for schedule in self._schedules()])

    def keep_paths(self, kept: list[list[int]]) -> list[Shrunk]:
        """The same with given paths in the four products.

        Raises:
            ConfigError: some are gone already, or the numbers are no paths.
        """
        schedules = self._schedules()
        if len(kept) != 4 or len(schedules) != 4:
            raise ConfigError(f"SPHNet keep_paths: {len(kept)} lists for {len(schedules)} products that choose paths")
        for schedule, numbers in zip(schedules, kept, strict=True):
            schedule.choose(numbers)
        changes = [change for layer in (*self.diagonal, *self.pairs) for change in layer.compact()]
        self.config = {**self.config, "kept_paths": [list(numbers) for numbers in kept]}
        return changes

    def for_file(self) -> "SPHNet":
        """The net without paths that are left out for good."""
        if not self.can_compact:
            return self
        small = copy.deepcopy(self)
        small.compact()
        return small

    # ---------------------------------------------------------------- evaluation

    def blocks(self, batch: GraphData) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks of atoms (symmetric) and of pairs i > j, in the order of `pair_index` [Hartree]."""
        self.element_index(batch.atomic_number)  # raises where an element is unknown
        number, pairs, graph = batch.atomic_number, batch.pair_index, batch.node_graph
        vectors, distance = pair_vectors(batch, self.radial.raw_decay.dtype)
        pos = batch.pos.to(vectors.dtype)
        short = (distance < self.bond_cutoff).nonzero().squeeze(1)
        short_index = torch.cat([pairs[:, short], pairs[:, short].flip(0)], dim=1)
        groups = None
        if self.config["long_layers"]:
            groups = atom_groups(pos.detach(), number, graph, batch.num_graphs, self.group_size)
        scalars = self.vectorial(number, pos, short_index, groups)
        return self.from_scalars(scalars, pairs, graph, batch.num_graphs, vectors, distance)

    def from_scalars(
        self,
        scalars: Float[Tensor, "nodes channels"],
        pairs: Int[Tensor, "2 pairs"],
        graph: Int[Tensor, " nodes"],
        graphs: int,
        vectors: Float[Tensor, "pairs 3"],
        distance: Float[Tensor, " pairs"],
    ) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks from the scalars of the atoms; `vectors` are r_i − r_j."""
        first, second = self.spherical(scalars, pairs, graph, graphs, vectors, distance)
        radial, of_pair = self.pair_radial(distance), graph[pairs[0]]
        on_site: Tensor | None = None
        between: Tensor | None = None
        for x, diagonal, pair in zip((first, second), self.diagonal, self.pairs, strict=True):
            on_site = diagonal(x, on_site)
            between = pair(x, pairs, radial, of_pair, graphs, between)
        d = self.diagonal_blocks(self.diagonal_out(on_site), scalars)
        of_pairs = scalars[pairs[0]] + scalars[pairs[1]]
        if self.both_orders:
            forth, back = self.pair_blocks(self.pairs_out(between), of_pairs.repeat(2, 1)).chunk(2)
            p = 0.5 * (forth + back.transpose(1, 2))
        else:
            p = self.pair_blocks(self.pairs_out(between), of_pairs)
        return 0.5 * (d + d.transpose(1, 2)), p

    def spherical(
        self, scalars: Tensor, pairs: Tensor, graph: Tensor, graphs: int, vectors: Tensor, distance: Tensor
    ) -> Sequence[Float[Tensor, "components nodes channels"]]:
        """Features of the atoms after each layer of messages."""
        near = (distance < self.cutoff).nonzero().squeeze(1)
        index = torch.cat([pairs[:, near], pairs[:, near].flip(0)], dim=1)
        directions = torch.cat([vectors[near], -vectors[near]])
        radial = self.radial(distance[near]).repeat(2, 1)
        harmonics = harmonics_of(self.l_max, directions)
        features, x = [], scalars.unsqueeze(0)
        for layer in self.interactions:
            x = layer(x, index, radial, harmonics, graph[index[0]], graphs)
            features.append(x)
        return features
