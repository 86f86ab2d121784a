"""`GraphDataModule`: stores, splits and batches for Lightning; the net says what structure it needs."""

import logging
import os
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from geomlib.data import cards as cards  # so that every store can be named in a recipe
from geomlib.data.flat import FlatStore
from geomlib.data.graph import GraphData
from geomlib.data.loader import GraphLoader, PreparedGraphs, Structure
from geomlib.data.samplers import BudgetBatches, EpochBatches, EvaluationBatches, FixedBatches
from geomlib.data.splits import Split
from geomlib.data.stores import Store, SubsetStore, common_fields
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError

__all__ = ["GraphDataModule"]

log = logging.getLogger(__name__)

_VALIDATED = 8
"""Graphs of each part that are compared with the field table before a run."""


class GraphDataModule(LightningDataModule):
    """Train, validate, test and predict on stores of graphs.

    The cutoff and all other structure come from the net (`trainer.lightning_module.net.spec`). Training batches depend
    on `(seed, epoch)` only; a run that was stopped in mid-epoch goes on with the batch that would have come next.
    Evaluation covers every graph exactly once on any number of processes.

    Args:
        store: graphs; those of the split's parts, or all for training if there is no split.
        split: which of them are for training, validation and testing.
        batch_size: graphs of a batch of one process; not used for training if `max_atoms` is given.
        max_atoms: atoms of a batch of one process; characters where graphs are SMILES.
        val_store: validation graphs that stand in a store of their own.
        test_store: test graphs that stand in a store of their own.
        eval_batch_size: graphs of a batch in evaluation; `batch_size` by default. `max_atoms` holds there too.
        num_workers: processes that make batches; 0 makes them in the training process.
        cache: keep what was built for each graph in `memory`, on `disk` (shared by runs and workers, in
            `cache_folder`), or `none`.
        cache_folder: where `disk` keeps them; by default `$GEOMLIB_CACHE`, else `~/.cache/geomlib`.
        augment: rotate every training graph at random; where graphs are SMILES, write them at random instead.
        seed: of the order and of the augmentation.

    Raises:
        ConfigError: arguments that contradict each other.
    """

    def __init__(
        self,
        store: Store,
        split: Split | None = None,
        batch_size: int = 16,
        max_atoms: int | None = None,
        val_store: Store | None = None,
        test_store: Store | None = None,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        cache: Literal["memory", "disk", "none"] = "memory",
        cache_folder: str | None = None,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise ConfigError(f"batch_size {batch_size} and eval_batch_size {eval_batch_size}: expected at least 1")
        if cache not in ("memory", "disk", "none"):
            raise ConfigError(f"cache is '{cache}'; expected 'memory', 'disk' or 'none'")
        if num_workers < 0:
            raise ConfigError(f"num_workers is {num_workers}; expected 0 or more")
        self.store, self.split = store, split
        self.batch_size, self.max_atoms = batch_size, max_atoms
        self.val_store, self.test_store = val_store, test_store
        self.eval_batch_size = eval_batch_size
        self.num_workers, self.cache, self.augment, self.seed = num_workers, cache, augment, seed
        self.cache_folder = cache_folder
        # without padding, some process may have no graph to evaluate
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._parts: dict[str, tuple[Store, Tensor]] | None = None
        self._loaders: list[GraphLoader] = []
        self._prepared: dict[int, tuple[Store, FlatStore]] = {}

    @property
    def parts(self) -> dict[str, tuple[Store, Tensor]]:
        """Store and positions of each part that there is: `train`, `val`, `test`."""
        if self._parts is None:
            indices = self.split.indices(self.store) if self.split else {"train": torch.arange(len(self.store))}
            self._parts = {name: (self.store, where) for name, where in indices.items()}
            for name, own in (("val", self.val_store), ("test", self.test_store)):
                if own is None:
                    continue
                if name in self._parts:
                    raise ConfigError(
                        f"both the split and {name}_store give '{name}' graphs: leave one out "
                        f"(e.g. data.split.init_args.{name}: 0)"
                    )
                self._parts[name] = (own, torch.arange(len(own)))
        return self._parts

    def part(self, name: str) -> SubsetStore:
        """Graphs of `train`, `val` or `test` as a store, with labels and without structure.

        Raises:
            ConfigError: there is no such part.
        """
        if name not in self.parts:
            raise ConfigError(
                f"there are no '{name}' graphs; the data have {sorted(self.parts)}: "
                f"give data.split a part '{name}'" + (f" or set data.{name}_store" if name != "train" else "")
            )
        return SubsetStore(*self.parts[name])

    def train_graphs(self) -> SubsetStore:
        """Training graphs in the order of their store, labels only; what `net.fit_statistics` reads."""
        return self.part("train")

    def _spec(self) -> Structure:
        module = getattr(self.trainer, "lightning_module", None)
        spec = getattr(getattr(module, "net", None), "spec", None)
        if spec is None:
            raise ConfigError(
                "the data module reads the structure to build from `trainer.lightning_module.net.spec`, which "
                f"{type(module).__name__} does not have"
            )
        return spec

    def prepare_data(self) -> None:
        """Build the disk cache, on one process, before the others look for it."""
        self._tell_targets()
        if self.cache == "disk":
            for store in {id(store): store for store, _ in self.parts.values()}.values():
                self._disk_cache(store, build=True)

    def setup(self, stage: str) -> None:
        """Check that the first graphs of each part are what the field table says.

        Raises:
            DataError: one is not.
        """
        self._tell_targets()
        for name, (store, indices) in self.parts.items():
            if name == "train" and stage != "fit":
                continue
            for index in indices[:_VALIDATED].tolist():
                store[index].validate(where=store.describe(index), partial=store.partial)

    def _tell_targets(self) -> None:
        """Let tables that were told no targets read those of the net."""
        targets = getattr(getattr(self.trainer, "lightning_module", None), "targets", ())
        for store in (self.store, self.val_store, self.test_store):
            if isinstance(store, TableStore) and store.targets is None and targets:
                store.read_targets([target.name for target in targets])

    def _disk_cache(self, store: Store, *, build: bool) -> Store:
        if id(store) not in self._prepared:
            spec = self._spec()
            root = self.cache_folder or os.environ.get("GEOMLIB_CACHE") or Path.home() / ".cache" / "geomlib"
            path = Path(root) / f"graphs-{store.content_hash[:24]}-{len(store)}-{spec.hash}"
            if build and not path.exists():
                log.info("building the edges of %d graphs into %s", len(store), path)
                try:
                    FlatStore.write(_Building(store, spec), path, progress=True)
                except DataError:
                    if not path.exists():  # else another run has built the same in the meantime
                        raise
            self._prepared[id(store)] = (store, FlatStore(path))
        return self._prepared[id(store)][1]

    def _loader(self, name: str, batches: EpochBatches, *, rotate: bool = False) -> GraphLoader:
        store, indices = self.parts[name]
        prepared = self.cache == "disk" and not (rotate and "smiles" in store.fields)
        dataset = PreparedGraphs(
            self._disk_cache(store, build=True) if prepared else store,
            indices,
            self._spec(),
            remember=self.cache == "memory",
            prepared=prepared,
            rotate_seed=self.seed if rotate else None,
        )
        strategy = getattr(self.trainer, "strategy", None)
        pin = strategy is not None and strategy.root_device.type == "cuda"
        self._loaders.append(GraphLoader(dataset, batches, self.num_workers, pin_memory=pin))
        return self._loaders[-1]

    def teardown(self, stage: str) -> None:
        """Stop the workers."""
        while self._loaders:
            self._loaders.pop().close()

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def train_dataloader(self) -> GraphLoader:
        """Shuffled batches of the training graphs."""
        return self._loader("train", self.train_batches(self.seed, *self._ranks()), rotate=self.augment)

    def train_batches(self, seed: int, rank: int, world_size: int) -> EpochBatches:
        """Which training graphs make which batch."""
        store = self.part("train")
        if self.max_atoms is not None:
            return BudgetBatches(store.sizes, self.max_atoms, seed, rank, world_size)
        return FixedBatches(len(store), self.batch_size, seed, rank, world_size)

    def evaluation_batches(self, name: str, rank: int, world_size: int) -> EpochBatches:
        """Which graphs of a part make which batch in evaluation."""
        batch_size = self.eval_batch_size or (None if self.max_atoms else self.batch_size)
        return EvaluationBatches(self.part(name).sizes, batch_size, self.max_atoms, rank, world_size)

    def _evaluation(self, name: str) -> GraphLoader:
        return self._loader(name, self.evaluation_batches(name, *self._ranks()))

    def val_dataloader(self) -> GraphLoader | list[GraphLoader]:
        """Batches of the validation graphs; none if there is no such part and a fit is running."""
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if "val" not in self.parts and fitting:
            return []
        return self._evaluation("val")

    def test_dataloader(self) -> GraphLoader:
        """Batches of the test graphs."""
        return self._evaluation("test")

    def predict_dataloader(self) -> GraphLoader:
        """Batches of the test graphs, or of all graphs of `store` if there is no test part."""
        self.test_everything()
        return self._evaluation("test")

    def test_everything(self) -> None:
        """Let all graphs of `store` be the test part if there is none."""
        if "test" not in self.parts:
            self._parts = {**self.parts, "test": (self.store, torch.arange(len(self.store)))}


class _Building(Store):
    """Graphs of a store with the edges that a spec builds, as they are asked for."""

    def __init__(self, store: Store, spec: Structure) -> None:
        self.store, self.spec, self.partial = store, spec, store.partial
        self.fields = common_fields([self[0]])

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> GraphData:
        return self.spec.prepare(self.store[index])

    def describe(self, index: int) -> str:
        return self.store.describe(index)
