"""`HyperedgeTask`: train a SHyRe net on graphs whose hyperedges are known."""

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import ConfigError, DataError
from geomlib.files.manifest import AnyNet, bare_net
from geomlib.models.shyre.calibration import HeldOut
from geomlib.models.shyre.net import CANDIDATE_FIELDS, MAXIMAL, NESTED, SHyRe, candidate_sets
from geomlib.tasks.base import Task
from geomlib.tasks.schedule import Schedule
from geomlib.tasks.terms import Term

__all__ = ["HyperedgeTask"]

_REPORTED = ("jaccard", "precision", "recall", "f1", "multi_jaccard", "candidate_recall")


class HyperedgeTask(Task):
    """Binary cross-entropy over the candidates of each graph, both heads in one module.

    A batch is a graph (or several); a step takes at most `batch_candidates` of its candidates for each head. With
    more than one member, member m leaves out the candidates of fold m modulo `folds`, so that every candidate gets a
    probability from members that never saw it; validating on training graphs uses those, on other graphs all members.
    Validation also sets the net's threshold to J / (1 + J), with J the best Jaccard index there, and calibrates the
    heads if that is wanted. For one source graph give it as training and as validation set.

    Args:
        net: a `SHyRe`.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate, per step.
        batch_candidates: of each head in a step; all if there are fewer.
        folds: 1 trains every member on all candidates.
        rule: `expected` sets the threshold as said; `half` keeps p > 0.5, as published.
        calibrate: fit scale and shift of each head's log-odds in validation. Members that judge what they did not
            see are fewer than those that answer later, so this takes answers for bolder than they are.
        weights: model file or checkpoint to start from.
        seed: of folds, batches and dropout.

    Raises:
        ConfigError: a net of another family, or numbers out of range.
    """

    def __init__(
        self,
        net: AnyNet,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=5e-3, weight_decay=1e-2),
        schedule: Schedule | None = None,
        batch_candidates: int = 2048,
        folds: int = 5,
        rule: Literal["expected", "half"] = "expected",
        calibrate: bool = False,
        weights: str | None = None,
        seed: int = 0,
    ) -> None:
        terms = [Term("candidate_probability")]
        super().__init__(net, terms, optimizer, schedule, decay_vectors=False, weights=weights)
        inner = bare_net(net)[0]
        if not isinstance(inner, SHyRe):
            raise ConfigError(f"HyperedgeTask trains a SHyRe net, not {type(inner).__name__}")
        if folds < 1 or (folds > 1 and inner.members % folds):
            raise ConfigError(f"folds {folds}: expected 1, or a divisor of the net's {inner.members} members")
        if batch_candidates < 1 or rule not in ("expected", "half"):
            raise ConfigError(f"batch_candidates {batch_candidates}, rule '{rule}': expected a count, expected or half")
        self.shyre = inner
        self.batch_candidates, self.folds, self.rule, self.seed = batch_candidates, folds, rule, seed
        self.calibrate = calibrate
        self._prepared: dict[str, dict[str, Tensor]] = {}
        self._training: set[str] = set()
        self._seen: dict[str, list[tuple[float, Tensor, Tensor, Hypergraph, Hypergraph]]] = {}
        self._out_of_fold: list[tuple[Tensor, Tensor, Tensor, int]] = []

    def setup(self, stage: str) -> None:
        """Check that the graphs carry hyperedges.

        Raises:
            DataError: they don't.
        """
        part = {"fit": "train", "validate": "val"}.get(stage, "test")
        store = self.store(part)
        if stage != "predict" and store is not None and "hyperedge_index" not in store.fields:
            raise DataError(f"{store.describe(0)}: carries no hyperedges; use HyperedgeStore or a set with them")
        if stage == "fit" and self._data() is not None and self.store("val") is None:
            self.trainer.limit_val_batches = 0

    # ---------------------------------------------------------------- candidates

    def _key(self, batch: GraphData) -> str:
        digest = hashlib.sha256(batch.edge_index.cpu().numpy().tobytes())
        digest.update(batch.node_id.cpu().numpy().tobytes())
        if "hyperedge_index" in batch:
            digest.update(batch.hyperedge_index.cpu().numpy().tobytes())
        return digest.hexdigest()

    def _fill(self, batch: GraphData, key: str) -> dict[str, Tensor]:
        """Candidates, features, labels and folds of a batch, made once."""
        if key not in self._prepared:
            on_cpu = batch.cpu()
            values = self.shyre.prepare(on_cpu)
            if "hyperedge_index" in batch:
                sets = candidate_sets(values["candidate_index"], len(values["candidate_maximal"]), batch.num_nodes)
                values["label"] = torch.from_numpy(Hypergraph.from_data(on_cpu).contains(sets))
                values["fold"] = self._fold_numbers(values["label"], values["candidate_maximal"], key)
            self._prepared[key] = values
        return {name: value.to(self.device) for name, value in self._prepared[key].items()}

    def _fold_numbers(self, label: Tensor, maximal: Tensor, key: str) -> Tensor:
        """A fold for each candidate of each repeat of the members, even over labels and heads: `[repeats, n]`."""
        generator = np.random.default_rng([self.seed, int(key[:8], 16)])
        repeats = max(self.shyre.members // self.folds, 1)
        numbers = np.zeros((repeats, len(label)), dtype=np.int64)
        groups = (2 * label.long() + maximal.long()).numpy()
        for repeat in range(repeats):
            for group in range(4):
                where = np.flatnonzero(groups == group)
                numbers[repeat, where] = generator.permutation(len(where)) % self.folds
        return torch.from_numpy(numbers)

    def _held_out(self, fold: Tensor) -> Bool[Tensor, "members candidates"]:
        """Which member was not trained on which candidate."""
        members = torch.arange(self.shyre.members, device=fold.device)
        if self.folds == 1:
            return torch.zeros(len(members), fold.shape[1], dtype=torch.bool, device=fold.device)
        return fold[members // self.folds] == (members % self.folds).unsqueeze(1)

    # ---------------------------------------------------------------- steps

    def training_step(self, batch: GraphData, batch_idx: int) -> Tensor:
        """Cross-entropy of some candidates, each member over those that are not held out."""
        key = self._key(batch)
        values = self._fill(batch, key)
        self._training.add(key)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.global_step)
        total, count = values["candidate_features"].new_zeros((), dtype=torch.float32), 0
        held = self._held_out(values["fold"])
        for head in (MAXIMAL, NESTED):
            if float(self.shyre.constant[head]) != 0.5:
                continue
            where = (values["candidate_maximal"] == (head == MAXIMAL)).nonzero().squeeze(1)
            if len(where) == 0:
                continue
            if len(where) > self.batch_candidates:
                order = torch.randperm(len(where), generator=generator, device=self.device)
                where = where[order[: self.batch_candidates]]
            logits = self.shyre.logits(values["candidate_features"][where], head, generator)
            target = values["label"][where].to(logits.dtype).expand_as(logits)
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
            used = (~held[:, where]).to(losses.dtype)
            total = total + ((losses * used).sum(1) / used.sum(1).clamp_min(1)).sum()
            count += len(logits)
        if count == 0:  # both heads have but one answer: nothing is learned
            total = sum((parameter.sum() * 0.0 for parameter in self.shyre.parameters()), total)
        self.log("train/loss", total / max(count, 1), on_step=True, on_epoch=False, batch_size=batch.num_graphs)
        return total

    def _evaluate(self, batch: GraphData, stage: str) -> dict[str, Tensor]:
        key = self._key(batch)
        values = self._fill(batch, key)
        trained_on = stage == "val" and self._was_trained_on(key)
        fair = stage == "val" and (self.folds > 1 or not trained_on)
        unseen = self._held_out(values["fold"]) if trained_on and fair else None
        maximal = values["candidate_maximal"]
        raw = self.shyre.probability(values["candidate_features"], maximal, unseen)
        chance = raw.cpu().double()
        label, sets = values["label"].cpu(), candidate_sets(values["candidate_index"], len(chance), batch.num_nodes)
        true = Hypergraph.from_data(batch.cpu())
        safe = chance.clamp(1e-4, 1 - 1e-4)
        loss = float(torch.nn.functional.binary_cross_entropy(safe, label.double(), reduction="sum"))
        if fair:
            self._out_of_fold.append((chance, maximal.cpu(), label, len(true)))
        self._seen.setdefault(stage, []).append((loss, chance, maximal.cpu(), true, sets))
        chance = self.shyre.calibrated(raw, maximal)
        return {
            "candidate_index": values["candidate_index"],
            "candidate_maximal": maximal,
            "candidate_probability": chance,
            "candidate_logit": torch.logit(chance, eps=1e-6),
        }

    def _was_trained_on(self, key: str) -> bool:
        """Whether a graph is a training graph; before the first step those of the store are looked at."""
        store = self.store("train")
        if not self._training and store is not None:
            self._training = {self._key(store[position]) for position in range(len(store))}
        return key in self._training

    def validation_step(self, batch: GraphData, batch_idx: int) -> None:
        """Agreement of a graph's reconstruction with its hyperedges."""
        self._evaluate(batch, "val")

    def test_step(self, batch: GraphData, batch_idx: int) -> dict[str, Tensor]:
        """Agreement of a graph's reconstruction with its hyperedges; returns the predictions."""
        return self._evaluate(batch, "test")

    def predicted(self, batch: GraphData) -> dict[str, Tensor]:
        """What the net says of the candidates."""
        for name, value in self._fill(batch, self._key(batch)).items():
            if name in CANDIDATE_FIELDS:
                batch[name] = value
        return self.net(batch)

    # ---------------------------------------------------------------- epochs

    def on_validation_epoch_start(self) -> None:
        """Forget the last one."""
        super().on_validation_epoch_start()
        self._seen["val"], self._out_of_fold = [], []

    def on_test_epoch_start(self) -> None:
        """Forget the last one."""
        super().on_test_epoch_start()
        self._seen["test"] = []

    def on_validation_epoch_end(self) -> None:
        """Set threshold and calibration, log the agreement."""
        seen = self.held_out
        if seen is not None and self.rule == "expected":
            self.shyre.settle(seen, self.calibrate)
        super().on_validation_epoch_end()

    @property
    def held_out(self) -> HeldOut | None:
        """What the last validation saw of candidates by members that were not trained on them; None if nothing."""
        if not self._out_of_fold:
            return None
        chance, maximal, label, hyperedges = zip(*self._out_of_fold, strict=True)
        return HeldOut(torch.cat(chance), torch.cat(maximal), torch.cat(label), sum(hyperedges))

    def epoch_metrics(self, stage: str, *, local: bool = False) -> dict[str, float]:
        """Cross-entropy a candidate, and the mean over graphs of Jaccard, precision, recall, F1 and the rest."""
        rows = self._seen.get(stage, [])
        if not rows:
            return {}
        metrics = {f"{stage}/loss": sum(row[0] for row in rows) / max(sum(len(row[1]) for row in rows), 1)}
        threshold = float(self.shyre.threshold)
        scores = []
        for _, chance, maximal, true, sets in rows:
            chosen = self.shyre.calibrated(chance, maximal).numpy() > threshold
            scores.append(agreement(true, sets.take(chosen), sets))
        for name in _REPORTED:
            metrics[f"{stage}/{name}"] = float(np.mean([getattr(score, name) for score in scores]))
        if stage == "val":
            metrics["val/threshold"] = float(self.shyre.threshold)
        return metrics

    @property
    def monitor(self) -> str:
        """The best epoch has the lowest cross-entropy on candidates that were not trained on."""
        return "val/loss"

    def metric_unit(self, name: str) -> str:
        """Agreements have none."""
        return ""

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """Jaccard behind the progress bar."""
        value = metrics.get(f"{stage}/jaccard", math.nan)
        return {} if math.isnan(value) else {"jaccard": f"{value:.3f}"}

    def reference_errors(self) -> dict[str, float]:
        """There is no predictor of means."""
        return {}
