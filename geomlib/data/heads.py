"""Several data sets side by side, one for each head of a net: their graphs, and which of them make which batch."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData
from geomlib.data.samplers import Batch, EpochBatches
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError

__all__ = ["HeadBatches", "HeadStore", "SuccessiveBatches", "draws_by_weight"]


class HeadStore(Store):
    """Stores one after the other; each graph carries the position of its head in the field `head`.

    Unlike those of `ConcatStore` they may differ in their fields; `fields` are those that all have.

    Args:
        stores: pairs of a head's position and its store, at least one.

    Raises:
        DataError: no stores.
    """

    def __init__(self, stores: Sequence[tuple[int, Store]]) -> None:
        if not stores:
            raise DataError("HeadStore needs at least one store")
        self.stores = list(stores)
        shared = set(stores[0][1].fields).intersection(*(store.fields for _, store in stores)) | {"head"}
        self.fields = tuple(name for name in FIELDS if name in shared)
        self.partial = tuple(sorted(shared & {name for _, store in stores for name in store.partial}))
        self.starts = [0, *np.cumsum([len(store) for _, store in stores]).tolist()]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _find(self, index: int) -> tuple[int, Store, int]:
        position = self._position(index)
        which = int(np.searchsorted(self.starts, position, side="right")) - 1
        head, store = self.stores[which]
        return head, store, position - self.starts[which]

    def __getitem__(self, index: int) -> GraphData:
        head, store, position = self._find(index)
        graph = store[position]
        graph.head = torch.tensor([head])
        return graph

    def describe(self, index: int) -> str:
        """See `Store`."""
        _, store, position = self._find(index)
        return store.describe(position)

    def batch(self, indices: Sequence[int]) -> GraphData:
        """See `Store`; the graphs have to be of one store."""
        found = [self._find(index) for index in indices]
        head, store, _ = found[0]
        if any(other is not store for _, other, _ in found):
            raise DataError("a batch of graphs of several data sets can't be gathered at once")
        batch = store.batch([position for _, _, position in found])
        batch.head = torch.full((len(found),), head)
        batch.__dict__["_slice_dict"]["head"] = torch.arange(len(found) + 1)
        batch.__dict__["_inc_dict"]["head"] = torch.zeros(len(found), dtype=torch.int64)
        return batch

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return torch.cat([store.sizes for _, store in self.stores])

    @property
    def members(self) -> list[Store]:
        """See `Store`."""
        return [member for _, store in self.stores for member in store.members]

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        text = " ".join(f"{head} {store.content_hash}" for head, store in self.stores)
        return hashlib.sha256(text.encode()).hexdigest()


class HeadBatches(EpochBatches):
    """Training batches of several data sets, each batch of one of them, in an order drawn for each epoch.

    A set gives the same number of batches in every epoch and is gone through again and again in epochs of its own, so
    that it may be met a fraction of once or several times in an epoch of the whole. All ranks draw the same set at a
    step, so that their gradients reach the same parameters.

    Args:
        sets: batches of each data set.
        draws: how many of each there are in an epoch.
        seed: of the order.
    """

    def __init__(self, sets: Sequence[EpochBatches], draws: Sequence[int], seed: int = 0) -> None:
        super().__init__(sum(batches.graphs for batches in sets), seed, sets[0].rank, sets[0].world_size)
        self.sets, self.draws = list(sets), list(draws)

    def __len__(self) -> int:
        return sum(self.draws)

    def batches(self, epoch: int) -> list[Batch]:
        """See `EpochBatches`; positions count through the sets one after the other."""
        order = np.repeat(np.arange(len(self.sets)), self.draws)
        taken = [iter(self._taken(position, epoch)) for position in range(len(self.sets))]
        return [next(taken[position]) for position in self._generator(epoch).permutation(order).tolist()]

    def _taken(self, position: int, epoch: int) -> list[Batch]:
        """Batches that one set gives in an epoch of the whole."""
        batches, draws = self.sets[position], self.draws[position]
        offset = sum(earlier.graphs for earlier in self.sets[:position])
        passes: dict[int, list[Batch]] = {}
        out = []
        for number in range(epoch * draws, (epoch + 1) * draws):
            own_epoch, place = divmod(number, len(batches))
            if own_epoch not in passes:
                passes[own_epoch] = batches.batches(own_epoch)
            out.append(tuple(offset + graph for graph in passes[own_epoch][place]))
        return out


class SuccessiveBatches(EpochBatches):
    """Batches of several data sets one after the other, for evaluation.

    Args:
        sets: batches of each data set.
    """

    def __init__(self, sets: Sequence[EpochBatches]) -> None:
        super().__init__(sum(batches.graphs for batches in sets), 0, sets[0].rank, sets[0].world_size)
        self.sets = list(sets)

    def __len__(self) -> int:
        return sum(len(batches) for batches in self.sets)

    def batches(self, epoch: int) -> list[Batch]:
        """See `EpochBatches`; positions count through the sets one after the other."""
        out: list[Batch] = []
        offset = 0
        for batches in self.sets:
            out += [tuple(offset + graph for graph in batch) for batch in batches.batches(epoch)]
            offset += batches.graphs
        return out


def draws_by_weight(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Share `total` batches out in proportion to weights, by largest remainder.

    Raises:
        ConfigError: a weight that is not positive, or so small that its set would never be drawn.
    """
    if bad := [name for name, weight in weights.items() if not weight > 0]:
        raise ConfigError(f"the weight of data set '{bad[0]}' is {weights[bad[0]]}; expected a positive number")
    whole = sum(weights.values())
    shares = {name: total * weight / whole for name, weight in weights.items()}
    draws = {name: int(share) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: draws[name] - shares[name])
    for name in rest[: total - sum(draws.values())]:
        draws[name] += 1
    if never := [name for name, number in draws.items() if number == 0]:
        raise ConfigError(
            f"with {total} batches an epoch the data set '{never[0]}' would never be drawn: raise steps_per_epoch "
            "or its weight"
        )
    return draws
