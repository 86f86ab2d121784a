"""QHNet: Kohn-Sham matrices from equivariant features without vectorial part and without gates, for comparison."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models.sphnet.directions import harmonics_of, pair_vectors
from geomlib.models.sphnet.expansion import BlockExpansion
from geomlib.models.sphnet.hamiltonian_net import HamiltonianNet
from geomlib.models.sphnet.interaction import SphericalInteraction
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.pairs import DiagonalLayer, PairLayer
from geomlib.models.sphnet.radial import BernsteinBasis
from geomlib.nn.constants import follow_loaded_precision
from geomlib.nn.spherical import SphericalLinear
from geomlib.nn.tensor_product import Irrep, natural_irreps

__all__ = ["QHNet"]

_MESSAGES_ONLY = 3
"""Layers before the first one that makes features of pairs."""


class QHNet(HamiltonianNet):
    """Kohn-Sham (Fock) matrix of a molecule in a basis of atomic orbitals.

    Args:
        elements: chemical symbols.
        basis: basis set of the matrix.
        functional: what the matrices were made with, in PySCF's words (`"b3lyp5"`); makes that of the initial density
            where the net is used.
        channels: of all features.
        bottleneck: channels that are expanded to blocks.
        layers: of messages, more than three; each after the third makes features of atoms and pairs as well.
        delta: predict the difference to the matrix of the initial density, which the data then has to hold.
        functions: radial functions.
        cutoff: where they end [Å].
        parity: O(3) instead of SO(3).
        normalization: `component` or, for published weights, `published`.
    Inputs (batch fields): pos [nodes, 3, Å], atomic_number; initial_hamiltonian [entries, Hartree] with `delta`
    Returns: hamiltonian [entries, Hartree], float64, row after row in PySCF's order
    Raises:
        ConfigError: arguments out of range.
    Source: Yu et al. 2023 (arXiv 2306.04922); reflections are kept unless `parity` is off.
    """

    family = "qhnet"
    family_version = 1

    def __init__(
        self,
        elements: list[str],
        *,
        basis: str = "def2-svp",
        functional: str = "b3lyp5",
        channels: int = 128,
        bottleneck: int = 32,
        layers: int = 5,
        delta: bool = True,
        functions: int = 32,
        cutoff: float = 15.0,
        parity: bool = True,
        normalization: str = "component",
    ) -> None:
        super().__init__(elements, basis, delta)
        if layers <= _MESSAGES_ONLY:
            raise ConfigError(f"QHNet layers={layers}: expected more than {_MESSAGES_ONLY}")
        if normalization not in ("component", "published"):
            raise ConfigError(f"QHNet normalization='{normalization}': expected component or published")
        self.config = {
            "elements": self.elements,
            "basis": basis,
            "functional": functional,
            "channels": channels,
            "bottleneck": bottleneck,
            "layers": layers,
            "delta": delta,
            "functions": functions,
            "cutoff": cutoff,
            "parity": parity,
            "normalization": normalization,
        }
        self.cutoff, self.l_max = cutoff, self.least_l_max
        constants = Normalization(normalization == "published")
        natural = natural_irreps(self.l_max)
        atoms = natural if parity else natural_irreps(self.l_max, parity=False)
        pairs = (*natural, *(Irrep(irrep.degree, -irrep.parity) for irrep in natural)) if parity else atoms
        self.embedding = nn.Embedding(len(self.elements), channels)
        self.radial = BernsteinBasis(functions, cutoff)
        self.interactions = nn.ModuleList(
            SphericalInteraction(
                natural if number else natural[:1],
                natural,
                channels,
                functions,
                first=number == 0,
                normalization=constants,
            )
            for number in range(layers)
        )
        self.diagonal = nn.ModuleList(
            DiagonalLayer(atoms, pairs, channels, residual=True, normalization=constants)
            for _ in range(layers - _MESSAGES_ONLY)
        )
        self.pairs = nn.ModuleList(
            PairLayer(atoms, pairs, channels, functions, normalization=constants, mean_scalars=False)
            for _ in range(layers - _MESSAGES_ONLY)
        )
        self.diagonal_out = SphericalLinear(pairs, channels, bottleneck, bias=False)
        self.pairs_out = SphericalLinear(pairs, channels, bottleneck, bias=False)
        self.diagonal_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, channels, channels)
        self.pair_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, 2 * channels, channels)
        follow_loaded_precision(self)

    def blocks(self, batch: GraphData) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks of atoms (symmetric) and of pairs i > j, in the order of `pair_index` [Hartree]."""
        atoms = self.embedding(self.element_index(batch.atomic_number))
        vectors, distance = pair_vectors(batch, atoms.dtype)
        index, graph = batch.pair_index, batch.node_graph
        near = (distance < self.cutoff).nonzero().squeeze(1)
        edges = torch.cat([index[:, near], index[:, near].flip(0)], dim=1)
        radial = self.radial(distance)
        of_edges = radial[near].repeat(2, 1)
        harmonics = harmonics_of(self.l_max, torch.cat([vectors[near], -vectors[near]]))
        both, of_both = torch.cat([index, index.flip(0)], dim=1), radial.repeat(2, 1)
        x, graphs = atoms.unsqueeze(0), batch.num_graphs
        on_site: Tensor | None = None
        between: Tensor | None = None
        for number, layer in enumerate(self.interactions):
            x = layer(x, edges, of_edges, harmonics, graph[edges[0]], graphs)
            if number >= _MESSAGES_ONLY:
                position = number - _MESSAGES_ONLY
                on_site = self.diagonal[position](x, on_site)
                between = self.pairs[position](x, both, of_both, graph[both[0]], graphs, between)
        d = self.diagonal_blocks(self.diagonal_out(on_site), atoms)
        p = self.pair_blocks(self.pairs_out(between), torch.cat([atoms[both[0]], atoms[both[1]]], dim=1))
        forth, back = p.chunk(2)
        return d + d.transpose(1, 2), forth + back.transpose(1, 2)
