"""From atomic numbers to the type index of a net."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from geomlib.data.elements import SYMBOLS, atomic_numbers
from geomlib.errors import UnknownElement
from geomlib.nn.tracing import tracing

__all__ = ["ElementIndex"]


class ElementIndex(nn.Module):
    """Position of each atom's element among those that a net knows.

    Args:
        elements: chemical symbols; the position is the type index.
    """

    type_of_number: Tensor

    def __init__(self, elements: Sequence[str]) -> None:
        super().__init__()
        self.elements = list(elements)
        types = torch.full((len(SYMBOLS),), -1, dtype=torch.int64)
        types[torch.tensor(atomic_numbers(self.elements))] = torch.arange(len(self.elements))
        self.register_buffer("type_of_number", types, persistent=False)

    def forward(self, atomic_number: Int[Tensor, " nodes"]) -> Int[Tensor, " nodes"]:
        """Type index of each atom; where it is traced, unknown elements are not looked for.

        Raises:
            UnknownElement: an element that the net was not built for.
        """
        types = self.type_of_number[atomic_number]
        if not tracing() and bool((types < 0).any()):
            unknown = sorted({SYMBOLS[number] for number in atomic_number[types < 0].tolist()})
            raise UnknownElement(f"elements {unknown} are not among those of the net: {self.elements}")
        return types
