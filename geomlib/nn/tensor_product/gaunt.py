"""Gaunt products: signals on the sphere are multiplied point by point, on a grid or as Fourier series."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from geomlib.nn.constants import ExactConstants, on_cpu
from geomlib.nn.tensor_product.grid import harmonics, quadrature
from geomlib.nn.tensor_product.irreps import Irrep, wigner_3j

__all__ = ["FourierGaunt", "GridGaunt", "VectorGaunt", "vector_basis"]

Irreps = tuple[Sequence[Irrep], Sequence[Irrep], Sequence[Irrep]]


def _top(irreps: Sequence[Irrep]) -> int:
    return max(irrep.degree for irrep in irreps)


class GridGaunt(ExactConstants):
    """z = √(4π) Σ G x y with the Gaunt coefficients G = ∫ Y Y Y, by way of values on a quadrature grid.

    Degrees with an odd sum never couple: no cross products, no pseudoscalars.

    Args:
        irreps: of x, y and the output, each degree at most once.
        latitudes: rings of the grid; the least number that is exact by default.
    Inputs: x, y [components, rows]
    Returns: [components, rows]
    Source: Luo, Chen, Krishnapriyan 2024 (arXiv 2401.10216); Xie et al. 2025 (arXiv 2506.13523).
    """

    x_values: Tensor
    y_values: Tensor
    projection: Tensor

    @on_cpu
    def __init__(self, irreps: Irreps, latitudes: int | None = None) -> None:
        super().__init__()
        points, weights = quadrature(sum(_top(row) for row in irreps), latitudes)
        x, y, out = (harmonics(row, points) for row in irreps)
        self.points = len(points)
        self.register_constant("x_values", x)
        self.register_constant("y_values", y)
        self.register_constant("projection", math.sqrt(4 * math.pi) * (out * weights.unsqueeze(1)).T)

    def forward(self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"]) -> Float[Tensor, "dz rows"]:
        """Multiply."""
        return self.projection @ ((self.x_values @ x) * (self.y_values @ y))

    def flops(self) -> int:
        """Floating-point operations a row."""
        columns = self.x_values.shape[1] + self.y_values.shape[1] + len(self.projection)
        return self.points * (2 * columns + 1)


def _fourier_coefficients(irreps: Sequence[Irrep], top: int) -> Complex[Tensor, "components polar azimuthal"]:
    """Y(θ, φ) = Σ_uv c_uv exp(i(uθ + vφ)) with |u|, |v| ≤ top: by a discrete transform of samples on the torus.

    Beyond θ = π a point goes on along its meridian: (θ, φ) is the direction (2π − θ, φ + π).
    """
    steps = 2 * top + 1
    angles = 2 * math.pi * torch.arange(steps, dtype=torch.float64) / steps
    theta, phi = torch.meshgrid(angles, angles, indexing="ij")
    points = torch.stack([theta.sin() * phi.sin(), theta.cos(), theta.sin() * phi.cos()], dim=-1)
    values = harmonics(irreps, points.reshape(-1, 3)).T.reshape(-1, steps, steps)
    return torch.fft.fft2(values) / steps**2


class FourierGaunt(ExactConstants):
    """The same product as `GridGaunt`, by convolving the coefficients of 2-D Fourier series.

    Args:
        irreps: of x, y and the output.
    Inputs: x, y [components, rows]
    Returns: [components, rows]
    Source: Luo, Chen, Krishnapriyan 2024 (arXiv 2401.10216), section 3.3.
    """

    x_series: Tensor
    y_series: Tensor
    projection: Tensor

    @on_cpu
    def __init__(self, irreps: Irreps) -> None:
        super().__init__()
        x, y, out = irreps
        self.top = _top(x) + _top(y)
        steps = 2 * self.top + 1
        for name, row in (("x_series", x), ("y_series", y)):
            series = _fourier_coefficients(row, _top(row))
            padded = torch.zeros(len(series), steps, steps, dtype=series.dtype)
            index = torch.fft.fftfreq(series.shape[1], 1 / series.shape[1]).round().long() % steps
            padded[:, index.unsqueeze(1), index] = series
            self.register_constant(name, torch.view_as_real(padded.flatten(1).T))
        # a series of degree `top` is projected by a quadrature that is exact for it times Y, on the sphere itself
        points, weights = quadrature(self.top + _top(out))
        theta = points[:, 1].clamp(-1, 1).arccos()
        phi = torch.atan2(points[:, 0], points[:, 2])
        order = torch.fft.fftfreq(steps, 1 / steps, dtype=torch.float64).round()
        polar, azimuthal = torch.polar(torch.ones(1).double(), theta.unsqueeze(1) * order), None
        azimuthal = torch.polar(torch.ones(1).double(), phi.unsqueeze(1) * order)
        waves = (polar.unsqueeze(2) * azimuthal.unsqueeze(1)).flatten(1)  # [points, steps²]
        projection = math.sqrt(4 * math.pi) * (harmonics(out, points) * weights.unsqueeze(1)).T.to(waves.dtype) @ waves
        self.register_constant("projection", torch.view_as_real(projection))
        self.steps = steps

    def forward(self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"]) -> Float[Tensor, "dz rows"]:
        """Multiply."""
        shape = (self.steps, self.steps, -1)
        first = torch.complex(self.x_series[..., 0] @ x, self.x_series[..., 1] @ x).reshape(shape)
        second = torch.complex(self.y_series[..., 0] @ y, self.y_series[..., 1] @ y).reshape(shape)
        product = torch.fft.ifft2(first, dim=(0, 1)) * torch.fft.ifft2(second, dim=(0, 1))
        series = torch.fft.fft2(product, dim=(0, 1)).flatten(0, 1) * self.steps**2
        return self.projection[..., 0] @ series.real - self.projection[..., 1] @ series.imag

    def flops(self) -> int:
        """Floating-point operations a row, an FFT of n points counted as 5 n log2 n."""
        size = self.steps**2
        linear = 4 * size * (self.x_series.shape[1] + self.y_series.shape[1] + len(self.projection))
        return int(linear + 3 * 5 * size * math.log2(size) + 6 * size)


def vector_basis(l_max: int, parity: int) -> tuple[tuple[Irrep, ...], Float[Tensor, "3 harmonics components"]]:
    """Vector fields on the sphere: irreps of 1 ⊗ (0 … l_max), and their orthonormal basis in products e_i Y_lm.

    Args:
        l_max: largest degree of the scalar harmonics.
        parity: −1 for fields of polar vectors, 1 for axial ones.
    """
    irreps, blocks = [], []
    for degree in range(l_max + 1):
        for total in range(abs(degree - 1), degree + 2):
            irreps.append(Irrep(total, parity * (-1) ** degree))
            block = torch.zeros(3, (l_max + 1) ** 2, 2 * total + 1, dtype=torch.float64)
            coupling = wigner_3j(1, degree, total) * math.sqrt(2 * total + 1)
            block[:, degree**2 : (degree + 1) ** 2] = coupling
            blocks.append(block)
    return tuple(irreps), torch.cat(blocks, dim=2)


class VectorGaunt(ExactConstants):
    """Cross product of vector fields on the sphere, √(4π) ∫ B · (V_x × V_y), by way of a quadrature grid.

    It reaches what `GridGaunt` can't, antisymmetric couplings such as 1 ⊗ 1 → 1.

    Args:
        bases: [3, harmonics, components] of x, y and the output; see `vector_basis`.
    Inputs: x, y [components, rows]
    Returns: [components, rows]
    Source: Xie et al. 2025 (arXiv 2506.13523), vector spherical tensor product.
    """

    x_values: Tensor
    y_values: Tensor
    projection: Tensor

    @on_cpu
    def __init__(self, bases: Sequence[Float[Tensor, "3 harmonics components"]]) -> None:
        super().__init__()
        tops = [math.isqrt(basis.shape[1]) - 1 for basis in bases]
        points, weights = quadrature(sum(tops))
        self.points = len(points)
        fields = []
        for basis, top in zip(bases, tops, strict=True):
            values = harmonics([Irrep(degree, 1) for degree in range(top + 1)], points)
            fields.append(torch.einsum("ilk,nl->ink", basis.double(), values).flatten(0, 1))
        x, y, out = fields
        # e3nn's vectors have the components y, z, x: a cyclic permutation, so the cross product looks the same
        self.register_constant("x_values", x)
        self.register_constant("y_values", y)
        projection = math.sqrt(4 * math.pi) * (out * weights.repeat(3).unsqueeze(1)).T
        self.register_constant("projection", projection)

    def forward(self, x: Float[Tensor, "dx rows"], y: Float[Tensor, "dy rows"]) -> Float[Tensor, "dz rows"]:
        """Multiply."""
        first = (self.x_values @ x).view(3, self.points, -1)
        second = (self.y_values @ y).view(3, self.points, -1)
        return self.projection @ torch.cross(first, second, dim=0).flatten(0, 1)

    def flops(self) -> int:
        """Floating-point operations a row."""
        columns = self.x_values.shape[1] + self.y_values.shape[1] + len(self.projection)
        return 3 * self.points * (2 * columns + 3)
