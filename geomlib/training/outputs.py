"""What a run leaves in its folder: the model file after a fit, predictions and errors after a test."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from geomlib.data.cards import Card
from geomlib.data.fields import field
from geomlib.data.graph import GraphData
from geomlib.data.multi import MultiDataModule
from geomlib.files.checkpoint import load_checkpoint_net
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import save
from geomlib.models import family
from geomlib.tasks.base import Task
from geomlib.training.callbacks import EMA, Checkpoints, is_dry_run, run_folder

__all__ = ["ModelFile", "Predictions", "in_order"]

logger = logging.getLogger(__name__)

_WRITTEN = ("energy", "forces", "stress", "virial", "target", "node_target")
"""Predictions that go into files."""

_MATRICES = ("hamiltonian",)
"""Matrices over orbitals, which go into files as long as they are not too large."""

_MATRIX_BYTES = 2**30
"""Most that the matrices of a test may take in memory and in the file."""

_WITHOUT_UNIT = ("_r2", "_spearman", "_auc", "_ap")
"""Endings of scores that have no unit, whatever they are scores of."""


class ModelFile(Callback):
    """Writes `model.safetensors` when a fit ends: the best validated weights, averaged ones if the run averages.

    Args:
        provenance: goes into the manifest; see `geomlib.files.manifest.PROVENANCE`.

    Attributes:
        path: the file, once it is written.
        choice: which weights it holds, in words.
    """

    def __init__(self, provenance: Mapping[str, Any] | None = None) -> None:
        self.provenance = dict(provenance or {})
        self.folder = Path()
        self.path: Path | None = None
        self.choice = ""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the folder, on which the processes agree now.

        Raises:
            FileFormatError: the net belongs to no family that a model file could name.
        """
        self.folder = run_folder(trainer)
        if isinstance(pl_module, Task) and not is_dry_run(trainer):
            family(bare_net(pl_module.net)[0].family)  # a file could not be read again: say so now, not in the end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        if is_dry_run(trainer) or not trainer.is_global_zero or not isinstance(pl_module, Task):
            return
        checkpoints = next((row for row in trainer.callbacks if isinstance(row, Checkpoints)), None)  # type: ignore[attr-defined]
        averaged = " averaged" if any(isinstance(row, EMA) for row in trainer.callbacks) else ""  # type: ignore[attr-defined]
        metrics: dict[str, float] = {}
        origin = {**_trained_on(pl_module), **self.provenance}
        if checkpoints is not None and checkpoints.best_path is not None and checkpoints.best_score is not None:
            net = load_checkpoint_net(checkpoints.best_path)
            metrics[str(checkpoints.monitor)] = checkpoints.best_score
            self.choice = f"best{averaged} weights by {checkpoints.monitor}, step {checkpoints.best_step}"
        else:
            net = pl_module.net
            self.choice = f"last{averaged} weights, step {trainer.global_step}"
        self.path = save(net, self.folder / "model.safetensors", metrics=metrics, **origin)
        logger.info("%s: %s", self.path, self.choice)


class Predictions(Callback):
    """Writes predictions beside the labels, and their errors, into the run folder.

    `predictions.npz` after a test (`predict.npz` after a predict) holds, in the order of the store, `sample_id`,
    `n_atoms` [graphs], `atomic_number` or `node_type` [nodes], and for every field `<field>_prediction` and, where
    there are labels, `<field>_reference`; with heads, `head` [graphs] and only the fields that all have, while
    `predictions-<head>.npz` holds everything of one head. Matrices over orbitals stand one after the other, row after
    row, with `n_entries` [graphs], unless those of the test take more than 1 GiB. `test_metrics.json` holds the errors,
    those of the mean predictor, and units.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, np.ndarray]] = []
        self._matrix_bytes = 0
        self.folder = Path()
        self.metrics: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the folder, on which the processes agree now."""
        self.folder = run_folder(trainer)

    def _start(self) -> None:
        self._rows, self._matrix_bytes = [], 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier ones."""
        self._start()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier ones."""
        self._start()

    def _add(self, outputs: Any, batch: GraphData) -> None:
        names = [name for name in _WRITTEN if name in outputs]
        if "sample_id" not in batch and not names:
            return  # streamed text, whose molecules have no numbers
        # a batch of text has no nodes
        nodes = batch.node_graph if "batch" in batch or "smiles" not in batch else batch.component_graph[:0]
        row = {
            **{name: _array(batch[name]) for name in ("sample_id", "head") if name in batch},
            "n_atoms": _array(torch.bincount(nodes, minlength=batch.num_graphs)),
            **{name: _array(batch[name]) for name in ("atomic_number", "node_type") if name in batch},
        }
        for name in names:
            row[f"{name}_prediction"] = _array(outputs[name])
            if name in batch:
                row[f"{name}_reference"] = _array(batch[name])
        self._add_matrices(row, outputs, batch)
        self._rows.append(row)

    def _add_matrices(self, row: dict[str, np.ndarray], outputs: Any, batch: GraphData) -> None:
        """What only some batches have is left out of the file, so one too many leaves all of them out."""
        found = {f"{name}_prediction": outputs[name] for name in _MATRICES if name in outputs}
        found |= {f"{name}_reference": batch[name] for name in _MATRICES if name in outputs and name in batch}
        if not found:
            return
        self._matrix_bytes += sum(value.numel() * value.element_size() for value in found.values())
        if self._matrix_bytes > _MATRIX_BYTES:
            for earlier in self._rows:
                for name in (*found, "n_entries"):
                    earlier.pop(name, None)
            return
        graph = batch.node_graph[batch.entry_atom[0]]
        row["n_entries"] = _array(torch.bincount(graph, minlength=batch.num_graphs))
        row.update({name: _array(value) for name, value in found.items()})

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: GraphData,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect."""
        self._add(outputs, batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: GraphData,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect."""
        self._add(outputs, batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both files."""
        if not self._write(trainer, pl_module, "predictions.npz") or not isinstance(pl_module, Task):
            return
        errors = {
            name.removeprefix("test/"): float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/") and not name.endswith("/loss")
        }
        test = pl_module.store("test")
        targets = getattr(pl_module, "targets", ())
        self.metrics = {
            "graphs": 0 if test is None else len(test),
            "metrics": errors,
            "mean_predictor": pl_module.reference_errors(),
            **({"targets": [row.to_dict() for row in targets]} if targets else {}),
            "units": {
                name: "" if name.endswith(_WITHOUT_UNIT) else pl_module.metric_unit(name.rpartition("_")[0])
                for name in errors
            },
        }
        (self.folder / "test_metrics.json").write_text(json.dumps(self.metrics, indent=1) + "\n", encoding="utf-8")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the predictions."""
        self._write(trainer, pl_module, "predict.npz")

    def _write(self, trainer: Trainer, task: LightningModule, name: str) -> bool:
        """Write on the first process; whether this one did."""
        rows = self._rows
        self._rows = []
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if not trainer.is_global_zero or is_dry_run(trainer):
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        if not rows:
            return True
        np.savez(self.folder / name, **in_order(rows))  # type: ignore[arg-type]
        for position, head in enumerate(bare_net(task.net)[0].heads if isinstance(task, Task) else ()):
            if own := [row for row in rows if row["head"][0] == position]:
                np.savez(self.folder / name.replace(".", f"-{head}."), **in_order(own))  # type: ignore[arg-type]
        return True


def _trained_on(task: Task) -> dict[str, Any]:
    """What the manifest says about the data: numbers of graphs and, where it has one, its card."""
    sizes = {part: len(store) for part in ("train", "val") if (store := task.store(part)) is not None}
    data = getattr(task.trainer, "datamodule", None)
    if isinstance(data, MultiDataModule):
        found = {
            head: _of_data(own, {name: len(rows) for name, (_, rows) in own.parts.items()})
            for head, own in data.sets.items()
        }
        cited = dict.fromkeys(row["citation"] for row in found.values() if "citation" in row)
        origin = {"trained_on": {"heads": {head: row.get("trained_on") for head, row in found.items()}}}
        return origin | ({"citation": "\n".join(cited)} if cited else {})
    return _of_data(data, sizes)


def _of_data(data: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
    card = getattr(getattr(data, "store", None), "card", None)
    if not isinstance(card, Card):
        return {"trained_on": {"sizes": dict(sizes)}} if sizes else {}
    files = {row.path: row.sha256 for row in card.files}
    split = getattr(getattr(data, "split", None), "split", None)
    origin = {"card": card.name, "sha256": files, "split": split, "sizes": dict(sizes)}
    return {"trained_on": origin, "citation": card.citation}


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def in_order(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join the batches and sort their graphs by `sample_id`; fields that only some batches have are left out."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in names}
    order = np.argsort(joined["sample_id"], kind="stable")
    fields = {name: name.removesuffix("_prediction").removesuffix("_reference") for name in names}
    levels = {name: "graph" if name in _COUNTS.values() else field(fields[name]).level for name in names}
    places = {level: _items(joined[count], order) for level, count in _COUNTS.items() if count in joined}
    return {name: value[places.get(levels[name], order)] for name, value in joined.items()}


_COUNTS = {"node": "n_atoms", "entry": "n_entries"}
"""Level → how many items of it each graph has."""


def _items(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Places of the items of graphs in another order."""
    ends = np.cumsum(counts)
    starts = ends - counts
    return np.concatenate([np.arange(starts[k], ends[k]) for k in order])
