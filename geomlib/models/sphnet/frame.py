"""The frame of a pair of atoms, where features are complex numbers of the orders |m|."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product import Irrep, width
from geomlib.nn.tensor_product.irreps import offsets

__all__ = ["FrameLayout"]


class FrameLayout(ExactConstants):
    """Where the components of irreps stand in the frame of a pair, and how they get there and back.

    The polar axis of the frame is the direction of the pair. An irrep of degree l is there a complex number for each
    order m ≤ l, which a turn by α around the axis multiplies by exp(imα) and a reflection at a plane through the axis
    conjugates; of m = 0 there is the real part alone, or, for irreps whose parity is not (−1)^l, the imaginary part.
    So what has real weights keeps reflections. Without `parity` all irreps count as having (−1)^l.

    Components in the frame: order after order, all real parts before all imaginary parts, irreps as they are given.

    Args:
        irreps: of the features, those with (−1)^l first and by degree.
        parity: O(3) instead of SO(3).

    Attributes:
        l_max: largest order.
        reals, imaginaries: numbers of real and imaginary parts of each order.
        components: number of components.
    """

    component: Tensor
    sign: Tensor
    half_turn: Tensor

    def __init__(self, irreps: Sequence[Irrep], *, parity: bool) -> None:
        super().__init__()
        self.irreps, self.components = tuple(irreps), width(irreps)
        self.l_max = max(irrep.degree for irrep in irreps)
        self.reals: list[int] = []
        self.imaginaries: list[int] = []
        rows: list[tuple[int, int, int]] = []  # component, its sign, its sign after a half turn around the first axis
        for order in range(self.l_max + 1):
            real: list[tuple[int, int, int]] = []
            imaginary: list[tuple[int, int, int]] = []
            for irrep, begin in zip(irreps, offsets(irreps), strict=False):
                degree = irrep.degree
                if degree < order:
                    continue
                cosine, sine, even = begin + degree + order, begin + degree - order, (-1) ** degree
                natural = not parity or irrep.parity == even
                if order == 0:
                    (real if natural else imaginary).append((cosine, 1, even))
                elif natural:
                    real.append((cosine, 1, even))
                    imaginary.append((sine, 1, -even))
                else:  # times i, so that reflections conjugate here too
                    real.append((sine, -1, -even))
                    imaginary.append((cosine, 1, even))
            self.reals.append(len(real))
            self.imaginaries.append(len(imaginary))
            rows += [*real, *imaginary]
        self._register(rows)

    @on_cpu
    def _register(self, rows: list[tuple[int, int, int]]) -> None:
        component, sign, half_turn = torch.tensor(rows).unbind(1)
        self.register_buffer("component", component, persistent=False)
        self.register_constant("sign", sign.double().unsqueeze(1))
        self.register_constant("half_turn", half_turn.double().unsqueeze(1))

    def turns(self, blocks: Sequence[Float[Tensor, "pairs m m"]]) -> Float[Tensor, "pairs frame components"]:
        """Matrices that take components into the frame; their transposes take them back.

        Args:
            blocks: Wigner matrices of the frames for degrees 0, 1, … (`rotation_blocks`).
        """
        whole = blocks[0].new_zeros(len(blocks[0]), self.components, self.components)
        begin = 0
        for irrep in self.irreps:
            end = begin + irrep.dim
            whole[:, begin:end, begin:end] = blocks[irrep.degree].transpose(1, 2)
            begin = end
        return whole.index_select(1, self.component) * self.sign

    def reversed(self, x: Float[Tensor, "*rows frame channels"]) -> Float[Tensor, "*rows frame channels"]:
        """From the frame of a direction to that of the reversed one and back; higher orders may be absent."""
        return x * self.half_turn[: x.shape[-2]]
