"""Callbacks of a run: averaged weights, checkpoints, the model file at the end, the progress bar."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from geomlib.errors import ConfigError
from geomlib.tasks.base import Task

__all__ = ["EMA", "Checkpoints", "Progress", "is_dry_run", "run_folder"]

logger = logging.getLogger(__name__)


def is_dry_run(trainer: Trainer) -> bool:
    """Whether this is one of Lightning's `fast_dev_run`s, which leave no files."""
    return bool(getattr(trainer, "fast_dev_run", False))


def run_folder(trainer: Trainer) -> Path:
    """Folder of the run. The processes tell it each other: all have to ask."""
    return Path(trainer.log_dir or trainer.default_root_dir)


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation, best model and model file use the average.

    average ← d·average + (1 − d)·weights after every step n, with d = min(decay, (1 + n)/(10 + n)) so that the first
    steps are soon forgotten. Buffers (data statistics) are taken over as they are. In a checkpoint the averaged
    weights stand under `state_dict` and the raw ones under `current_model_state`.

    Args:
        decay: d in the long run.
        warmup: let d rise as above; otherwise it is `decay` from the first step.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"EMA decay must lie in [0, 1), got {decay}")
        self.decay, self.warmup = decay, warmup
        super().__init__(use_buffers=False, multi_avg_fn=self._average)

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        steps = int(count)
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        torch._foreach_lerp_(averaged, current, 1.0 - decay)

    def _begun(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights and statistics as they are now, unless a resume brought an average."""
        if self._average_model is not None and not self._begun():
            self._average_model.module.load_state_dict(pl_module.state_dict())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the net."""
        if self._begun():
            super().on_train_end(trainer, pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average, once there is one."""
        if self._begun():
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the raw weights."""
        if self._begun():
            super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average where a model is looked for, and the raw weights beside it."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Continue the average; a checkpoint of a run without one starts it."""
        if self._average_model is None:
            return
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
        else:
            logger.warning("the checkpoint holds no averaged weights: the average starts from its weights")


class Checkpoints(Checkpoint):
    """Keeps two checkpoints in the run folder: `last.ckpt` to resume from and `best.ckpt`, of the best validation.

    The last one is written after every epoch, every `every_n_steps` steps, and on SIGTERM; a file is replaced in one
    step, so that a kill never leaves half of one.

    Args:
        monitor: validation metric that tells the best; the task's own choice if not given.
        mode: min or max.
        every_n_steps: also write `last.ckpt` whenever that many optimizer steps are done.
        every_n_epochs: write `last.ckpt` after each that many epochs.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: str = "min",
        every_n_steps: int | None = None,
        every_n_epochs: int = 1,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"Checkpoints mode is min or max, got '{mode}'")
        self.monitor, self.mode = monitor, mode
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.best_score: float | None = None
        self.best_step = 0
        self.best_path: str | None = None
        self.folder = Path()
        self._last_step = -1

    @property
    def last_path(self) -> Path:
        """Where the latest checkpoint stands."""
        return self.folder / "last.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the folder and the metric."""
        self.folder = run_folder(trainer).absolute() / "checkpoints"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a resume, bring the best checkpoint so far along into this run's folder."""
        if self.monitor is None:
            self.monitor = getattr(pl_module, "monitor", None)
        if self.best_path is None:
            return
        source, target = Path(self.best_path), self.folder / "best.ckpt"
        if not source.is_file():
            logger.warning("the best checkpoint so far, %s, is gone: the best is sought anew", source)
            self.best_path = self.best_score = None
        elif source != target:
            if trainer.is_global_zero:
                self.folder.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            self.best_path = str(target)

    def _save_last(self, trainer: Trainer) -> None:
        if is_dry_run(trainer) or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        trainer.save_checkpoint(self.last_path, weights_only=False)  # with the optimizer

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `last.ckpt` in the middle of an epoch."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `best.ckpt` if this validation is the best so far."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or is_dry_run(trainer) or self.monitor is None:
            return
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise ConfigError(f"Checkpoints monitors '{self.monitor}', but the validation reports {known}")
        score = float(trainer.callback_metrics[self.monitor])
        sign = 1.0 if self.mode == "min" else -1.0
        if self.best_score is None or sign * score < sign * self.best_score:
            self.best_score, self.best_step = score, trainer.global_step
            self.best_path = str(self.folder / "best.ckpt")
            trainer.save_checkpoint(self.best_path, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt`."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt` of a run that ended between its epochs."""
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write `last.ckpt` when the system asks the process to stop, which happens between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit" and trainer.global_step > 0:
            self._save_last(trainer)
            logger.warning("stopped by SIGTERM after step %d; %s continues it", trainer.global_step, self.last_path)

    def state_dict(self) -> dict[str, Any]:
        """What is known about the best checkpoint."""
        return {"best_score": self.best_score, "best_step": self.best_step, "best_path": self.best_path}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.best_path = state_dict["best_path"]


class Progress(TQDMProgressBar):
    """A bar with the errors of the running epoch and of the last validation.

    Where there is no terminal (a log file), one line after each validation instead.

    Args:
        refresh_rate: redraw after so many batches.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._at_terminal = sys.stderr.isatty()
        if not self._at_terminal:
            self._refresh_rate = 0

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        if not isinstance(pl_module, Task):
            return {}
        stage = "test" if trainer.testing else "train" if trainer.state.fn == "fit" else "val"
        shown: dict[str, Any] = dict(pl_module.progress(pl_module.epoch_metrics(stage, local=True), stage))
        if stage == "train":
            shown |= {f"val {key}": value for key, value in self._validation(trainer, pl_module).items()}
        return shown

    def _validation(self, trainer: Trainer, pl_module: Task) -> dict[str, str]:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        return pl_module.progress(metrics, "val")

    def init_validation_tqdm(self) -> Tqdm:
        """No second bar while training."""
        return Tqdm(disable=True) if self.trainer.state.fn == "fit" else super().init_validation_tqdm()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Away from a terminal, one line."""
        super().on_validation_end(trainer, pl_module)
        if self._at_terminal or trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        if isinstance(pl_module, Task):
            metrics = self.get_metrics(trainer, pl_module)
            numbers = ", ".join(f"{name} {value}" for name, value in metrics.items())
            sys.stderr.write(f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}: {numbers}\n")
            sys.stderr.flush()
