"""Messages between atoms, and features of their pairs, from products in the frame of each pair."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.models.sphnet.frame import FrameLayout
from geomlib.models.sphnet.frame_layers import FrameGate, FrameLinear, FrameProduct, sum_over_degrees
from geomlib.models.sphnet.radial import RadialNet
from geomlib.nn.spherical import NormGate, SphericalLinear
from geomlib.nn.tensor_product import Irrep

__all__ = ["FrameInteraction"]


class FrameInteraction(nn.Module):
    """One layer: what an atom's neighbour sends it, and what their block needs, from one feature z of the pair.

    In the frame of the pair, x of the neighbour is summed over degrees with weights from the distance (a), and x of
    the atom with weights that are learnt (b). z = Gate(a + a · b) is mapped to a message, which is turned back and
    added up, and to features of the pair, which stay in the frame. The pair is seen from both of its atoms, with the
    same weights; the frame of the second is that of the first after a half turn. All ends where radial functions do.

    Args:
        irreps_in: of the input, degree 0 alone or all of `atoms`.
        atoms, pairs: layouts of the atoms' features and of those of pairs.
        channels: of the atoms' features.
        copies: sums over degrees for each channel.
        functions: radial functions.
        pair_channels: features of pairs; 0 makes none.
        messages: whether the atoms' features are updated.
        parity: O(3) instead of SO(3).
        hidden: width of the net that makes weights from distances.
    Inputs:
        x: [components_in, nodes, channels]
        index: [2, pairs], atoms i and j of each pair once
        radial: [pairs, functions]
        turns: [pairs, frame, components] of `atoms`, for the direction r_i − r_j
    Returns: [components, nodes, channels], the input without `messages`; [2, pairs, frame, pair_channels], seen from i
        and from j, or None
    """

    def __init__(
        self,
        irreps_in: Sequence[Irrep],
        atoms: FrameLayout,
        pairs: FrameLayout,
        channels: int,
        copies: int,
        functions: int,
        *,
        pair_channels: int,
        messages: bool,
        parity: bool,
        hidden: int = 32,
    ) -> None:
        super().__init__()
        self.layout, self.atoms = FrameLayout(irreps_in, parity=parity), atoms
        self.copies, self.channels, columns, top = copies, channels, copies * channels, self.layout.l_max
        self.gate_in = NormGate(irreps_in, channels)
        self.map_here, self.map_there = (SphericalLinear(irreps_in, channels, channels) for _ in range(2))
        degrees = sum(self.layout.reals)
        self.of_distance = RadialNet((functions, hidden, degrees * columns))
        self.weight = nn.Parameter(torch.randn(degrees, copies, channels))
        self.product = FrameProduct(top, columns)
        self.gate = FrameGate(top, columns, 2 * channels, channels)
        self.to_message = FrameLinear(columns, top, atoms, channels, parity=parity) if messages else None
        self.to_pair = FrameLinear(columns, top, pairs, pair_channels, parity=parity) if pair_channels else None

    def forward(
        self,
        x: Float[Tensor, "components_in nodes channels"],
        index: Int[Tensor, "2 pairs"],
        radial: Float[Tensor, "pairs functions"],
        turns: Float[Tensor, "pairs frame components"],
    ) -> tuple[Float[Tensor, "components nodes channels"], Float[Tensor, "2 pairs frame pair_channels"] | None]:
        """Send and add up messages, make features of pairs."""
        h, frame = self.gate_in(x), self.layout
        size = frame.components
        into = turns[:, :size, :size]  # degree 0 of order 0 comes first, here and there
        here, there = (
            [torch.bmm(into, mapped.index_select(0, atoms)) for atoms in index]
            for mapped in (self.map_here(h).transpose(0, 1), self.map_there(h).transpose(0, 1))
        )
        own = torch.stack([here[0], frame.reversed(here[1])])
        other = torch.stack([there[1], frame.reversed(there[0])])
        by_distance = self.of_distance(radial).unflatten(1, (-1, self.copies, self.channels))
        z = self.product(sum_over_degrees(frame, other, by_distance), sum_over_degrees(frame, own, self.weight))
        z = self.gate(z, torch.cat([own[..., 0, :], other[..., 0, :]], dim=-1))
        pairs = None if self.to_pair is None else self.to_pair(z)
        if self.to_message is None:
            return x, pairs
        to_i, to_j = self.to_message(z)
        message = torch.cat([to_i, self.atoms.reversed(to_j)], dim=-1)
        message = torch.bmm(turns[:, : message.shape[1]].transpose(1, 2), message)  # higher orders are zero
        total = message.new_zeros(x.shape[1], self.atoms.components, self.channels)
        for atoms, part in zip(index, message.chunk(2, dim=2), strict=True):
            total = total.index_add(0, atoms, part)
        y = total.transpose(0, 1)
        return torch.cat([y[: len(x)] + x, y[len(x) :]]), pairs
