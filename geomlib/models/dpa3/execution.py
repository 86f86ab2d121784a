"""How a forward pass is carried out: at once, or in parts that are computed again when they are needed."""

from collections.abc import Callable, Sequence
from functools import cached_property

from torch import Tensor

from geomlib.models.dpa3.geometry import Geometry
from geomlib.models.dpa3.parts import Part, cut, whole
from geomlib.nn.message import Keep
from geomlib.nn.recompute import Piece, piecewise

__all__ = ["Execution"]

_KEEP: dict[str, Keep] = {"autograd": "everything", "none": "preactivations", "angles": "inputs", "layers": "inputs"}


class Execution:
    """Carries out the messages of blocks on a batch.

    Args:
        geometry: of the batch.
        recompute: `none`, `angles` or `layers`.
        budget: angles of a part.
    """

    def __init__(self, geometry: Geometry, recompute: str, budget: int) -> None:
        self.recompute = recompute
        self.keep: Keep = _KEEP[recompute]
        self._geometry, self._budget = geometry, budget

    @cached_property
    def _whole(self) -> Part:
        return whole(self._geometry)

    @cached_property
    def _parts(self) -> list[Part]:
        return cut(self._geometry, self._budget)

    def run(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        inputs: Sequence[tuple[str, Tensor]],
        outputs: Sequence[str],
    ) -> tuple[Tensor, ...]:
        """`function(part, *values)`, on the whole batch or part by part.

        Args:
            function: of a part.
            inputs: level (node, edge, short, angle, neighbor or all) and value of each input.
            outputs: level of each output.
        """
        values = [value for _, value in inputs]
        if self.recompute != "layers":
            return function(self._whole, *values)
        pieces = [
            Piece(
                part,
                tuple(part.rows.get(level) for level, _ in inputs),
                tuple(part.rows[level] for level in outputs),
            )
            for part in self._parts
        ]
        return piecewise(function, pieces, values)
