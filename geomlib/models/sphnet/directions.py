"""Vectors between the atoms of pairs, and spherical harmonics in the order of atomic orbitals."""

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError

__all__ = ["harmonics_of", "in_harmonic_order", "pair_vectors"]

_TO_HARMONICS = [1, 2, 0]
"""Order of Cartesian components in which e3nn's harmonics have the order of PySCF's orbitals."""


def pair_vectors(batch: GraphData, dtype: torch.dtype) -> tuple[Float[Tensor, "pairs 3"], Float[Tensor, " pairs"]]:
    """r_i − r_j of each pair i > j, and its length [Å], computed in float64.

    Raises:
        DataError: two atoms at the same place.
    """
    i, j = batch.pair_index
    vectors = batch.pos.double()[i] - batch.pos.double()[j]
    distance = vectors.norm(dim=1)
    if len(distance) and float(distance.detach().min()) < 1e-6:
        first = int(distance.argmin())
        raise DataError(f"atoms {int(j[first])} and {int(i[first])} of the batch are at the same place")
    return vectors.to(dtype), distance.to(dtype)


def in_harmonic_order(vectors: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    """Vectors (x, y, z) with the order of components that features of degree 1 have."""
    return vectors[:, _TO_HARMONICS]


def harmonics_of(l_max: int, vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "components edges"]:
    """Spherical harmonics of the directions up to a degree, each component with unit variance over the sphere."""
    from e3nn import o3

    turned = in_harmonic_order(vectors)
    return o3.spherical_harmonics(list(range(l_max + 1)), turned, normalize=True, normalization="component").T
