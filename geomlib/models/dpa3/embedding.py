"""Element, charge and spin embeddings of DPA3."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.data.elements import SYMBOLS, atomic_numbers

__all__ = ["IndexEmbedding", "TypeEmbedding", "electron_configuration"]

_SUBSHELLS = (
    *("1s", "2s", "2p", "3s", "3p", "3d", "4s", "4p", "4d", "4f"),
    *("5s", "5p", "5d", "5f", "6s", "6p", "6d", "7s", "7p"),
)
_ORBITALS = {"s": 1, "p": 3, "d": 5, "f": 7}

# ground states that differ from filling by n + l
_EXCEPTIONS: dict[str, dict[str, int]] = {
    "Cr": {"3d": 5, "4s": 1},
    "Cu": {"3d": 10, "4s": 1},
    "Nb": {"4d": 4, "5s": 1},
    "Mo": {"4d": 5, "5s": 1},
    "Ru": {"4d": 7, "5s": 1},
    "Rh": {"4d": 8, "5s": 1},
    "Pd": {"4d": 10, "5s": 0},
    "Ag": {"4d": 10, "5s": 1},
    "La": {"4f": 0, "5d": 1},
    "Ce": {"4f": 1, "5d": 1},
    "Gd": {"4f": 7, "5d": 1},
    "Pt": {"5d": 9, "6s": 1},
    "Au": {"5d": 10, "6s": 1},
    "Ac": {"5f": 0, "6d": 1},
    "Th": {"5f": 0, "6d": 2},
    "Pa": {"5f": 2, "6d": 1},
    "U": {"5f": 3, "6d": 1},
    "Np": {"5f": 4, "6d": 1},
    "Cm": {"5f": 7, "6d": 1},
    "Ds": {"6d": 9, "7s": 1},
    "Rg": {"6d": 10, "7s": 1},
}


def electron_configuration(symbol: str) -> list[int]:
    """Occupation of the 118 spin orbitals from 1s to 7p by the ground state of an element, as ±1.

    Every orbital has two entries: −1 −1 empty, −1 +1 singly, +1 +1 doubly occupied; orbitals of a subshell are filled
    singly first (Hund).

    Raises:
        UnknownElement: `symbol` is no element.
    """
    (left,) = atomic_numbers([symbol])
    occupation = dict.fromkeys(_SUBSHELLS, 0)
    for shell in sorted(_SUBSHELLS, key=lambda name: (int(name[0]) + "spdf".index(name[1]), int(name[0]))):
        occupation[shell] = min(left, 2 * _ORBITALS[shell[1]])
        left -= occupation[shell]
    occupation.update(_EXCEPTIONS.get(symbol, {}))
    entries: list[int] = []
    for shell in _SUBSHELLS:
        orbitals, electrons = _ORBITALS[shell[1]], occupation[shell]
        for orbital in range(orbitals):
            entries += [1 if electrons > orbitals + orbital else -1, 1 if electrons > orbital else -1]
    return entries


class TypeEmbedding(nn.Module):
    """One vector per element: a linear map of its one-hot code or of its electron configuration.

    Where the input width is the output width, or half of it, the input itself is added (once, or twice side by side):
    a residual rule of the reference that matters when the number of elements happens to be `dim` or `dim`/2.

    Args:
        elements: chemical symbols; the position is the type index.
        dim: width of the vectors.
        kind: `"table"` or `"electron_configuration"`.
        bias: whether the linear map has one.
    """

    code: Tensor

    def __init__(self, elements: Sequence[str], dim: int, kind: str = "table", *, bias: bool = False) -> None:
        super().__init__()
        if kind == "table":
            code = torch.eye(len(elements))
        else:
            rows = torch.tensor([electron_configuration(symbol) for symbol in elements], dtype=torch.float64)
            code = (rows / (len(SYMBOLS) - 1) ** 0.5).to(torch.float64)
        self.kind = kind
        self.register_buffer("code", code, persistent=False)
        self.linear = nn.Linear(code.shape[1], dim, bias=bias)
        repeats, rest = divmod(dim, code.shape[1])
        self.residual_repeats = repeats if rest == 0 and repeats in (1, 2) else 0

    def forward(self) -> Float[Tensor, "elements dim"]:
        """Table of all element vectors."""
        code = self.code.to(self.linear.weight.dtype)
        table = self.linear(code)
        return table + code.repeat(1, self.residual_repeats) if self.residual_repeats else table


class IndexEmbedding(nn.Module):
    """A bias-free table of `rows` vectors (total charge, spin) with the residual rule of `TypeEmbedding`."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(rows, dim, bias=False)
        repeats, rest = divmod(dim, rows)
        self.residual_repeats = repeats if rest == 0 and repeats in (1, 2) else 0

    def forward(self, index: Int[Tensor, " graphs"]) -> Float[Tensor, "graphs dim"]:
        """Vectors of the given rows."""
        table = self.linear.weight.mT
        if self.residual_repeats:
            table = table + torch.eye(len(table)).to(table).repeat(1, self.residual_repeats)
        return table.index_select(0, index)
