"""From positions to batches: the data set that workers run, and a loader that can be taken up in mid-epoch."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from geomlib.data.augmentation import random_writing, rotate
from geomlib.data.graph import GraphData, collate
from geomlib.data.samplers import EpochBatches
from geomlib.data.stores import Store
from geomlib.errors import FileFormatError

__all__ = ["GraphLoader", "PreparedGraphs", "Request", "Structure"]


class Structure(Protocol):
    """What data asks of a net's spec (`geomlib.graphs.spec.GraphSpec`, one layer up)."""

    @property
    def hash(self) -> str:
        """Key of cached structures."""
        ...

    def prepare(self, graph: GraphData) -> GraphData:
        """Add what is built for one graph at a time."""
        ...

    def complete(self, batch: GraphData) -> GraphData:
        """Add what is built for a whole batch."""
        ...

    @property
    def smiles_form(self) -> str:
        """How SMILES are written before structure is built of them: `as-is`, `canonical` or `kekule`."""
        ...

    def as_written(self) -> Self:
        """The same for SMILES that are written already."""
        ...


class Request(NamedTuple):
    """One batch to make.

    Args:
        epoch: for random augmentation.
        positions: of the graphs in the data set.
    """

    epoch: int
    positions: tuple[int, ...]


class PreparedGraphs(Dataset[GraphData]):
    """Batches of a store with the structure that a net's spec asks for.

    Args:
        store: where the graphs come from; already prepared if it holds edges.
        indices: which of them; also their `sample_id`.
        spec: structure to build.
        remember: keep prepared graphs in memory (of each worker).
        prepared: the store holds what `spec.prepare` makes.
        rotate_seed: rotate every graph at random, or write its SMILES at random where it is text, drawn from this seed,
            the epoch and the sample; None does not.
    """

    def __init__(
        self,
        store: Store,
        indices: Tensor,
        spec: Structure,
        *,
        remember: bool = False,
        prepared: bool = False,
        rotate_seed: int | None = None,
    ) -> None:
        self.store, self.indices, self.spec = store, indices, spec
        self.rewritten = rotate_seed is not None and "smiles" in store.fields
        if self.rewritten:
            self._kekule, self.spec, remember = spec.smiles_form == "kekule", spec.as_written(), False
        self.prepared, self.rotate_seed = prepared, rotate_seed
        self._memory: dict[int, GraphData] | None = {} if remember and not prepared else None

    def __len__(self) -> int:
        return len(self.indices)

    def _graph(self, sample: int, epoch: int) -> GraphData:
        if self._memory is not None and sample in self._memory:
            return self._memory[sample]
        graph = self.store[sample]
        if self.rewritten and self.rotate_seed is not None:
            graph = random_writing(graph, self.rotate_seed, epoch, sample, kekule=self._kekule)
        if not self.prepared:
            self.spec.prepare(graph)
        graph.sample_id = torch.tensor([sample])
        if self._memory is not None:
            self._memory[sample] = graph
        return graph

    def __getitem__(self, request: Request) -> GraphData:
        samples = self.indices[list(request.positions)]
        if self.prepared:
            batch = self.store.batch(samples.tolist())
            batch.sample_id = samples
            batch.__dict__["_slice_dict"]["sample_id"] = torch.arange(len(samples) + 1)
            batch.__dict__["_inc_dict"]["sample_id"] = torch.zeros(len(samples), dtype=torch.int64)
        else:
            batch = collate([self._graph(sample, request.epoch) for sample in samples.tolist()])
        if self.rotate_seed is not None and not self.rewritten:
            rotate(batch, self.rotate_seed, request.epoch)
        return self.spec.complete(batch)


class _Requests:
    """A sampler of `Request`s of one epoch, from some batch on."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches
        self.skip = 0

    def __len__(self) -> int:
        return len(self.batches) - self.skip

    def __iter__(self) -> Iterator[Request]:
        # a list, since the epoch may change while workers still take from this iterator
        epoch = self.batches.epoch
        return iter([Request(epoch, positions) for positions in self.batches.batches(epoch)[self.skip :]])


def _as_is(batch: GraphData) -> GraphData:
    return batch


class GraphLoader:
    """Batches in the order of `batches`, made in this process or in workers; resumable.

    Not a `DataLoader`, so that Lightning neither exchanges its sampler nor pads it; the ranks share the work through
    `batches`. `state_dict` counts the batches that were handed out, not those that workers have made in advance.

    Args:
        dataset: makes a batch from a `Request`.
        batches: which graphs make which batch.
        num_workers: processes that make batches; 0 makes them here.
        pin_memory: put batches into page-locked memory.
    """

    def __init__(
        self, dataset: PreparedGraphs, batches: EpochBatches, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = _Epoch(batches)
        self.num_workers = num_workers
        self._batches = batches
        self._requests = _Requests(batches)
        self._loader: DataLoader[GraphData] = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._requests,
            collate_fn=_as_is,  # type: ignore[arg-type]  # without batching it gets what the data set gives
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # workers' base seed: else drawn from the global generator
        )
        self._epoch = 0
        self._handed_out = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[GraphData]:
        # Lightning asks for the iterator before it sets the epoch: nothing may be decided before the first `next`
        return self._run()

    def _run(self) -> Iterator[GraphData]:
        self._epoch, self._handed_out = self._batches.epoch, 0
        if self._resume is not None and self._resume[0] == self._epoch:
            self._handed_out = self._resume[1]
        self._resume = None
        self._requests.skip = self._handed_out
        for batch in self._loader:
            self._handed_out += 1
            yield batch

    @property
    def _iterator(self) -> Any:
        # Lightning shuts the workers of whatever has an attribute of this name down when a loop ends or fails
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: None) -> None:
        self._loader._iterator = iterator

    def close(self) -> None:
        """Stop the workers; the next iteration starts new ones.

        Left to the garbage collector, which closes their queues first, each would be waited for in vain for 5 s.
        """
        if isinstance(self._loader._iterator, _MultiProcessingDataLoaderIter):
            self._loader._iterator._shutdown_workers()
        self._loader._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches handed out in it, and what the order depends on; plain numbers."""
        if self._resume is not None:  # nothing was asked for since the state was loaded
            epoch, handed_out = self._resume
        else:
            epoch, handed_out = self._epoch, self._handed_out
        return {"epoch": epoch, "batches": handed_out, "graphs": self._batches.graphs, "total": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that `state` counts.

        Raises:
            FileFormatError: the state belongs to other data or another batch size.
        """
        here = {"graphs": self._batches.graphs, "total": len(self)}
        if any(state.get(name) != value for name, value in here.items()) and state.get("batches", 0) < state.get(
            "total", 0
        ):
            raise FileFormatError(
                f"the checkpoint stopped in mid-epoch with {state.get('graphs')} training graphs in "
                f"{state.get('total')} batches, but now there are {here['graphs']} in {here['total']}: "
                "resume with the same data, batch size and number of processes"
            )
        self._resume = (int(state["epoch"]), int(state["batches"]))


class _Epoch:
    """Lightning calls `set_epoch` on `loader.batch_sampler.sampler`."""

    def __init__(self, sampler: EpochBatches) -> None:
        self.sampler = sampler
