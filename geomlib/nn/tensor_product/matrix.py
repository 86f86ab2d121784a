"""The matrix product: irreps become blocks of matrices that are multiplied."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product.irreps import Irrep, offsets, width, wigner_3j

__all__ = ["MatrixProduct"]

_FACTORS: dict[str, Callable[[int, int, int], float]] = {
    "none": lambda a, b, degree: 1.0,
    "norm": lambda a, b, degree: math.sqrt((2 * a + 1) * (2 * b + 1)),
    "component": lambda a, b, degree: math.sqrt(2 * degree + 1),
}

Irreps = tuple[Sequence[Irrep], Sequence[Irrep], Sequence[Irrep]]


class MatrixProduct(ExactConstants):
    """Irreps as blocks of matrices that are multiplied.

    X[(a m), (b n)] = Σ_l w3j(a, b, l)[m, n, k] x[l k] over all degrees a, b ≤ ⌈(l_x + l_y)/2⌉, and Y likewise; the
    product X·Y is taken apart with the same tensors. With `inversion` only terms with an even a + b + l are kept, so
    that irreps with the parities of spherical harmonics keep theirs.

    Args:
        irreps: of x, y and the output; every degree at most once.
        inversion: whether the irreps have natural parities, (−1)^l.
        factor: of each w3j, `none`, `norm` √((2a+1)(2b+1)) or `component` √(2l+1).
    Inputs: x, y [components, rows]
    Returns: [components, rows]
    Source: Xie et al. 2025 (arXiv 2506.13523), matrix tensor product; Unke and Maennel 2024 (E3x).
    """

    x_tensor: Tensor
    y_tensor: Tensor
    out_tensor: Tensor

    @on_cpu
    def __init__(self, irreps: Irreps, *, inversion: bool = False, factor: str = "none") -> None:
        super().__init__()
        self.inversion = inversion
        self.size = math.ceil((max(irreps[0]).degree + max(irreps[1]).degree) / 2) + 1
        for name, row in zip(("x_tensor", "y_tensor", "out_tensor"), irreps, strict=True):
            self.register_constant(name, self._tensor(row, factor))

    def _tensor(self, irreps: Sequence[Irrep], factor: str) -> Float[Tensor, "entries components"]:
        side = self.size**2
        tensor = torch.zeros(side, side, width(irreps), dtype=torch.float64)
        for irrep, begin in zip(irreps, offsets(irreps), strict=False):
            for a in range(self.size):
                for b in range(self.size):
                    if self.inversion and (a + b + irrep.degree) % 2:
                        continue
                    if abs(a - b) <= irrep.degree <= a + b:
                        block = _FACTORS[factor](a, b, irrep.degree) * wigner_3j(a, b, irrep.degree)
                        tensor[a**2 : (a + 1) ** 2, b**2 : (b + 1) ** 2, begin : begin + irrep.dim] = block
        return tensor.flatten(0, 1)

    def forward(self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"]) -> Float[Tensor, "dz rows"]:
        """Multiply."""
        side = self.size**2
        first = (x.T @ self.x_tensor.T).view(-1, side, side)
        second = (y.T @ self.y_tensor.T).view(-1, side, side)
        return self.out_tensor.T @ torch.bmm(first, second).flatten(1).T

    def flops(self) -> int:
        """Floating-point operations a row."""
        side = self.size**2
        columns = self.x_tensor.shape[1] + self.y_tensor.shape[1] + self.out_tensor.shape[1]
        return 2 * side**2 * columns + 2 * side**3
