"""Irreducible representations of O(3) and the couplings between them."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from geomlib.errors import ConfigError
from geomlib.nn.constants import on_cpu

__all__ = ["Irrep", "Path", "all_paths", "degrees", "natural_irreps", "offsets", "parse_irreps", "width", "wigner_3j"]

_IRREP = re.compile(r"(?:1x)?(\d+)([eo])")


class Irrep(NamedTuple):
    """One irreducible representation: `2·degree + 1` components that inversion multiplies by `parity`."""

    degree: int
    parity: int

    @property
    def dim(self) -> int:
        """Number of components."""
        return 2 * self.degree + 1

    def __str__(self) -> str:
        return f"{self.degree}{'e' if self.parity == 1 else 'o'}"


@dataclass(frozen=True, slots=True)
class Path:
    """One coupling x ⊗ y → out; the numbers are positions in the three lists of irreps."""

    x: int
    y: int
    out: int


def parse_irreps(irreps: str | Sequence[Irrep]) -> tuple[Irrep, ...]:
    """Irreps from `"0e+1o+2e"`; every one stands for one copy in each channel.

    Raises:
        ConfigError: something else, e.g. a multiplicity, which is the number of channels here.
    """
    if not isinstance(irreps, str):
        return tuple(Irrep(*irrep) for irrep in irreps)
    found = []
    for word in irreps.replace(" ", "").split("+"):
        match = _IRREP.fullmatch(word)
        if match is None:
            raise ConfigError(
                f"irreps '{irreps}': '{word}' is not a degree with a parity, such as 1o (multiplicities are channels)"
            )
        found.append(Irrep(int(match[1]), 1 if match[2] == "e" else -1))
    return tuple(found)


def natural_irreps(l_max: int, *, parity: bool = True) -> tuple[Irrep, ...]:
    """Degrees 0 to `l_max`, with the parities (−1)^l of spherical harmonics, or all even (SO(3) only)."""
    return tuple(Irrep(degree, (-1) ** degree if parity else 1) for degree in range(l_max + 1))


def degrees(irreps: Sequence[Irrep]) -> list[int]:
    """Degree of each irrep."""
    return [irrep.degree for irrep in irreps]


def width(irreps: Sequence[Irrep]) -> int:
    """Number of components of all irreps."""
    return sum(irrep.dim for irrep in irreps)


def offsets(irreps: Sequence[Irrep]) -> list[int]:
    """First component of each irrep, and the number of all components."""
    ends = [0]
    for irrep in irreps:
        ends.append(ends[-1] + irrep.dim)
    return ends


def all_paths(x: Sequence[Irrep], y: Sequence[Irrep], out: Sequence[Irrep]) -> tuple[Path, ...]:
    """Every coupling that the triangle rule and parity allow, ordered by x, then y, then out."""
    return tuple(
        Path(i, j, k)
        for i, a in enumerate(x)
        for j, b in enumerate(y)
        for k, c in enumerate(out)
        if abs(a.degree - b.degree) <= c.degree <= a.degree + b.degree and a.parity * b.parity == c.parity
    )


@functools.lru_cache(maxsize=4096)
@on_cpu
def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """Real coupling tensor [2·l1+1, 2·l2+1, 2·l3+1] of norm 1, as e3nn has it, float64; not to be changed in place."""
    from e3nn import o3

    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
