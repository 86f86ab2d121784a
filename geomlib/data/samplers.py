"""Which graphs make which batch: a function of the seed and the epoch alone, so that a run can be taken up anywhere."""

import bisect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from geomlib.errors import ConfigError, GeomlibWarning

__all__ = ["BudgetBatches", "EpochBatches", "EvaluationBatches", "FixedBatches"]

Batch = tuple[int, ...]


class EpochBatches(ABC):
    """The batches of one rank, epoch by epoch.

    The order depends on `(seed, epoch)` only. All ranks together see the same global batches as one process, every
    rank the same number of them, and that number is the same in every epoch.

    Args:
        graphs: number of graphs.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, graphs: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size} processes")
        self.graphs, self.seed, self.rank, self.world_size = graphs, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next; Lightning calls this."""
        self.epoch = epoch

    @abstractmethod
    def batches(self, epoch: int) -> list[Batch]:
        """Positions of the graphs in each batch of this rank in `epoch`."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches(self.epoch))

    def _generator(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch))


class FixedBatches(EpochBatches):
    """Batches with a fixed number of graphs.

    The order of the epoch is cut into global batches of `batch_size · world_size` graphs and each of those into one
    piece a rank. The last global batch may be smaller; it is shared as evenly as it goes, and left out if it has fewer
    graphs than there are ranks.

    Args:
        graphs: number of graphs.
        batch_size: graphs of one rank's batch.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: a batch size below one, or fewer graphs than ranks.
    """

    def __init__(self, graphs: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(graphs, seed, rank, world_size)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        if graphs < world_size:
            raise ConfigError(f"{graphs} training graphs can't be shared by {world_size} processes")
        self.batch_size = batch_size

    def __len__(self) -> int:
        full, rest = divmod(self.graphs, self.batch_size * self.world_size)
        return full + (rest >= self.world_size)

    def batches(self, epoch: int) -> list[Batch]:
        """See `EpochBatches`."""
        order = self._generator(epoch).permutation(self.graphs)
        stride = self.batch_size * self.world_size
        pieces = []
        for number in range(len(self)):
            everyone = order[number * stride : (number + 1) * stride]
            pieces.append(tuple(np.array_split(everyone, self.world_size)[self.rank].tolist()))
        return pieces


class BudgetBatches(EpochBatches):
    """Batches that hold as many graphs as fit a budget of atoms; every graph exactly once an epoch.

    Graphs are taken in the order of the epoch and put into the first of a few open batches that has room. The number
    of batches is fixed beforehand, so that schedules know it: an epoch that packs better has some batches split, one
    that packs worse is packed by falling size instead, which leaves least room. With several ranks, `max_atoms` is the
    budget of each.

    Args:
        sizes: atoms of each graph.
        max_atoms: budget of one rank's batch.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: a budget below one, or fewer graphs than ranks.
    """

    _OPEN = 8
    _PROBED = 2

    def __init__(
        self, sizes: Int[Tensor, " graphs"], max_atoms: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(sizes), seed, rank, world_size)
        if max_atoms < 1:
            raise ConfigError(f"max_atoms is {max_atoms}; expected at least 1")
        if len(sizes) < world_size:
            raise ConfigError(f"{len(sizes)} training graphs can't be shared by {world_size} processes")
        self.sizes: NDArray[np.int64] = sizes.numpy()
        self.max_atoms = max_atoms
        if (over := int((self.sizes > max_atoms).sum())) > 0:
            warnings.warn(
                f"{over} graphs have more than max_atoms = {max_atoms} atoms (the largest {self.sizes.max()}); "
                "each makes a batch of its own",
                GeomlibWarning,
                stacklevel=2,
            )
        packings = [len(self._by_size(np.random.default_rng(seed)))]
        packings += [
            len(self._in_order(self._generator(epoch).permutation(self.graphs))) for epoch in range(self._PROBED)
        ]
        rounds = -(-max(packings) // world_size)
        self._total = min(rounds, self.graphs // world_size) * world_size

    def __len__(self) -> int:
        return self._total // self.world_size

    def _in_order(self, order: NDArray[np.int64]) -> list[list[int]]:
        """First fit into the few batches that were opened last."""
        closed: list[list[int]] = []
        opened: list[list[int]] = []
        room: list[int] = []
        for graph, size in zip(order.tolist(), self.sizes[order].tolist(), strict=True):
            place = next((k for k, left in enumerate(room) if size <= left), None)
            if place is None:
                if len(opened) == self._OPEN:
                    fullest = room.index(min(room))
                    closed.append(opened.pop(fullest))
                    room.pop(fullest)
                opened.append([graph])
                room.append(self.max_atoms - size)
            else:
                opened[place].append(graph)
                room[place] -= size
        return closed + opened

    def _by_size(self, generator: np.random.Generator) -> list[list[int]]:
        """Best fit by falling size, equal sizes in random order; how many batches that makes depends on no order."""
        shuffled = generator.permutation(self.graphs)
        order = shuffled[np.argsort(-self.sizes[shuffled], kind="stable")]
        packed: list[list[int]] = []
        room: list[tuple[int, int]] = []  # ascending: room left, batch
        for graph, size in zip(order.tolist(), self.sizes[order].tolist(), strict=True):
            place = bisect.bisect_left(room, (size, -1))
            if place == len(room):
                packed.append([graph])
                bisect.insort(room, (self.max_atoms - size, len(packed) - 1))
            else:
                left, batch = room.pop(place)
                packed[batch].append(graph)
                bisect.insort(room, (left - size, batch))
        return packed

    def batches(self, epoch: int) -> list[Batch]:
        """See `EpochBatches`."""
        generator = self._generator(epoch)
        packed = self._in_order(generator.permutation(self.graphs))
        if len(packed) > self._total:
            packed = self._by_size(generator)
        while len(packed) < self._total:
            largest = max(range(len(packed)), key=lambda k: (len(packed[k]), -k))
            half = len(packed[largest]) // 2
            packed.append(packed[largest][half:])
            packed[largest] = packed[largest][:half]
        order = generator.permutation(len(packed))[: self._total]
        return [tuple(packed[k]) for k in order[self.rank :: self.world_size].tolist()]


class EvaluationBatches(EpochBatches):
    """Graphs in the order of the store, each exactly once over all ranks: nothing is repeated to fill up.

    Ranks may have different numbers of batches, and none if there are more ranks than graphs.

    Args:
        sizes: atoms of each graph.
        batch_size: graphs of a batch.
        max_atoms: close a batch before it has more atoms than this.
        rank: of this process.
        world_size: number of processes.

    Raises:
        ConfigError: a batch size below one.
    """

    def __init__(
        self,
        sizes: Int[Tensor, " graphs"],
        batch_size: int | None,
        max_atoms: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(sizes), 0, rank, world_size)
        if (batch_size is not None and batch_size < 1) or (max_atoms is not None and max_atoms < 1):
            raise ConfigError(f"batch size {batch_size} and max_atoms {max_atoms}; expected at least 1")
        self._batches: list[Batch] = []
        current: list[int] = []
        atoms = 0
        for position in range(rank, len(sizes), world_size):
            size = int(sizes[position])
            full = batch_size is not None and len(current) == batch_size
            if current and (full or (max_atoms is not None and atoms + size > max_atoms)):
                self._batches.append(tuple(current))
                current, atoms = [], 0
            current.append(position)
            atoms += size
        if current:
            self._batches.append(tuple(current))

    def __len__(self) -> int:
        return len(self._batches)

    def batches(self, epoch: int) -> list[Batch]:
        """See `EpochBatches`."""
        return self._batches
