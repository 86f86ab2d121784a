"""`Task`: a net with its loss terms, metrics and optimizer, as Lightning trains it."""

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from geomlib.data.elements import SYMBOLS, atomic_numbers
from geomlib.data.fields import field
from geomlib.data.graph import GraphData
from geomlib.data.module import GraphDataModule
from geomlib.data.multi import MultiDataModule
from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError, UnknownElement
from geomlib.files.manifest import AnyNet, bare_net, manifest_of
from geomlib.tasks.meters import Meter
from geomlib.tasks.objective import Objective, objectives_of
from geomlib.tasks.parameter_groups import freeze as freeze_parameters
from geomlib.tasks.parameter_groups import parameter_groups
from geomlib.tasks.resuming import hold_configuration
from geomlib.tasks.schedule import Schedule
from geomlib.tasks.starting import Heads, Start, start_from
from geomlib.tasks.terms import EXTENSIVE, Term, difference, labelled

__all__ = ["Task"]

logger = logging.getLogger(__name__)


class Task(lightning.LightningModule):
    """Base of all tasks: one step for training, validation and test.

    The loss is Σ prefactor · mean over the labelled components of the global batch, so that two processes with b
    graphs each give the gradient of one process with 2b. Nothing about the task goes into a checkpoint but weights,
    buffers, the state of optimizer, schedule and loops, and, under the key `geomlib`, the manifest of the net: what a
    user types on resuming is what holds.

    Args:
        net: predicts the fields that the terms compare.
        terms: of the loss, at least one active.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate, per step; constant if not given.
        decay_vectors: whether biases and other vectors have weight decay like matrices (as published).
        weights: model file or checkpoint to start from (fine-tuning); see `geomlib.tasks.starting.Start`.
        head: which head of that file, or for each head of the net the one it starts from.
        bias: energies of the elements in fine-tuning: `refit`, `keep` or `fresh`.
        fitting: `keep` the file's fitting net or start from a `random` one.
        freeze: names of parts or parameters that are not trained.
        learning_rates: name of a part → factor of its learning rate.
        head_terms: head → terms of its loss, for a net with heads; the others have `terms`.
    """

    metric_candidates: tuple[str, ...] = ()
    """Fields whose errors are reported, where the data has labels, even without a loss term."""

    def __init__(
        self,
        net: AnyNet,
        terms: Sequence[Term],
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-3),
        schedule: Schedule | None = None,
        decay_vectors: bool = True,
        weights: str | None = None,
        head: Heads | None = None,
        bias: Literal["refit", "keep", "fresh"] = "refit",
        fitting: Literal["keep", "random"] = "keep",
        freeze: Sequence[str] = (),
        learning_rates: Mapping[str, float] | None = None,
        head_terms: Mapping[str, Sequence[Term]] | None = None,
    ) -> None:
        super().__init__()
        self.net: AnyNet = net
        self.objectives = objectives_of(bare_net(net)[0].heads, terms, head_terms)
        self.optimizer_factory = optimizer
        self.schedule = schedule or Schedule()
        self.decay_vectors = decay_vectors
        self.start = None if weights is None else Start(weights, head, bias, fitting)
        if weights is None and head is not None:
            raise ConfigError("model.head says which head of a file to start from, but there are no model.weights")
        self.learning_rates = dict(learning_rates or {})
        if frozen := freeze_parameters(bare_net(net)[0], freeze):
            logger.info("%d parameter tensors are not trained", len(frozen))
        self.reset_optimizer = False
        self._configured: list[dict[str, Any]] = []
        self._meters: dict[str, Meter] = {}
        self._make_meters()

    # ---------------------------------------------------------------- data

    def store(self, stage: str) -> Store | None:
        """Graphs of `train`, `val` or `test`, without structure; None where the data module has none."""
        data = self._data()
        return None if data is None or stage not in data.parts else data.part(stage)

    def _data(self) -> GraphDataModule | None:
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, GraphDataModule) else None

    def store_of(self, objective: Objective, stage: str) -> Store | None:
        """Graphs of one data set of a stage; of all where the net has no heads."""
        data = self._data()
        return data.head_part(objective.head, stage) if isinstance(data, MultiDataModule) else self.store(stage)

    def objective_of(self, batch: GraphData) -> Objective:
        """Objective of a batch, all of whose graphs are of one data set."""
        return self.objectives[int(batch.head[0])] if self.objectives[0].head else self.objectives[0]

    @property
    def metric_fields(self) -> tuple[str, ...]:
        """Fields whose errors are reported, of any data set."""
        return tuple(dict.fromkeys(name for objective in self.objectives for name in objective.fields))

    def setup(self, stage: str) -> None:
        """Learn from the data which labels there are.

        Raises:
            ConfigError: the data sets are not the heads of the net.
            DataError: a loss term has no label.
        """
        self._match_heads()
        part = {"fit": "train", "validate": "val"}.get(stage, "test")
        for objective in self.objectives:
            store = self.store_of(objective, part)
            if store is None:
                continue
            objective.partial = frozenset(store.partial)
            candidates = (*(term.field for term in objective.terms), *self.metric_candidates)
            objective.fields = tuple(name for name in dict.fromkeys(candidates) if name in store.fields)
            if stage != "predict":
                for term in objective.terms:
                    self._require_label(term.field, store)
        self._make_meters()
        if stage == "fit" and self._data() is not None and self.store("val") is None:
            self.trainer.limit_val_batches = 0  # Lightning would warn that the validation set is empty

    def _match_heads(self) -> None:
        data = self._data()
        heads = [objective.head for objective in self.objectives if objective.head]
        sets = list(data.heads) if isinstance(data, MultiDataModule) else []
        if data is None or heads == sets:
            return
        wanted = f"the net has the heads {', '.join(heads)}" if heads else "the net has no heads"
        found = (
            f"data.sets are {', '.join(sets)}"
            if sets
            else "the data module has one set only (MultiDataModule has several)"
        )
        raise ConfigError(f"{wanted}, but {found}: there must be one data set for each head, by the same names")

    def on_fit_start(self) -> None:
        """On a fresh fit fill the net's statistics, or take weights and statistics from a model file.

        Every process reads the whole training set in the order of its store, so all get the same numbers.

        Raises:
            UnknownElement: the training or validation set has an element that the net does not know.
        """
        for stage in ("train", "val"):
            self._check_elements(self.store(stage))
        if self.trainer.ckpt_path:
            return
        store = self.store("train")
        if self.start is not None:
            start_from(self.net, self.start, store)
            logger.info("weights and statistics start from %s", self.start.weights)
        elif store is not None:
            # on a copy on the CPU, where the graphs are
            fitted = copy.deepcopy(self.net).cpu()
            fitted.fit_statistics(store)
            self.net.load_state_dict(fitted.state_dict())
            logger.info("statistics of the net fitted to %d training graphs", len(store))

    def _check_elements(self, store: Store | None) -> None:
        elements = getattr(bare_net(self.net)[0], "elements", None)
        if store is None or elements is None:
            return
        known = torch.tensor(atomic_numbers(elements))
        for index, graph in enumerate(store):
            strange = graph.atomic_number[~torch.isin(graph.atomic_number, known)]
            if len(strange):
                raise UnknownElement(
                    f"{store.describe(index)}: element {SYMBOLS[int(strange[0])]} is not among those of the net, "
                    f"{elements}: add it to the net's elements, or leave the structure out"
                )

    def _require_label(self, name: str, store: Store) -> None:
        if name not in store.fields:
            known = sorted(row for row in store.fields if row not in ("pos", "atomic_number", "cell", "pbc"))
            raise DataError(
                f"the loss has a term '{name}', but {store.describe(0) if len(store) else 'the store'} carries no such "
                f"label (labels: {known}): name its key in the store, or remove the term"
            )

    # ---------------------------------------------------------------- steps

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Predictions of the net."""
        return self.net(batch)

    def on_train_batch_start(self, batch: GraphData, batch_idx: int) -> None:
        """Let the net know the step, on which what it learns may depend."""
        bare_net(self.net)[0].advance(self.global_step)

    def training_step(self, batch: GraphData, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        return self._step(batch, "train")[0]

    def validation_step(self, batch: GraphData, batch_idx: int) -> None:
        """Errors of a batch, into the epoch's sums."""
        self._step(batch, "val")

    def test_step(self, batch: GraphData, batch_idx: int) -> dict[str, Tensor]:
        """Errors of a batch, into the epoch's sums; returns the predictions."""
        return self._step(batch, "test")[1]

    def predict_step(self, batch: GraphData, batch_idx: int) -> dict[str, Tensor]:
        """Predictions of the net for a batch."""
        return self.predicted(batch)

    def predicted(self, batch: GraphData) -> dict[str, Tensor]:
        """What the net returns, and whatever follows from it for the fields that the batch has labels for."""
        return self.net(batch)

    def _step(self, batch: GraphData, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        objective = self.objective_of(batch)
        outputs = self.predicted(batch)
        sums, counts = self._loss_sums(objective, outputs, batch)
        prefactors = sums.new_tensor([term.prefactor(self._lr_ratio()) for term in objective.terms])
        world = self.trainer.world_size
        reported = torch.stack([sums.detach(), counts])
        if world > 1 and stage == "train":
            torch.distributed.all_reduce(reported)
        counts_everywhere = reported[1].clamp_min(1.0)
        values = reported[0] / counts_everywhere
        if not bool(torch.isfinite(values).all()):
            raise DataError(self._blame(objective, outputs, batch, stage))
        means = list(zip(objective.terms, values.tolist(), strict=True))
        values = values.new_tensor([term.of_mean(mean) for term, mean in means])
        # where a term is the root of a mean, this is not the loss, but has its gradient on any number of processes
        slopes = values.new_tensor([term.slope(mean) for term, mean in means])
        loss = (
            (sums * (world * prefactors * slopes / counts_everywhere)).sum()
            if stage == "train"
            else sums.detach().sum()
        )
        meter, prefix = self._meters[stage], objective.prefix
        for name in objective.fields:
            meter.add(prefix + name, self._error(objective, name, outputs, batch))
        for k, name in enumerate(objective.loss_names):
            meter.add_sums(prefix + name, torch.stack([sums[k].detach(), sums.new_zeros(()), counts[k]]))
        if stage == "train":
            logged = {}
            if not objective.head:  # else Lightning would repeat them at the steps of other heads
                logged = {f"train/{name}": values[k] for k, name in enumerate(objective.loss_names)}
            logged["train/loss"] = (prefactors * values).sum()
            self.log_dict(logged, on_step=True, on_epoch=False, batch_size=batch.num_graphs)
        return loss, outputs

    def _loss_sums(
        self, objective: Objective, outputs: Mapping[str, Tensor], batch: GraphData
    ) -> tuple[Float[Tensor, " terms"], Float[Tensor, " terms"]]:
        pairs = []
        for term in objective.terms:
            prediction = self._prediction(term.field, outputs)
            pairs.append(term.sums(prediction, batch, partial=term.field in objective.partial))
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def _prediction(self, name: str, outputs: Mapping[str, Tensor]) -> Tensor:
        try:
            return outputs[name]
        except KeyError:
            raise ConfigError(f"the net predicts {sorted(outputs)}, not the field '{name}' of a loss term") from None

    @torch.no_grad()
    def _error(self, objective: Objective, name: str, outputs: Mapping[str, Tensor], batch: GraphData) -> Tensor:
        error, atoms = difference(name, self._prediction(name, outputs), batch, partial=name in objective.partial)
        return error / atoms if name in EXTENSIVE else error

    def _blame(self, objective: Objective, outputs: Mapping[str, Tensor], batch: GraphData, stage: str) -> str:
        """Say which label or prediction of which graph made the loss not finite."""
        for what, values in (("label", batch), ("prediction", outputs)):
            for name in (term.field for term in objective.terms):
                bad = ~torch.isfinite(values[name]).reshape(len(values[name]), -1).all(1)
                if what == "label" and (mask := labelled(name, batch, partial=name in objective.partial)) is not None:
                    bad &= mask
                if not bool(bad.any()):
                    continue
                graphs = batch.node_graph[bad].unique() if field(name).level == "node" else bad.nonzero().flatten()
                where = "; ".join(self._describe(batch, graphs.tolist(), stage))
                hint = "" if what == "label" else "; a lower learning rate, gradient clipping or a warm-up may help"
                return f"step {self.global_step}: the loss is not finite: {what} '{name}' of {where}{hint}"
        return f"step {self.global_step}: the loss is not finite on another process"

    def _describe(self, batch: GraphData, graphs: list[int], stage: str) -> list[str]:
        shown = graphs[:3]
        if "sample_id" not in batch:
            names = [f"graph {graph} of the batch" for graph in shown]
        else:
            ids = [int(batch.sample_id[graph]) for graph in shown]
            data = self._data()
            names = [f"sample {k}" if data is None else data.parts[stage][0].describe(k) for k in ids]
        return names + ([f"and {len(graphs) - 3} more"] if len(graphs) > 3 else [])

    # ---------------------------------------------------------------- epochs

    def _make_meters(self) -> None:
        names = [
            objective.prefix + name
            for objective in self.objectives
            for name in (*objective.fields, *objective.loss_names)
        ]
        self._meters = {stage: Meter(names) for stage in ("train", "val", "test")}

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums."""
        self._meters["train"].reset()

    def on_validation_epoch_start(self) -> None:
        """Start the epoch's sums."""
        self._meters["val"].reset()

    def on_test_epoch_start(self) -> None:
        """Start the epoch's sums."""
        self._meters["test"].reset()

    def on_train_epoch_end(self) -> None:
        """Log the errors of the epoch, made with the weights of each step."""
        self._log_epoch("train")

    def on_validation_epoch_end(self) -> None:
        """Log the errors over the validation set."""
        self._log_epoch("val")

    def on_test_epoch_end(self) -> None:
        """Log the errors over the test set."""
        self._log_epoch("test")

    def epoch_metrics(self, stage: str, *, local: bool = False) -> dict[str, float]:
        """MAE and RMSE of each field over the epoch so far, extensive fields per atom, in internal units.

        With heads, `<stage>/<head>/<field>_mae` for each, and `<stage>/<field>_mae` the mean over those that have it.

        Args:
            stage: train, val or test.
            local: of this process only, without waiting for the others.
        """
        means = self._meters[stage].means(local=local)
        ratio = self._lr_ratio()
        metrics: dict[str, float] = {}
        gathered: dict[str, list[float]] = {}
        for objective in self.objectives:
            own: dict[str, float] = {}
            for name in objective.fields:
                if objective.prefix + name in means:
                    own[f"{name}_mae"], own[f"{name}_rmse"] = means[objective.prefix + name]
            losses = [
                term.of_mean(means.get(objective.prefix + name, (0.0, 0.0))[0])
                for term, name in zip(objective.terms, objective.loss_names, strict=True)
            ]
            if stage != "train":
                pairs = zip(objective.terms, losses, strict=True)
                own["loss"] = sum(term.prefactor(ratio) * value for term, value in pairs)
            elif objective.head:
                own |= dict(zip(objective.loss_names, losses, strict=True))
            for name, value in own.items():
                metrics[f"{stage}/{objective.prefix}{name}"] = value
                gathered.setdefault(f"{stage}/{name}", []).append(value)
        return metrics | {name: sum(values) / len(values) for name, values in gathered.items()}

    def _log_epoch(self, stage: str) -> None:
        # the values are the same on every process already; sync_dist says so to Lightning
        metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.epoch_metrics(stage).items()}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    @property
    def monitor(self) -> str:
        """Validation metric whose minimum is the best model: of the field with the most telling error."""
        for name in ("forces", *self.metric_fields):
            if name in self.metric_fields:
                return f"val/{name}_mae"
        return "val/loss"

    def metric_unit(self, name: str) -> str:
        """Unit in which errors of a field are reported."""
        name = name.rpartition("/")[2]  # without the head
        return field(name).unit + ("/atom" if name in EXTENSIVE else "")

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """What to show of `metrics` behind a progress bar: name → number with unit."""
        shown = {}
        for name in self.metric_fields:
            if f"{stage}/{name}_mae" in metrics:
                shown[name] = f"{metrics[f'{stage}/{name}_mae']:.3g} {self.metric_unit(name)}"
        return shown

    def reference_errors(self) -> dict[str, float]:
        """Errors of `mean_predictor` on the test set, those of a head under its name."""
        found = {}
        for objective in self.objectives:
            train, test = (self.store_of(objective, part) for part in ("train", "test"))
            if train is not None and test is not None:
                for name, value in self.mean_predictor(train, test).items():
                    found[objective.prefix + name] = value
        return found

    def mean_predictor(self, train: Iterable[GraphData], test: Iterable[GraphData]) -> dict[str, float]:
        """Errors on `test` of what can be said without a net; empty if the task has no such measure."""
        return {}

    # ---------------------------------------------------------------- optimizer

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer with its schedule, stepped after every optimizer step."""
        groups = parameter_groups(
            bare_net(self.net)[0], decay_vectors=self.decay_vectors, learning_rates=self.learning_rates
        )
        optimizer = self.optimizer_factory(groups)
        total = self._total_steps()
        lr = optimizer.param_groups[0]["lr"]
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)
        self.schedule.factor(0, total, lr)
        scheduler = LambdaLR(optimizer, lambda step: self.schedule.factor(step, total, lr))
        self._configured = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _total_steps(self) -> int | None:
        """Optimizer steps of the whole run; None if it has no end."""
        limits = [self.trainer.max_steps] if self.trainer.max_steps > 0 else []
        if (self.trainer.max_epochs or -1) > 0:
            limits.append(int(self.trainer.max_epochs or 0) * self._steps_per_epoch())
        return min(limits) if limits else None

    def _steps_per_epoch(self) -> int:
        # not trainer.estimated_stepping_batches: it sets up the loader before a checkpoint could tell where to go on
        data = self._data()
        if data is None:
            raise ConfigError("the length of an epoch comes from the data module: pass one, or set trainer.max_steps")
        batches, limit = len(data.train_dataloader()), self.trainer.limit_train_batches
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    def on_train_start(self) -> None:
        """After a resume: what the user configured holds over what the checkpoint brought, and differences are said."""
        if not self.trainer.ckpt_path:
            return
        scheduler = cast(LambdaLR, self.trainer.lr_scheduler_configs[0].scheduler)
        hold_configuration(self.trainer.optimizers[0], scheduler, self._configured, drop_moments=self.reset_optimizer)

    def _lr_ratio(self) -> float:
        """Learning rate over its start value."""
        if not self._configured or not self.trainer.optimizers:
            return 1.0
        group = self.trainer.optimizers[0].param_groups[0]
        return float(group["lr"]) / float(group["initial_lr"]) if group["initial_lr"] else 1.0

    # ---------------------------------------------------------------- checkpoints

    def take_shape_of(self, manifest: Mapping[str, Any]) -> None:
        """Let the net be as training has made one that is gone on with, if it takes away parts; most don't.

        Args:
            manifest: of the other net.
        """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the net's manifest and the sums of the running epoch."""
        checkpoint["geomlib"] = manifest_of(self.net)
        checkpoint["meters"] = self._meters["train"].state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the sums of the running epoch."""
        self._meters["train"].load_state_dict(checkpoint.get("meters", {}))
