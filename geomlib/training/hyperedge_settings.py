"""What there is to choose when a SHyRe net learns from one source hypergraph, and the fit with a given choice."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning
import torch

from geomlib.data.hypergraphs import Hypergraph, attach
from geomlib.data.module import GraphDataModule
from geomlib.data.stores import MemoryStore
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError
from geomlib.models.shyre.calibration import HeldOut
from geomlib.models.shyre.net import SHyRe
from geomlib.tasks.hyperedges import HyperedgeTask

__all__ = ["HyperedgeSettings", "fit_known", "fit_source", "snapshots"]


@dataclass(frozen=True)
class HyperedgeSettings:
    """A choice of everything that `SHyRe` and `HyperedgeTask` leave open, in units that carry over between sources.

    Args:
        budget: subsets that the sampler may draw, as a multiple of the number of hyperedges of the source.
        features: see `SHyRe`.
        hidden: see `SHyRe`.
        members: see `SHyRe`; a multiple of 5, the number of folds.
        dropout: see `SHyRe`.
        cover_candidates: see `SHyRe`.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        steps: of the optimizer.
        calibrate: see `SHyRe.settle`.
        rule: see `SHyRe.settle`.
        cover: complete the reconstruction to a cover of all edges, see `consistent_cover`.
    """

    budget: float = 15.0
    features: Literal["count", "motif", "structure", "count+structure", "all"] = "all"
    hidden: tuple[int, ...] = (64, 64)
    members: int = 10
    dropout: float = 0.1
    cover_candidates: bool = False
    lr: float = 3e-3
    weight_decay: float = 1e-2
    steps: int = 100
    calibrate: bool = True
    rule: Literal["expected", "half"] = "expected"
    cover: bool = False

    def net_arguments(self, hyperedges: int) -> dict[str, Any]:
        """Arguments of `SHyRe` for a source of so many hyperedges."""
        return {
            "features": self.features,
            "budget": math.ceil(self.budget * hyperedges),
            "hidden": list(self.hidden),
            "members": self.members,
            "dropout": self.dropout,
            "cover_candidates": self.cover_candidates,
        }

    def to_dict(self) -> dict[str, Any]:
        """Name → value, as JSON has them."""
        return {**asdict(self), "hidden": list(self.hidden)}

    def to_recipe(self, hyperedges: int) -> dict[str, Any]:
        """Part of a recipe: what `geomlib fit -c shyre/one-source -c PART` takes from this choice.

        `cover` is no matter of training: it is `geomlib reconstruct --cover`.
        """
        optimizer = {"class_path": "AdamW", "init_args": {"lr": self.lr, "weight_decay": self.weight_decay}}
        task = {
            "net": {"class_path": "SHyRe", "init_args": self.net_arguments(hyperedges)},
            "optimizer": optimizer,
            "calibrate": self.calibrate,
            "rule": self.rule,
        }
        return {
            "model": {"class_path": "HyperedgeTask", "init_args": task},
            "trainer": {"max_epochs": self.steps, "check_val_every_n_epoch": self.steps},
        }


class _Snapshots(lightning.Callback):
    """Copies of the net, and what it says of held-out candidates, after some numbers of steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = set(steps)
        self.kept: dict[int, tuple[SHyRe, HeldOut]] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, HyperedgeTask)
        step, seen = trainer.current_epoch + 1, pl_module.held_out
        if step in self.steps and seen is not None:
            net = copy.deepcopy(pl_module.shyre).cpu().eval().requires_grad_(False)
            self.kept[step] = (net, seen)


def snapshots(
    source: Hypergraph,
    settings: HyperedgeSettings,
    steps: Sequence[int],
    seed: int = 0,
    graph: UndirectedGraph | None = None,
    labelled: float = 1.0,
) -> Iterator[tuple[int, SHyRe, HeldOut]]:
    """One fit on the CPU, looked at after some numbers of steps.

    Args:
        source: what to learn from.
        settings: `steps`, `calibrate`, `rule` and `cover` don't matter here.
        steps: when to look.
        seed: of weights, folds, batches, dropout, covers and partial cells.
        graph: what the hyperedges of the source are looked for in; their projection if not given.
        labelled: share of that graph's hyperedges which the source holds.

    Yields steps, the net, and what its members say of candidates that they were not trained on.

    Raises:
        ConfigError: no steps, or fewer than 1.
    """
    if not steps or min(steps) < 1:
        raise ConfigError(f"steps {list(steps)}: expected numbers of optimizer steps, at least 1")
    data_graph = source.to_data() if graph is None else attach(graph.to_data(), source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SHyRe(**settings.net_arguments(round(len(source) / labelled)), seed=seed)
    task = HyperedgeTask(
        net,
        optimizer=lambda params: torch.optim.AdamW(params, lr=settings.lr, weight_decay=settings.weight_decay),
        seed=seed,
    )
    data = GraphDataModule(
        MemoryStore([data_graph], "source"), val_store=MemoryStore([data_graph.clone()], "source"), batch_size=1
    )
    watch = _Snapshots(steps)
    trainer = lightning.Trainer(
        max_epochs=max(steps),
        check_val_every_n_epoch=math.gcd(*steps),
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
        use_distributed_sampler=False,
        callbacks=[watch],
    )
    trainer.fit(task, data)
    for step in sorted(watch.kept):
        yield (step, *watch.kept[step])


def fit_source(source: Hypergraph, settings: HyperedgeSettings, seed: int = 0) -> SHyRe:
    """A net fitted to one source with given settings, its threshold and calibration set.

    Args:
        source: hypergraph of the domain.
        settings: e.g. of `select_settings`.
        seed: of everything random.
    """
    ((_, net, seen),) = snapshots(source, settings, [settings.steps], seed)
    net.settle(seen, settings.calibrate, settings.rule)
    return net


def fit_known(
    graph: UndirectedGraph, known: Hypergraph, settings: HyperedgeSettings, labelled: float, seed: int = 0
) -> SHyRe:
    """A net for one graph, some of whose own hyperedges are known: the semi-supervised setting, without a source.

    Candidates and features are those of the whole graph; the known hyperedges are the labelled ones, the rest counts
    as not labelled rather than as false. The net's probabilities are those of being labelled, `labelled` times those
    of being a hyperedge, and its threshold is set accordingly.

    Args:
        graph: projected graph.
        known: some of its hyperedges, a random share, on the same node numbers.
        settings: e.g. of `select_settings`.
        labelled: that share, estimated if need be.
        seed: of everything random.

    Raises:
        ConfigError: a share outside (0, 1].
        DataError: hyperedges on other nodes than the graph's.

    Source: Elkan, Noto, KDD 2008, for labels that only a random share of the positives has.
    """
    if not 0 < labelled <= 1:
        raise ConfigError(f"labelled {labelled}: expected the share of hyperedges that is known, above 0 and at most 1")
    ((_, net, seen),) = snapshots(known, settings, [settings.steps], seed, graph, labelled)
    net.settle(seen, True, settings.rule, labelled)
    return net
