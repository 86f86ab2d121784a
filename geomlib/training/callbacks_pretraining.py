"""What one watches in a long pretraining: tokens per second, gradient norms, spikes of the loss."""

import logging
import math
import time
from collections import deque
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError

__all__ = ["GradientNorm", "LossSpikes", "TokenRate"]

logger = logging.getLogger(__name__)


class TokenRate(Callback):
    """Logs `tokens`, seen so far on all processes, and `tokens_per_second` since it last did.

    The total goes into checkpoints and goes on after a resume. Time in validation does not count.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._since, self._seconds, self._started = 0, 0.0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        if not self._started:
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: GraphData, batch_idx: int
    ) -> None:
        """Count the batch."""
        count = torch.tensor(len(batch.token_id), device=pl_module.device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(count)
        self._since += int(count)
        now = time.perf_counter()
        self._seconds, self._started = self._seconds + now - self._started, now
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.tokens += self._since
            rate = self._since / max(self._seconds, 1e-9)
            pl_module.log_dict({"tokens": float(self.tokens), "tokens_per_second": rate}, batch_size=1)
            self._since, self._seconds = 0, 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock until the next training batch."""
        self._started = 0.0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock until the next training batch."""
        self._started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Tokens seen."""
        return {"tokens": self.tokens + self._since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.tokens = int(state_dict["tokens"])


class GradientNorm(Callback):
    """Logs `gradient_norm`, the length of the gradient of all parameters before it is clipped."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log it, at the steps at which Lightning logs."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        norms = torch._foreach_norm(gradients) if gradients else ()
        if norms:
            pl_module.log("gradient_norm", torch.linalg.vector_norm(torch.stack(list(norms))), batch_size=1)


class LossSpikes(Callback):
    """Says when the loss of a step leaves what the steps before it let expect.

    A spike is a loss above mean + `threshold` standard deviations of the last `window` steps that were none. `spikes`
    is logged, the first steps of a run are never one.

    Args:
        threshold: in standard deviations.
        window: number of steps.
        action: `warn`, or `stop` the run, with its checkpoint, after `patience` spikes in a row.
        patience: how many are too many.

    Attributes:
        spikes: how many there were.
    """

    def __init__(
        self,
        threshold: float = 6.0,
        window: int = 100,
        action: Literal["warn", "stop"] = "warn",
        patience: int = 20,
    ) -> None:
        if threshold <= 0 or window < 2 or patience < 1 or action not in ("warn", "stop"):
            raise ConfigError(
                f"LossSpikes threshold {threshold}, window {window}, patience {patience}, action '{action}': expected "
                "positive numbers, a window of at least 2, and warn or stop"
            )
        self.threshold, self.window, self.action, self.patience = threshold, window, action, patience
        self.spikes = self.in_a_row = 0
        self._recent: deque[float] = deque(maxlen=window)

    def is_spike(self, loss: float) -> bool:
        """Judge the loss of one step, and remember it."""
        if len(self._recent) == self.window:
            mean = sum(self._recent) / self.window
            spread = math.sqrt(sum((value - mean) ** 2 for value in self._recent) / (self.window - 1))
            if not loss <= mean + self.threshold * max(spread, 1e-6 * abs(mean)):
                self.spikes, self.in_a_row = self.spikes + 1, self.in_a_row + 1
                return True
        self.in_a_row = 0
        self._recent.append(loss)
        return False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the step's loss, the same on every process."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        value = loss.detach()
        if trainer.world_size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
            value /= trainer.world_size
        if self.is_spike(float(value) * trainer.accumulate_grad_batches):
            usual = sum(self._recent) / len(self._recent)
            logger.warning(
                "step %d: the loss jumped to %.4g from about %.4g (spike %d)",
                trainer.global_step, float(value), usual, self.spikes,
            )  # fmt: skip
            pl_module.log("spikes", float(self.spikes), batch_size=1)
            if self.action == "stop" and self.in_a_row >= self.patience:
                logger.warning("%d spikes in a row: the run stops; resume with a lower learning rate", self.in_a_row)
                trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """What is remembered."""
        return {"spikes": self.spikes, "recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.spikes = int(state_dict["spikes"])
        self._recent = deque(state_dict["recent"], maxlen=self.window)
