"""Fine-tuning that thaws a net from its head downwards."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from geomlib.errors import ConfigError
from geomlib.files.manifest import bare_net
from geomlib.models.property import PropertyNet
from geomlib.tasks.base import Task

__all__ = ["GradualThawing"]

logger = logging.getLogger(__name__)


class GradualThawing(Callback):
    """Trains the head alone at first and thaws one more stage of the net after every few epochs.

    The stages are the net's own, `PropertyNet.thaw_stages`: of a molecular encoder the head, the embedding, then the
    blocks from the last to the first. The stage depends on the epoch alone, so that a resumed run goes on in it.
    Parameters that the task freezes for good stay frozen.

    Args:
        epochs: of each stage.
        depth: stages that are thawed at most, the head counted; all if not given.

    Source: Howard and Ruder, arXiv:1801.06146; MIST fine-tunes isotopes with 3 epochs a stage, mixtures with 1.
    """

    def __init__(self, epochs: int = 3, depth: int | None = None) -> None:
        if epochs < 1 or (depth is not None and depth < 1):
            raise ConfigError(f"GradualThawing epochs {epochs}, depth {depth}: expected at least 1")
        self.epochs, self.depth = epochs, depth
        self.stage = -1
        self._trained: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what the task trains.

        Raises:
            ConfigError: a net without stages.
        """
        if not isinstance(pl_module, Task) or not isinstance(bare_net(pl_module.net)[0], PropertyNet):
            raise ConfigError("GradualThawing needs a net of properties, which says what its stages are")
        net = bare_net(pl_module.net)[0]
        self._trained = {name for name, value in net.named_parameters() if value.requires_grad}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Thaw the stages of this epoch and freeze the rest."""
        assert isinstance(pl_module, Task)
        net = bare_net(pl_module.net)[0]
        assert isinstance(net, PropertyNet)
        stages = net.thaw_stages()
        last = min(trainer.current_epoch // self.epochs, len(stages) - 1, (self.depth or len(stages)) - 1)
        staged = [f"{name}." for stage in stages for name in stage]
        thawed = [f"{name}." for stage in stages[: last + 1] for name in stage]
        for name, parameter in net.named_parameters():
            below = f"{name}.".startswith(tuple(staged)) and not f"{name}.".startswith(tuple(thawed))
            parameter.requires_grad_(name in self._trained and not below)
            if below:
                parameter.grad = None
        if last != self.stage:
            logger.info("epoch %d trains %s", trainer.current_epoch + 1, ", ".join(name.rstrip(".") for name in thawed))
        self.stage = last

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the net as the task had it."""
        if isinstance(pl_module, Task):
            for name, parameter in bare_net(pl_module.net)[0].named_parameters():
                parameter.requires_grad_(name in self._trained)
