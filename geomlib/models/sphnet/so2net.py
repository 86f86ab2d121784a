"""SO2Net: Kohn-Sham matrices by products in the frames of pairs of atoms instead of Clebsch-Gordan products."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models.sphnet.directions import in_harmonic_order, pair_vectors
from geomlib.models.sphnet.expansion import BlockExpansion, block_irreps
from geomlib.models.sphnet.frame import FrameLayout
from geomlib.models.sphnet.frame_interaction import FrameInteraction
from geomlib.models.sphnet.hamiltonian_net import HamiltonianNet
from geomlib.models.sphnet.radial import BernsteinBasis
from geomlib.nn.constants import follow_loaded_precision
from geomlib.nn.spherical import NormGate, SphericalLinear
from geomlib.nn.tensor_product import natural_irreps
from geomlib.nn.tensor_product.so2 import rotation_blocks

__all__ = ["SO2Net"]

_MESSAGES_ONLY = 3
"""Layers before the first one that makes features of pairs."""


class SO2Net(HamiltonianNet):
    """Kohn-Sham (Fock) matrix of a molecule in a basis of atomic orbitals.

    All products of features are made in the frames of pairs of atoms, where they are those of complex numbers. What a
    pair needs stays in its frame until it is expanded to a block; the block of an atom is made from its own features
    and from what its pairs say of it.

    Args:
        elements: chemical symbols.
        basis: basis set of the matrix.
        functional: what the matrices were made with, in PySCF's words (`"b3lyp5"`); makes that of the initial density
            where the net is used.
        channels: of all features.
        bottleneck: channels that are expanded to blocks.
        layers: more than three; each after the third makes features of pairs, the last one these alone.
        copies: of each order, in each channel, that products are made of.
        delta: predict the difference to the matrix of the initial density, which the data then has to hold.
        functions: radial functions.
        cutoff: where they end [Å].
        parity: O(3) instead of SO(3).
    Inputs (batch fields): pos [nodes, 3, Å], atomic_number; initial_hamiltonian [entries, Hartree] with `delta`
    Returns: hamiltonian [entries, Hartree], float64, row after row in PySCF's order
    Raises:
        ConfigError: arguments out of range.
    Source: Yu et al. 2025 (QHNetV2, arXiv 2506.09398), Passaro and Zitnick 2023 (eSCN, arXiv 2302.03655): linear maps,
        gates and products in the frames. It is another net than QHNetV2: messages, blocks of pairs and blocks of atoms
        are maps of one product of both atoms' features, instead of modules of their own; weights of the sums over
        degrees come from distances alone; there is no layer norm and no product of an atom's features with the sum of
        its messages; reflections are kept unless `parity` is off.
    """

    family = "so2net"
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
        copies: int = 2,
        delta: bool = True,
        functions: int = 32,
        cutoff: float = 15.0,
        parity: bool = True,
    ) -> None:
        super().__init__(elements, basis, delta)
        if layers <= _MESSAGES_ONLY:
            raise ConfigError(f"SO2Net layers={layers}: expected more than {_MESSAGES_ONLY}")
        for name, value in (("channels", channels), ("bottleneck", bottleneck), ("copies", copies)):
            if value < 1:
                raise ConfigError(f"SO2Net {name}={value}: expected at least 1")
        self.config = {
            "elements": self.elements,
            "basis": basis,
            "functional": functional,
            "channels": channels,
            "bottleneck": bottleneck,
            "layers": layers,
            "copies": copies,
            "delta": delta,
            "functions": functions,
            "cutoff": cutoff,
            "parity": parity,
        }
        self.l_max = self.least_l_max
        atoms = natural_irreps(self.l_max, parity=parity)
        pairs = block_irreps(self.layout.shells, atoms) if parity else atoms
        self.embedding = nn.Embedding(len(self.elements), channels)
        self.radial = BernsteinBasis(functions, cutoff)
        self.of_atoms, self.of_pairs = (FrameLayout(irreps, parity=parity) for irreps in (atoms, pairs))
        self.interactions = nn.ModuleList(
            FrameInteraction(
                atoms if number else atoms[:1],
                self.of_atoms,
                self.of_pairs,
                channels,
                copies,
                functions,
                pair_channels=0 if number < _MESSAGES_ONLY else 2 * bottleneck,
                messages=number < layers - 1,
                parity=parity,
            )
            for number in range(layers)
        )
        self.gate_out = NormGate(atoms, channels)
        self.diagonal_out = SphericalLinear(atoms, channels, bottleneck, bias=False)
        self.diagonal_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, channels, channels)
        self.pair_blocks = BlockExpansion(self.layout.shells, pairs, bottleneck, 2 * channels, channels)
        follow_loaded_precision(self)

    def blocks(self, batch: GraphData) -> tuple[Float[Tensor, "nodes b b"], Float[Tensor, "pairs b b"]]:
        """Blocks of atoms (symmetric) and of pairs i > j, in the order of `pair_index` [Hartree]."""
        atoms = self.embedding(self.element_index(batch.atomic_number))
        vectors, distance = pair_vectors(batch, atoms.dtype)
        index, radial = batch.pair_index, self.radial(distance)
        turn = rotation_blocks(self.l_max, in_harmonic_order(vectors))
        turns = self.of_atoms.turns(turn)
        x, found = atoms.unsqueeze(0), []
        for layer in self.interactions:
            x, features = layer(x, index, radial, turns)
            found += [] if features is None else [features]
        total = sum(found[1:], start=found[0])
        # seen from both atoms: what their block needs, and what that of the atom itself does
        seen = torch.cat([total[0], self.of_pairs.reversed(total[1])], dim=2)
        seen = torch.bmm(self.of_pairs.turns(turn).transpose(1, 2), seen).transpose(0, 1)
        forth, of_i, back, of_j = seen.chunk(4, dim=2)
        own = self.diagonal_out(self.gate_out(x))
        on_site = own.new_zeros(len(seen), *own.shape[1:]).index_add(1, index[0], of_i).index_add(1, index[1], of_j)
        on_site = torch.cat([on_site[: len(own)] + own, on_site[len(own) :]])
        d = self.diagonal_blocks(on_site, atoms)
        i, j = (atoms.index_select(0, ends) for ends in index)
        scalars = torch.cat([torch.cat([i, j], dim=1), torch.cat([j, i], dim=1)])
        p, q = self.pair_blocks(torch.cat([forth, back], dim=1), scalars).chunk(2)
        return d + d.transpose(1, 2), p + q.transpose(1, 2)
