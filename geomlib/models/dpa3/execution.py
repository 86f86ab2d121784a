"""How a forward pass is carried out: what is kept for derivatives, and what is computed again."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from geomlib.memory import available_memory
from geomlib.models.dpa3.geometry import Geometry
from geomlib.models.dpa3.parts import Part, cut, whole
from geomlib.nn.message import Keep
from geomlib.nn.recompute import Piece, piecewise
from geomlib.nn.tracing import tracing

__all__ = ["RECOMPUTE", "Execution"]

logger = logging.getLogger(__name__)

RECOMPUTE = ("none", "angles", "layers")
"""From fast to lean: keep pre-activations, only the inputs of messages, or only the inputs of blocks."""

_SMALL = 2_500_000
"""Pre-activations of a block up to which autograd's own way is the faster one on a CPU."""
_PART = {"cpu": 50_000, "cuda": 4_000_000}
"""Angles of a part where blocks are computed again."""
_SHARE = 0.8
"""Of the memory that is free, what an evaluation may be estimated to need."""


class Execution:
    """Carries out the messages of blocks on a batch, in the same numbers whichever way.

    Args:
        geometry: of the batch.
        recompute: one of `RECOMPUTE`. In evaluation, where this would not fit into memory, a leaner one is taken.
        layers: number of blocks.
        widths: channels of atoms, edges and angles.
        training: whether derivatives of forces will be asked for.
    """

    def __init__(
        self, geometry: Geometry, recompute: str, layers: int, widths: tuple[int, int, int], *, training: bool
    ) -> None:
        self._geometry = geometry
        self.keep: Keep = "everything"
        self.in_parts = False
        if tracing():
            return
        if not training:
            recompute = _that_fits(geometry, recompute, layers, widths)
        self.in_parts = recompute == "layers"
        if recompute == "angles":
            self.keep = "inputs"
        elif self.in_parts or _preactivations(geometry, widths) > _SMALL:
            self.keep = "preactivations"

    @cached_property
    def _whole(self) -> Part:
        return whole(self._geometry)

    @cached_property
    def _parts(self) -> list[Part]:
        device = self._geometry.center.device.type
        return cut(self._geometry, _PART.get(device, _PART["cuda"]))

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
        if not self.in_parts:
            return function(self._whole, *values)
        pieces = [
            Piece(
                part,
                tuple(part.rows.get(level) for level, _ in inputs),
                tuple(part.range(level) for level in outputs),
            )
            for part in self._parts
        ]
        return piecewise(function, pieces, values)


def _preactivations(geometry: Geometry, widths: tuple[int, int, int]) -> int:
    """Numbers of a block's pre-activations."""
    node, edge, angle = widths
    angles = 0 if geometry.angles is None else len(geometry.angles.source)
    return len(geometry.center) * (node + edge) + angles * (edge + angle)


def _that_fits(geometry: Geometry, recompute: str, layers: int, widths: tuple[int, int, int]) -> str:
    """The first of the ways, from the one asked for to the leanest, that is estimated to fit into memory."""
    needed = _needed(geometry, layers, widths)
    if needed["none"] < 2**28:  # not worth asking the system
        return recompute
    free = _SHARE * _free_memory(geometry.center.device)
    for way in RECOMPUTE[RECOMPUTE.index(recompute) :]:
        if needed[way] <= free or way == RECOMPUTE[-1]:
            if way != recompute:
                logger.info("recompute: %s, for 'none' would take about %.1f GiB", way, needed["none"] / 2**30)
            return way
    return recompute


def _needed(geometry: Geometry, layers: int, widths: tuple[int, int, int]) -> dict[str, float]:
    """Bytes of an evaluation with forces, as measured on water: features that blocks pass on, and what is in work."""
    node, edge, angle = widths
    edges = len(geometry.center)
    angles, short = (0, 0) if geometry.angles is None else (len(geometry.angles.source), len(geometry.angles.edges))
    passed = layers * (edges * edge + angles * angle)
    work = 3 * angles * angle + 3 * edges * (node + edge)
    inputs = layers * (edges * edge + 3 * short * (edge + angle))
    size = geometry.length.element_size()
    indices = 8 * 4 * (angles + edges)
    return {
        "none": size * (passed + work + inputs + layers * _preactivations(geometry, widths)) + indices,
        "angles": size * (passed + work + inputs) + indices,
        "layers": size * (passed + work) + indices,
    }


def _free_memory(device: torch.device) -> int:
    if device.type != "cuda":
        return available_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
