"""`PropertyTask`: properties of molecules, mixtures and graphs, with missing labels."""

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.scores import scores
from geomlib.errors import ConfigError, DataError, GeomlibWarning
from geomlib.files.manifest import bare_net
from geomlib.models.base import Net
from geomlib.models.property import PropertyNet
from geomlib.nn.targets import Target, masked_losses
from geomlib.tasks.base import Task
from geomlib.tasks.meters import Meter, gathered
from geomlib.tasks.schedule import Schedule
from geomlib.tasks.terms import Term

__all__ = ["PropertyTask"]

_LOSS = "loss"


class PropertyTask(Task):
    """Train a net of properties.

        loss = Σ w_t ℓ(raw_t, normalised label_t) / (number of labels that are there)

    over the labels of the global batch that are there, with w_t = 1 unless `target_weights` says otherwise; ℓ is the
    squared error, or the binary cross-entropy of a binary target.

    Reports for each target in natural units MAE, RMSE, R² and Spearman's correlation, of a binary one the area under
    the ROC curve and the average precision, over the whole epoch, and the means over the targets (`val/rmse`,
    `val/auc`). A score that is not defined, such as that of one class alone, is NaN, with a warning, and left out of
    the mean. Of the training set there are errors and loss only, made with the weights of each step.

    Args:
        net: of properties.
        loss: of regressions: `mse`, `mae` or `huber`; `auto` is `mse`. `bce` says that all targets are binary.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate, per step; constant if not given.
        huber_delta: where `huber` turns from quadratic to linear, on the normalised scale.
        target_weights: `equal`, or `inverse_count`: w_t = largest number of labels / number of labels of t.
        decay_vectors: whether biases and LayerNorms have weight decay like matrices.
        weights: model file or checkpoint to start from: of the same net, of one with other targets, or of the family
            that was pretrained for it.
        fitting: `keep` the head of that file where it has the same targets, or start with a `random` one.
        freeze_encoder: `true` trains the head alone, `encoder` the head and the embedding of tokens.
        freeze: names of parts or parameters that are not trained.
        learning_rates: name of a part → factor of its learning rate.

    Raises:
        ConfigError: a net that predicts no properties, or an option that is none.
    """

    def __init__(
        self,
        net: Net,
        loss: Literal["auto", "mse", "mae", "huber", "bce"] = "auto",
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1.6e-4, weight_decay=0.01),
        schedule: Schedule | None = None,
        huber_delta: float = 1.0,
        target_weights: Literal["equal", "inverse_count"] = "equal",
        decay_vectors: bool = False,
        weights: str | None = None,
        fitting: Literal["keep", "random"] = "keep",
        freeze_encoder: bool | Literal["encoder"] = False,
        freeze: list[str] | None = None,
        learning_rates: dict[str, float] | None = None,
    ) -> None:
        if not isinstance(net, PropertyNet) or net.head is None:
            raise ConfigError(f"PropertyTask trains a net of properties with a head, not a {type(net).__name__}")
        if loss not in ("auto", "mse", "mae", "huber", "bce") or target_weights not in ("equal", "inverse_count"):
            raise ConfigError(
                f"loss '{loss}' and target_weights '{target_weights}': expected auto, mse, mae, huber or bce, and "
                "equal or inverse_count"
            )
        if loss == "bce" and (odd := [row.name for row in net.targets if row.kind != "binary"]):
            raise ConfigError(f"loss bce is for binary targets: give {odd} the kind binary, or use loss auto")
        self.loss, self.huber_delta, self.target_weights = loss, huber_delta, target_weights
        self._labels_field = "target" if "target" in net.outputs else "node_target"
        self._told: set[str] = set()
        self._rows: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        frozen = [*(freeze or ()), *_frozen(net, freeze_encoder)]
        super().__init__(
            net,
            [Term(self._labels_field)],
            optimizer,
            schedule,
            decay_vectors,
            weights=weights,
            fitting=fitting,
            freeze=frozen,
            learning_rates=learning_rates,
        )
        self.register_buffer("_weights", torch.ones(len(net.targets)), persistent=False)
        self._weights: Tensor

    @property
    def property_net(self) -> PropertyNet:
        """The net."""
        net, _ = bare_net(self.net)
        assert isinstance(net, PropertyNet)
        return net

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is learned."""
        return self.property_net.targets

    # ---------------------------------------------------------------- data

    def setup(self, stage: str) -> None:
        """Check that the data have the labels of the net's targets.

        Raises:
            DataError: there are none.
            ConfigError: there are others.
        """
        name = self._labels_field
        part = {"fit": "train", "validate": "val"}.get(stage, "test")
        store = self.store(part)
        if store is not None and stage != "predict":
            self._require_label(name, store)
            self._check_width(store[0][name], store.describe(0))
        self._make_meters()
        if stage == "fit" and self._data() is not None and self.store("val") is None:
            self.trainer.limit_val_batches = 0  # Lightning would warn that the validation set is empty

    def _check_width(self, labels: Tensor, where: str) -> None:
        if labels.shape[1] != len(self.targets):
            raise ConfigError(
                f"{where}: has {labels.shape[1]} labels, but the net has the targets "
                f"{', '.join(row.name for row in self.targets)}: name the same columns in both"
            )

    def on_fit_start(self) -> None:
        """On a fresh fit take statistics and weights; count labels where targets are weighed by them."""
        super().on_fit_start()
        store = self.store("train")
        if self.target_weights == "inverse_count" and store is not None:
            counts = torch.stack([(~graph[self._labels_field].isnan()).sum(0) for graph in store]).sum(0).double()
            self._weights.copy_(counts.max() / counts.clamp_min(1.0))

    # ---------------------------------------------------------------- steps

    def _raw(self, outputs: Mapping[str, Tensor]) -> Tensor:
        if self._labels_field == "target":
            return outputs["target_raw"]
        return self.property_net.normalizer.normalize(outputs[self._labels_field])

    def _step(self, batch: GraphData, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self.net(batch)
        if self._labels_field not in batch:
            raise DataError(f"the batch has no '{self._labels_field}', so there is nothing to learn")
        labels = batch[self._labels_field]
        self._check_width(labels, "the batch")
        normalised = self.property_net.normalizer.normalize(labels.double())
        raw = self._raw(outputs)
        sums, counts = masked_losses(
            raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw,
            normalised,
            self.targets,
            "mse" if self.loss in ("auto", "bce") else self.loss,
            self.huber_delta,
        )
        extra, extra_count = self._extra_loss(outputs, batch)
        total = (self._weights.to(sums) * sums).sum()
        reported = torch.stack([total.detach(), counts.sum(), extra.detach(), extra_count]).double()
        self._meters[stage].add_sums(_LOSS, torch.stack([reported[0], reported[0].new_zeros(()), reported[1]]))
        if extra.requires_grad or bool(extra_count):
            self._meters[stage].add_sums("extra", torch.stack([reported[2], reported[2].new_zeros(()), reported[3]]))
        world = self.trainer.world_size
        if world > 1 and stage == "train":
            torch.distributed.all_reduce(reported)
        everywhere = reported[1::2].clamp_min(1.0)
        loss = world * (total / everywhere[0] + extra / everywhere[1])
        value = reported[0] / everywhere[0] + reported[2] / everywhere[1]
        if not bool(torch.isfinite(value)):
            raise DataError(self._blame_property(raw, normalised, batch, stage))
        self._record(outputs[self._labels_field].detach(), labels, batch, stage)
        if stage == "train":
            self.log("train/loss", value, on_step=True, on_epoch=False, batch_size=batch.num_graphs)
        return loss, outputs

    def _extra_loss(self, outputs: Mapping[str, Tensor], batch: GraphData) -> tuple[Tensor, Tensor]:
        """What the net itself adds to the loss, as a sum and the number of items that it is over."""
        own = getattr(self.property_net, "extra_loss", None)
        zero = self._weights.new_zeros(())
        return (zero, zero) if own is None else own(outputs, batch)

    def _record(self, prediction: Tensor, labels: Tensor, batch: GraphData, stage: str) -> None:
        if stage != "train":
            identity = batch.sample_id if "sample_id" in batch else torch.arange(batch.num_graphs)
            if self._labels_field == "node_target":
                identity = identity.to(batch.node_graph.device).index_select(0, batch.node_graph)
            self._rows.setdefault(stage, []).append((identity.cpu(), prediction.double().cpu(), labels.double().cpu()))
            return
        for k, target in enumerate(self.targets):
            if target.kind == "regression":
                there = ~labels[:, k].isnan()
                self._meters[stage].add(target.name, (prediction[:, k].double() - labels[:, k].double())[there])

    def _blame_property(self, raw: Tensor, labels: Tensor, batch: GraphData, stage: str) -> str:
        for what, bad in (("label", labels.isinf()), ("prediction", ~torch.isfinite(raw))):
            if not bool(bad.any()):
                continue
            rows = bad.any(1)
            graphs = batch.node_graph[rows].unique() if self._labels_field == "node_target" else rows.nonzero()[:, 0]
            names = [row.name for row, found in zip(self.targets, bad.any(0).tolist(), strict=True) if found]
            hint = "" if what == "label" else "; a lower learning rate, gradient clipping or a warm-up may help"
            where = "; ".join(self._describe(batch, graphs.tolist(), stage))
            return f"step {self.global_step}: the loss is not finite: {what} of {', '.join(names)} of {where}{hint}"
        return f"step {self.global_step}: the loss is not finite on another process"

    # ---------------------------------------------------------------- epochs

    def _make_meters(self) -> None:
        names = [_LOSS, "extra", *(row.name for row in self.targets if row.kind == "regression")]
        self._meters = {stage: Meter(names) for stage in ("train", "val", "test")}

    def on_validation_epoch_start(self) -> None:
        """Start the epoch's sums and rows."""
        super().on_validation_epoch_start()
        self._rows["val"] = []

    def on_test_epoch_start(self) -> None:
        """Start the epoch's sums and rows."""
        super().on_test_epoch_start()
        self._rows["test"] = []

    def epoch_metrics(self, stage: str, *, local: bool = False) -> dict[str, float]:
        """Scores of each target over the epoch so far, their means over the targets, and the loss.

        Args:
            stage: train, val or test.
            local: of this process only, without waiting for the others.
        """
        means = self._meters[stage].means(local=local)
        found: dict[str, dict[str, float]] = {}
        if stage == "train":
            for row in self.targets:
                if row.name in means:
                    found[row.name] = dict(zip(("mae", "rmse"), means[row.name], strict=True))
        else:
            found = self._scores(stage, local=local)
        metrics = {f"{stage}/{name}_{score}": value for name, row in found.items() for score, value in row.items()}
        for score in dict.fromkeys(name for row in found.values() for name in row):
            values = [row[score] for row in found.values() if math.isfinite(row.get(score, math.nan))]
            metrics[f"{stage}/{score}"] = sum(values) / len(values) if values else math.nan
        if stage != "train" and _LOSS in means:
            metrics[f"{stage}/loss"] = means[_LOSS][0] + means.get("extra", (0.0, 0.0))[0]
        return metrics

    def _scores(self, stage: str, *, local: bool) -> dict[str, dict[str, float]]:
        rows = self._rows.get(stage, [])
        parts = rows if local else gathered(rows)
        if not parts:
            return {}
        identity, prediction, labels = (torch.cat([part[k] for part in parts]) for k in range(3))
        order = identity.argsort(stable=True)  # the same numbers however the samples were spread
        arrays = prediction[order].numpy(), labels[order].numpy()
        found = {}
        for k, target in enumerate(self.targets):
            found[target.name] = scores(target.kind, arrays[1][:, k], arrays[0][:, k])
            if not local:
                self._warn(stage, target, arrays[1][:, k], found[target.name])
        return found

    def _warn(self, stage: str, target: Target, labels: np.ndarray, found: Mapping[str, float]) -> None:
        undefined = [name for name, value in found.items() if not math.isfinite(value)]
        key = f"{stage} {target.name}"
        if not undefined or key in self._told or self.trainer.sanity_checking or not self.trainer.is_global_zero:
            return
        self._told.add(key)
        there = labels[np.isfinite(labels)]
        why = "there are no labels" if not len(there) else f"all {len(there)} labels are {there[0]:g}"
        if len(np.unique(there)) > 1:
            why = "all predictions are alike"
        warnings.warn(
            f"{', '.join(undefined)} of '{target.name}' in the {stage} part can't be told (NaN): {why}",
            GeomlibWarning,
            stacklevel=2,
        )

    @property
    def monitor(self) -> str:
        """Validation metric whose minimum is the best model."""
        return "val/loss"

    @property
    def metric_fields(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(row.name for row in self.targets)

    def metric_unit(self, name: str) -> str:
        """Unit of a target."""
        return next((row.unit for row in self.targets if row.name == name), "")

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """Loss, RMSE and area under the ROC curve."""
        shown = {}
        for name in ("loss", "rmse", "auc"):
            value = metrics.get(f"{stage}/{name}", math.nan)
            if math.isfinite(value) and not (name == "rmse" and len(self.targets) > 1):
                shown[name] = f"{value:.3g}"
        return shown

    def mean_predictor(self, train: Iterable[GraphData], test: Iterable[GraphData]) -> dict[str, float]:
        """Scores on `test` of the mean of the training labels, of regressions."""
        known = [torch.cat([graph[self._labels_field] for graph in part]).double() for part in (train, test)]
        found: dict[str, float] = {}
        for k, target in enumerate(self.targets):
            if target.kind == "regression":
                label = known[1][:, k].numpy()
                guess = np.full(len(label), float(known[0][:, k].nanmean()))
                row = scores(target.kind, label, guess)
                found |= {f"{target.name}_{name}": row[name] for name in ("mae", "rmse")}
        return found


def _frozen(net: PropertyNet, choice: bool | str) -> list[str]:
    """Names of the parts that `freeze_encoder` keeps as they are.

    Raises:
        ConfigError: another word, or a net without an encoder.
    """
    if choice is False:
        return []
    if choice not in (True, "encoder"):
        raise ConfigError(f"freeze_encoder is {choice!r}; expected true, false or 'encoder'")
    stages = net.thaw_stages()
    if len(stages) < 2:
        raise ConfigError(f"freeze_encoder: {type(net).__name__} has nothing but a head")
    kept = stages[1:] if choice is True else stages[2:]
    if not kept:
        raise ConfigError(f"freeze_encoder 'encoder': {type(net).__name__} has no embedding apart from its encoder")
    return [name for stage in kept for name in stage]
