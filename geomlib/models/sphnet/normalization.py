"""Constants of products and nets: one normalisation for new models, that of the publication for old weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geomlib.models.sphnet.radial import EXACT_GAIN, PUBLISHED_GAIN
from geomlib.nn.tensor_product import Irrep, Path

__all__ = ["Normalization"]


@dataclass(frozen=True)
class Normalization:
    """How products and nets are scaled.

    Args:
        published: constants of the published code: c_p = √((2l+1)/n_l) ((2l+1)/n)^¼ with n_l paths into degree l and n
            in all, and a sampled gain of the activation. Otherwise c_p = √((2l+1)/n_l), which keeps unit variance.
    """

    published: bool = False

    @property
    def gain(self) -> float:
        """Factor of the activation in nets that make weights."""
        return PUBLISHED_GAIN if self.published else EXACT_GAIN

    def coefficients(self, paths: Sequence[Path], irreps: Sequence[Irrep]) -> list[float]:
        """Factor of each path into the output `irreps`."""
        into = [path.out for path in paths]
        factors = []
        for out in into:
            dim = irreps[out].dim
            factor = math.sqrt(dim / into.count(out))
            factors.append(factor * (dim / len(paths)) ** 0.25 if self.published else factor)
        return factors
