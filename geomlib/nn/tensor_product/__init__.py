"""Equivariant tensor products: several kinds under one interface."""

from geomlib.nn.tensor_product.grid import wigner_matrix
from geomlib.nn.tensor_product.irreps import Irrep, Path, all_paths, natural_irreps, parse_irreps, width
from geomlib.nn.tensor_product.product import KINDS, OPTIONAL_KINDS, TensorProduct
from geomlib.nn.tensor_product.so2 import SO2Convolution

__all__ = [
    "KINDS",
    "OPTIONAL_KINDS",
    "Irrep",
    "Path",
    "SO2Convolution",
    "TensorProduct",
    "all_paths",
    "natural_irreps",
    "parse_irreps",
    "width",
    "wigner_matrix",
]
