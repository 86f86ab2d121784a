"""Real spherical harmonics on quadrature grids of the sphere that are exact up to a degree."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.nn.constants import on_cpu
from geomlib.nn.tensor_product.irreps import Irrep

__all__ = ["harmonics", "quadrature", "spherical_harmonics_at", "wigner_matrix"]


@functools.lru_cache(maxsize=64)
@on_cpu
def quadrature(degree: int, latitudes: int | None = None) -> tuple[Tensor, Tensor]:
    """Points [n, 3] and weights [n] that integrate polynomials up to `degree` over the unit sphere; weights sum to 4π.

    Gauss-Legendre nodes in the polar direction, ⌈(degree + 1)/2⌉ of them unless `latitudes` says otherwise, and
    degree + 1 equal steps around it.
    """
    rings = math.ceil((degree + 1) / 2) if latitudes is None else latitudes
    heights, ring_weights = np.polynomial.legendre.leggauss(rings)
    azimuths = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    radius = np.sqrt(1 - heights**2)
    points = np.stack(
        [
            radius[:, None] * np.sin(azimuths),
            np.broadcast_to(heights[:, None], (rings, degree + 1)),
            radius[:, None] * np.cos(azimuths),
        ],
        axis=-1,
    )
    weights = np.repeat(ring_weights * 2 * np.pi / (degree + 1), degree + 1)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(weights)


def spherical_harmonics_at(degrees: Sequence[int], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n components"]:
    """Orthonormal real spherical harmonics (∫ Y² = 1) of the given degrees, in e3nn's order of components."""
    from e3nn import o3

    values = [o3.spherical_harmonics(degree, points, normalize=True, normalization="integral") for degree in degrees]
    return torch.cat(values, dim=1)


def harmonics(irreps: Sequence[Irrep], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n components"]:
    """`spherical_harmonics_at` for the degrees of irreps."""
    return spherical_harmonics_at([irrep.degree for irrep in irreps], points)


@on_cpu
def wigner_matrix(irreps: Sequence[Irrep], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "components components"]:
    """Block-diagonal representation of a rotation or reflection, float64.

    From harmonics at turned points, D = ∫ Y(R p) Y(p)ᵀ, for e3nn's own goes through single precision.

    Args:
        irreps: one copy of each.
        rotation: orthogonal matrix acting on vectors in the order of the components of degree 1.
    """
    rotation = rotation.double()
    sign = 1.0 if float(torch.linalg.det(rotation)) > 0 else -1.0
    blocks = []
    for irrep in irreps:
        points, weights = quadrature(2 * irrep.degree)
        turned = spherical_harmonics_at([irrep.degree], points @ (sign * rotation).T)
        block = (turned * weights.unsqueeze(1)).T @ spherical_harmonics_at([irrep.degree], points)
        blocks.append(block if sign > 0 else irrep.parity * block)
    return torch.block_diag(*blocks)
