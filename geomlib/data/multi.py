"""`MultiDataModule`: several data sets at once, one for each head of a net."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from geomlib.data.flat import FlatStore
from geomlib.data.heads import HeadBatches, HeadStore, SuccessiveBatches, draws_by_weight
from geomlib.data.loader import GraphLoader
from geomlib.data.module import GraphDataModule
from geomlib.data.samplers import EpochBatches
from geomlib.data.stores import Store, SubsetStore
from geomlib.errors import ConfigError, nearest

__all__ = ["MultiDataModule"]

_OF_THE_WHOLE = {"num_workers": 0, "cache": "memory", "cache_folder": None, "augment": False, "seed": 0}
"""Arguments that a set leaves to the whole, and their defaults."""


class MultiDataModule(GraphDataModule):
    """Train, validate and test on several data sets, one for each head of the net.

    Each training batch is of one set. How many of an epoch are of which set is fixed, in proportion to `weights`; their
    order, and the batches of each set, depend on `(seed, epoch)` only, as in `GraphDataModule`, so that a stopped run
    goes on with the batch that would have come next. Validation and test cover every graph of every set once.

    Args:
        sets: head → its data, a `GraphDataModule` each, of which store, split and batch sizes count.
        weights: head → how often it is drawn, relative to the others; by default its number of training graphs.
        epochs: head → how often its training graphs are gone through in an epoch of the whole; instead of `weights`.
        steps_per_epoch: training batches of an epoch; by default as many as the sets have together.
        num_workers: processes that make batches; 0 makes them in the training process.
        cache: keep built edges in `memory`, on `disk` or `none`.
        cache_folder: where `disk` keeps them.
        augment: rotate every training graph at random.
        seed: of the order and of the rotations.

    Raises:
        ConfigError: arguments that contradict each other.
    """

    def __init__(
        self,
        sets: dict[str, GraphDataModule],
        weights: dict[str, float] | None = None,
        epochs: dict[str, float] | None = None,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
        cache: Literal["memory", "disk", "none"] = "memory",
        cache_folder: str | None = None,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        if not sets:
            raise ConfigError("MultiDataModule has no sets: give one for each head of the net")
        self.sets = {head: sets[head] for head in sorted(sets)}
        for head, data in self.sets.items():
            for name, default in _OF_THE_WHOLE.items():
                if getattr(data, name) != default:
                    raise ConfigError(f"data.sets.{head} has {name}: set it once for all sets, as data.{name}")
        if epochs is not None and (weights is not None or steps_per_epoch is not None):
            raise ConfigError("MultiDataModule: epochs say what weights and steps_per_epoch do; give either")
        for given in (weights, epochs):
            self._check_heads(given)
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ConfigError(f"steps_per_epoch is {steps_per_epoch}; expected at least 1")
        self.weights, self.epochs, self.steps_per_epoch = weights, epochs, steps_per_epoch
        everything = HeadStore([(position, data.store) for position, data in enumerate(self.sets.values())])
        super().__init__(
            everything, num_workers=num_workers, cache=cache, cache_folder=cache_folder, augment=augment, seed=seed
        )

    def _check_heads(self, given: Mapping[str, float] | None) -> None:
        for head in given or ():
            if head not in self.sets:
                raise ConfigError(f"there is no data set '{head}'{nearest(head, self.sets)}; sets: {list(self.sets)}")
        if given is not None and (missing := [head for head in self.sets if head not in given]):
            raise ConfigError(f"data set '{missing[0]}' has no weight, or number of epochs: name all of them or none")

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the sets, sorted; the position among them is the field `head` of a graph."""
        return tuple(self.sets)

    @property
    def parts(self) -> dict[str, tuple[Store, Tensor]]:
        """Stores of all sets, one after the other, and positions in them, of each part that some set has."""
        if self._parts is None:
            names = dict.fromkeys(name for data in self.sets.values() for name in data.parts)
            self._parts = {name: self._joined(name) for name in names}
        return self._parts

    def _joined(self, name: str) -> tuple[Store, Tensor]:
        numbered = [(position, data) for position, data in enumerate(self.sets.values()) if name in data.parts]
        store = HeadStore([(position, data.parts[name][0]) for position, data in numbered])
        pairs = zip(store.starts, numbered, strict=False)
        return store, torch.cat([start + data.parts[name][1] for start, (_, data) in pairs])

    def head_part(self, head: str, name: str) -> SubsetStore | None:
        """Graphs of one set, without the field `head`; None if it has no such part."""
        data = self.sets[head]
        return data.part(name) if name in data.parts else None

    def setup(self, stage: str) -> None:
        """Check the first graphs of each part of each set."""
        for data in self.sets.values():
            data.setup(stage)

    def _disk_cache(self, store: Store, *, build: bool) -> Store:
        assert isinstance(store, HeadStore)
        return HeadStore([(head, self._member_cache(member, build=build)) for head, member in store.stores])

    def _member_cache(self, store: Store, *, build: bool) -> FlatStore:
        found = super()._disk_cache(store, build=build)
        assert isinstance(found, FlatStore)
        return found

    def _of_sets(self, name: str) -> dict[str, GraphDataModule]:
        lacking = [head for head, data in self.sets.items() if name not in data.parts]
        if name == "train" and lacking:
            raise ConfigError(
                f"data set '{lacking[0]}' has no training graphs; it has {sorted(self.sets[lacking[0]].parts)}"
            )
        self.part(name)  # says what is missing if none has it
        return {head: data for head, data in self.sets.items() if name in data.parts}

    def draws(self, batches: Mapping[str, EpochBatches]) -> dict[str, int]:
        """Training batches of each set in an epoch.

        Args:
            batches: head → the batches of its set.
        """
        if self.epochs is not None:
            if bad := [head for head, number in self.epochs.items() if not number > 0]:
                raise ConfigError(f"epochs of '{bad[0]}' is {self.epochs[bad[0]]}; expected a positive number")
            return {head: max(1, round(self.epochs[head] * len(rows))) for head, rows in batches.items()}
        weights = self.weights or {head: float(rows.graphs) for head, rows in batches.items()}
        total = self.steps_per_epoch or sum(len(rows) for rows in batches.values())
        return draws_by_weight({head: weights[head] for head in batches}, total)

    def train_dataloader(self) -> GraphLoader:
        """Shuffled batches of the training graphs, each of one set."""
        batches = {head: data.train_batches(self.seed, *self._ranks()) for head, data in self._of_sets("train").items()}
        drawn = self.draws(batches)
        return self._loader(
            "train",
            HeadBatches(list(batches.values()), [drawn[head] for head in batches], self.seed),
            rotate=self.augment,
        )

    def _evaluation(self, name: str) -> GraphLoader:
        sets = [data.evaluation_batches(name, *self._ranks()) for data in self._of_sets(name).values()]
        return self._loader(name, SuccessiveBatches(sets))

    def predict_dataloader(self) -> GraphLoader:
        """Batches of the test graphs, of all graphs for a set without a test part."""
        for data in self.sets.values():
            data.test_everything()
        self._parts = None
        return self._evaluation("test")
