"""How much goes into one batch: limits on atoms, edges and angles, and what fits in memory, by measuring.

The memory of an evaluation is at most linear in the atoms, edges and angles of its batch. So one measured evaluation
bounds any other: a batch that has at most r times as many of each needs at most r times the bytes.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.graphs.line import LineGraph
from geomlib.graphs.spec import GraphSpec
from geomlib.memory import available_memory

__all__ = ["CPU_ATOMS", "Budget", "Size", "is_out_of_memory", "size_of", "total"]

_LOG = logging.getLogger(__name__)

CPU_ATOMS = 512
"""Atoms of a batch that `"auto"` does not exceed on a CPU, where larger batches are no faster."""

_START_ATOMS = 256
"""Atoms of the first batch, before anything has been measured."""

_GROWTH = 4.0
"""A batch may be so many times larger than the largest that has been measured."""

_LEAST_BYTES = {"atoms": 100, "edges": 200, "angles": 50}
"""An evaluation needs no less than this for each: the structure itself."""

_TYPICAL_BYTES = {"atoms": 20_000, "edges": 5_000, "angles": 5_000}
"""What the published DPA3 with six layers needs, where nothing can be counted: compiled nets on a CPU."""

_TRANSIENT = 1.5
"""On a CPU what autograd keeps is counted; the peak is higher by less than this factor."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a structure or batch.

    Args:
        atoms: number of atoms.
        edges: directed edges of the graph.
        angles: ordered pairs of short edges at one atom (rows of the line graph).
    """

    atoms: int = 0
    edges: int = 0
    angles: int = 0

    def __add__(self, other: Self) -> "Size":
        return Size(self.atoms + other.atoms, self.edges + other.edges, self.angles + other.angles)

    def bytes(self, each: Mapping[str, int]) -> int:
        """Sum of the bytes for each atom, edge and angle."""
        return sum(count * getattr(self, name) for name, count in each.items())

    def relative_to(self, other: Self) -> float:
        """How many times as large as `other` this is, in what it has most of."""
        pairs = ((self.atoms, other.atoms), (self.edges, other.edges), (self.angles, other.angles))
        return max(mine / max(its, 1) for mine, its in pairs)


class Budget:
    """Decides how many structures are evaluated at once.

    A single structure always goes, however large it is. With `max_atoms="auto"` a batch is as large as memory allows
    and speed asks for: the first evaluations are measured (`torch.cuda.max_memory_allocated` on a GPU, what autograd
    keeps on a CPU), and a batch must need no more than `fraction` of what is free by what they say. Where memory runs
    out all the same, the limit becomes half of what did not fit.

    Args:
        max_atoms: atoms of a batch, or `"auto"`.
        max_edges: directed edges of a batch; no limit if not given.
        max_angles: angles of a batch; no limit if not given.
        fraction: part of the free memory to use.
        memory: bytes that are free, for `"auto"`; asked of the system or the GPU if not given.

    Raises:
        ConfigError: a limit below 1, or a word that is not `"auto"`.
    """

    def __init__(
        self,
        max_atoms: int | str = "auto",
        max_edges: int | None = None,
        max_angles: int | None = None,
        fraction: float = 0.6,
        memory: int | None = None,
    ) -> None:
        for name, value in (("max_atoms", max_atoms), ("max_edges", max_edges), ("max_angles", max_angles)):
            good = value is None or (name == "max_atoms" and value == "auto")
            if not good and (isinstance(value, str) or value < 1):  # type: ignore[operator]
                raise ConfigError(f"{name} is {value!r}; expected a number of at least 1, or 'auto' for max_atoms")
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction is {fraction}; expected a part of the free memory, above 0 and up to 1")
        self.auto = max_atoms == "auto"
        self._limits = {
            "atoms": None if isinstance(max_atoms, str) else max_atoms,
            "edges": max_edges,
            "angles": max_angles,
        }
        self.fraction = fraction
        self.memory = memory
        self._measured: list[tuple[Size, int]] = []
        self._excess = 1.0  # by which a later measurement was above what the earlier ones said
        self._too_large: list[Size] = []

    @classmethod
    def of(cls, value: "int | str | Budget") -> "Budget":
        """A budget as it is, or one with so many atoms (or `"auto"`)."""
        return value if isinstance(value, Budget) else cls(value)

    @property
    def counts_atoms_only(self) -> bool:
        """Whether edges and angles don't matter."""
        return not self.auto and self._limits["edges"] is None and self._limits["angles"] is None

    def fits(self, size: Size, device: torch.device) -> bool:
        """Whether a batch of this size may be evaluated at once."""
        for name, limit in self._limits.items():
            if limit is not None and getattr(size, name) > limit:
                return False
        if any(size.relative_to(failed) > 0.5 for failed in self._too_large):
            return False
        if not self.auto:
            return True
        if device.type == "cpu" and size.atoms > CPU_ATOMS:
            return False
        if not self._measured:
            return size.atoms <= _START_ATOMS
        if size.relative_to(max(self._measured, key=lambda row: row[1])[0]) > _GROWTH:
            return False
        return self.bytes_for(size) <= self.fraction * self._free(device)

    def bytes_for(self, size: Size) -> float:
        """The most memory that an evaluation of this size needs by what was measured [bytes]; 0 before that."""
        return self._excess * min((size.relative_to(known) * used for known, used in self._measured), default=0.0)

    def parts(self, sizes: Sequence[Size], device: torch.device) -> list[tuple[int, int]]:
        """Consecutive structures that go together, as (first, one past the last)."""
        parts: list[tuple[int, int]] = []
        first, total = 0, Size()
        for position, size in enumerate(sizes):
            if position > first and not self.fits(total + size, device):
                parts.append((first, position))
                first, total = position, Size()
            total = total + size
        if sizes:
            parts.append((first, len(sizes)))
        return parts

    def run(self, size: Size, device: torch.device, evaluate: Callable[[], T], eager: bool = True) -> T:
        """Evaluate a batch of this size and learn from it what memory it took, where that is news.

        Args:
            size: of the batch.
            device: of the nets.
            evaluate: does it.
            eager: whether autograd's tensors can be counted; not so in compiled nets.
        """
        news = all(size.relative_to(known) > 1.5 for known, _ in self._measured)
        if not self.auto or not news:
            return evaluate()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            result = evaluate()
            used = torch.cuda.max_memory_allocated(device) - before
        elif not eager:
            result = evaluate()
            used = size.bytes(_TYPICAL_BYTES)
        else:
            kept: dict[int, int] = {}

            def note(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                result = evaluate()
            used = int(_TRANSIENT * sum(kept.values()))
        self.learn(size, used)
        return result

    def learn(self, size: Size, used: int) -> None:
        """Take note of what an evaluation of this size needed [bytes]."""
        used, expected = max(used, size.bytes(_LEAST_BYTES)), self.bytes_for(size)
        if expected > 0:
            self._excess *= max(1.0, used / expected)
        self._measured.append((size, used))
        _LOG.debug("%s needs %.1f MB", size, used / 1e6)

    def shrink(self, size: Size) -> None:
        """Take note that memory ran out at this size: batches are at most half as large from now on."""
        self._too_large.append(size)
        _LOG.info("memory ran out at %s; going on with batches of half that size", size)

    def _free(self, device: torch.device) -> float:
        """Bytes that are free for evaluations now."""
        if self.memory is not None:
            return self.memory
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return available_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = ("not enough memory", "can't allocate memory", "out of memory", "unable to allocate")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def total(sizes: Iterable[Size]) -> Size:
    """Size of a batch of structures."""
    return sum(sizes, Size())


def size_of(graph: GraphData, spec: GraphSpec) -> Size:
    """Size of a graph that has its edges; the line graph need not be there."""
    lines, angles = spec.find(LineGraph), 0
    if lines is not None and "edge_index" in graph:
        short = graph.edge_index[1][graph.edge_vectors().norm(dim=1) < lines.cutoff]
        angles = int(torch.bincount(short).square().sum())
    return Size(graph.num_nodes, graph.num_edges, angles)
