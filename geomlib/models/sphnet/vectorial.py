"""Vectorial node interaction: scalars of atoms from attention with vectors, at short range and by way of groups."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from geomlib.models.sphnet.radial import ExpNormalBasis

__all__ = ["Groups", "VectorialInteraction"]

_ELEMENTS = 100


@dataclass(frozen=True)
class Groups:
    """Groups of atoms, and which atom looks at which group.

    Args:
        of_atom: group of each atom.
        count: number of groups.
        atom, group: the pairs, of one molecule each.
    """

    of_atom: Int[Tensor, " nodes"]
    count: int
    atom: Int[Tensor, " pairs"]
    group: Int[Tensor, " pairs"]


def _unit(vectors: Float[Tensor, "rows 3"], guard: float = 0.0) -> Float[Tensor, "rows 3"]:
    """Unit vectors; zero where there is no direction."""
    length = (vectors + guard).norm(dim=1, keepdim=True) + guard
    return vectors / torch.where(length > 0, length, 1)


def _rejection(vectors: Float[Tensor, "rows 3 channels"], unit: Float[Tensor, "rows 3"]) -> Tensor:
    along = torch.einsum("nic,ni->nc", vectors, unit)
    return vectors - unit.unsqueeze(2) * along.unsqueeze(1)


def _normalised(vectors: Float[Tensor, "rows 3 channels"]) -> Float[Tensor, "rows 3 channels"]:
    """Norms of the channels moved to 0 … 1 over the channels of an atom; directions stay."""
    square = vectors.square().sum(1)
    norm = torch.where(square > 0, square, 1).sqrt() * (square > 0)
    low, high = norm.amin(1, keepdim=True), norm.amax(1, keepdim=True)
    spread = high - low
    scaled = torch.relu((norm - low) / torch.where(spread > 0, spread, 1))
    scaled = torch.where(spread > 0, scaled, norm)
    return vectors / torch.where(norm > 0, norm, 1).unsqueeze(1) * scaled.unsqueeze(1)


def _sum(values: Tensor, index: Int[Tensor, " rows"], count: int) -> Tensor:
    return values.new_zeros(count, *values.shape[1:]).index_add(0, index, values)


class ShortRangeLayer(nn.Module):
    """Attention between atoms that are close, with vectors, in the manner of ViSNet.

    Args:
        channels: number of channels, a multiple of `heads`.
        heads: of attention.
        last: whether vectors and edge features are not needed afterwards.
    """

    def __init__(self, channels: int, heads: int, *, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.edge_key, self.edge_value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.out = nn.Linear(channels, 3 * channels)
        self.vectors = nn.Linear(channels, 3 * channels, bias=False)
        if not last:
            self.gates = nn.Linear(channels, 2 * channels)
            self.edge = nn.Linear(channels, channels)
            self.target, self.source = (nn.Linear(channels, channels, bias=False) for _ in range(2))

    def forward(
        self,
        scalars: Float[Tensor, "nodes channels"],
        vectors: Float[Tensor, "nodes 3 channels"],
        edges: Float[Tensor, "edges channels"],
        index: Int[Tensor, "2 edges"],
        switch: Float[Tensor, " edges"],
        unit: Float[Tensor, "edges 3"],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Increments of scalars, vectors and edge features; row 0 of `index` is the source."""
        source, target = index
        nodes, channels = scalars.shape
        s, v = self.norm(scalars), _normalised(vectors)
        key, value = silu(self.edge_key(edges)), silu(self.edge_value(edges))
        product = self.query(s)[target] * self.key(s)[source] * key
        attention = silu(product.view(-1, self.heads, channels // self.heads).sum(2)) * switch.unsqueeze(1)
        message = (self.value(s)[source] * value).view(-1, self.heads, channels // self.heads)
        message = (message * attention.unsqueeze(2)).flatten(1)
        o1, o2, o3 = self.out(_sum(message, target, nodes)).chunk(3, dim=1)
        v1, v2, v3 = self.vectors(v).chunk(3, dim=2)
        ds = (v1 * v2).sum(1) * o2 + o3
        if self.last:
            return ds, None, None
        first, second = silu(self.gates(message)).chunk(2, dim=1)
        of_vectors = v[source] * first.unsqueeze(1) + second.unsqueeze(1) * unit.unsqueeze(2)
        dv = v3 * o1.unsqueeze(1) + _sum(of_vectors, target, nodes)
        here, there = self.target(v)[target], self.source(v)[source]
        turned = (_rejection(here, unit) * _rejection(there, -unit)).sum(1)
        return ds, dv, silu(self.edge(edges)) * turned


class LongRangeLayer(nn.Module):
    """Attention of atoms to groups of atoms, in the manner of LSRM.

    Args:
        channels: number of channels, a multiple of `heads`.
        heads: of attention.
        last: whether vectors are not needed afterwards.
    """

    def __init__(self, channels: int, heads: int, *, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.norm_atom, self.norm_group = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.first, self.second, self.gate, self.out = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        if not last:
            self.to_direction, self.to_vectors = (
                nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels)) for _ in range(2)
            )
            self.vector_gate, self.vectors = (nn.Linear(channels, channels, bias=False) for _ in range(2))

    def forward(
        self,
        scalars: Float[Tensor, "nodes channels"],
        vectors: Float[Tensor, "nodes 3 channels"],
        groups: Groups,
        edges: Float[Tensor, "pairs channels"],
        unit: Float[Tensor, "pairs 3"],
    ) -> tuple[Tensor, Tensor | None]:
        """Increments of scalars and vectors."""
        nodes, channels = scalars.shape
        size = _sum(torch.ones_like(scalars[:, 0]), groups.of_atom, groups.count)
        group_s = _sum(scalars, groups.of_atom, groups.count) / size.unsqueeze(1)
        group_v = _normalised(_sum(vectors, groups.of_atom, groups.count) / size.view(-1, 1, 1))
        s, v, group_s = self.norm_atom(scalars), _normalised(vectors), self.norm_group(group_s)
        product = self.query(s)[groups.atom] * self.key(group_s)[groups.group] * edges
        heads = (-1, self.heads, channels // self.heads)
        attention = silu(product.view(heads).sum(2) / (channels // self.heads) ** 0.5)
        message = (self.value(group_s)[groups.group].view(heads) * attention.unsqueeze(2)).flatten(1)
        total = _sum(message, groups.atom, nodes)
        ds = (self.first(v) * self.second(v)).sum(1) * self.gate(total) + self.out(total)
        if self.last:
            return ds, None
        along = self.to_direction(message).unsqueeze(1) * -unit.unsqueeze(2)
        of_vectors = along + self.to_vectors(message).unsqueeze(1) * group_v[groups.group]
        dv = _sum(of_vectors, groups.atom, nodes) + self.vector_gate(total).unsqueeze(1) * self.vectors(v)
        return ds, dv


class VectorialInteraction(nn.Module):
    """Scalars of atoms from their surroundings.

    Args:
        channels: number of channels.
        short_layers, long_layers: numbers of layers; without long layers there are no groups.
        heads: of attention.
        functions: radial functions.
        short_cutoff, long_cutoff: where messages between atoms and to groups end [Å].
        unit_guard: added to every Cartesian component where vectors are divided by their length, which the published
            code does with 1e-6 and which breaks the symmetry by as much.
    Inputs:
        atomic_number: [nodes]
        pos: [nodes, 3, Å]
        index: [2, edges], row 0 source, row 1 target
        groups: for the long layers
    Returns: [nodes, channels]
    Source: Luo et al. 2025 (arXiv 2502.01171), section 2.2 of the specification; the unit vector of zero is zero.
    """

    def __init__(
        self,
        channels: int,
        short_layers: int = 4,
        long_layers: int = 4,
        heads: int = 8,
        functions: int = 50,
        short_cutoff: float = 5.0,
        long_cutoff: float = 15.0,
        unit_guard: float = 0.0,
    ) -> None:
        super().__init__()
        self.long_cutoff, self.unit_guard = long_cutoff, unit_guard
        self.basis = ExpNormalBasis(functions, short_cutoff)
        self.embedding, self.neighbor_embedding = nn.Embedding(_ELEMENTS, channels), nn.Embedding(_ELEMENTS, channels)
        self.neighbor_distance = nn.Linear(functions, channels)
        self.combine = nn.Linear(2 * channels, channels)
        self.edge_embedding = nn.Linear(functions, channels)
        self.start = nn.Linear(channels, channels)
        self.short = nn.ModuleList(
            ShortRangeLayer(channels, heads, last=number == short_layers - 1 and not long_layers)
            for number in range(short_layers)
        )
        self.long = nn.ModuleList(
            LongRangeLayer(channels, heads, last=number == long_layers - 1) for number in range(long_layers)
        )
        if long_layers:
            self.group_basis = ExpNormalBasis(functions, long_cutoff)
            self.group_embedding = nn.Linear(functions, channels)
        self.norm_short, self.norm_long = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.out = nn.Linear(2 * channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(
        self, atomic_number: Tensor, pos: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "edges 3"]]:
        """Features of atoms and edges at the start, the switch and the unit vectors of edges."""
        source, target = index
        vectors = pos[source] - pos[target]
        distance = vectors.norm(dim=1)
        radial, switch = self.basis(distance), self.basis.switch(distance)
        weight = self.neighbor_distance(radial) * switch.unsqueeze(1)
        around = _sum(self.neighbor_embedding(atomic_number)[source] * weight, target, len(pos))
        atoms = self.combine(torch.cat([self.embedding(atomic_number), around], dim=1))
        return atoms, self.edge_embedding(radial), switch, _unit(vectors, self.unit_guard)

    def forward(
        self,
        atomic_number: Int[Tensor, " nodes"],
        pos: Float[Tensor, "nodes 3"],
        index: Int[Tensor, "2 edges"],
        groups: Groups | None = None,
    ) -> Float[Tensor, "nodes channels"]:
        """Evaluate."""
        atoms, edges, switch, unit = self.embed(atomic_number, pos, index)
        scalars = self.start(atoms)
        vectors = scalars.new_zeros(len(scalars), 3, scalars.shape[1])
        for layer in self.short:
            ds, dv, de = layer(scalars, vectors, edges, index, switch, unit)
            scalars = scalars + ds
            vectors = vectors if dv is None else vectors + dv
            edges = edges if de is None else edges + de
        short = scalars
        if groups is None:
            scalars = torch.zeros_like(scalars)
        else:
            scalars = self._long_range(atomic_number, pos, scalars, vectors, groups)
        return self.out(torch.cat([self.norm_short(short), self.norm_long(scalars)], dim=1))

    def _long_range(
        self, atomic_number: Tensor, pos: Tensor, scalars: Tensor, vectors: Tensor, groups: Groups
    ) -> Float[Tensor, "nodes channels"]:
        charge = atomic_number.to(pos).unsqueeze(1)
        weight = _sum(charge, groups.of_atom, groups.count)
        center = _sum(pos * charge, groups.of_atom, groups.count) / weight
        offset = pos[groups.atom] - center[groups.group]
        distance = offset.norm(dim=1)
        near = (distance < self.long_cutoff).nonzero().squeeze(1)
        groups = Groups(groups.of_atom, groups.count, groups.atom[near], groups.group[near])
        edges, unit = self.group_embedding(self.group_basis(distance[near])), _unit(offset[near], self.unit_guard)
        for layer in self.long:
            ds, dv = layer(scalars, vectors, groups, edges, unit)
            scalars = scalars + ds
            vectors = vectors if dv is None else vectors + dv
        return scalars
