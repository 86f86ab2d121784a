"""Members of a combined net that start from files of their own."""

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from geomlib.errors import ConfigError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.models.combined import CombinedNet
from geomlib.tasks.base import Task

__all__ = ["MemberWeights"]

logger = logging.getLogger(__name__)


class MemberWeights(Callback):
    """Starts members of a `CombinedNet` from model files or checkpoints, at the beginning of a fresh fit.

    Args:
        files: name of a member → file of a net that was trained alone, or pretrained.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self.files = dict(files)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights over; statistics are fitted after this.

        Raises:
            ConfigError: another net, or a member that it does not have.
            DataError: a file with other tensors.
        """
        if trainer.ckpt_path or not isinstance(pl_module, Task):
            return
        net = bare_net(pl_module.net)[0]
        if not isinstance(net, CombinedNet):
            raise ConfigError(f"MemberWeights starts members of a CombinedNet, but the net is a {type(net).__name__}")
        net.take_members({name: bare_net(load(Path(file)))[0] for name, file in self.files.items()})
        logger.info("members start from files: %s", ", ".join(f"{name} {file}" for name, file in self.files.items()))
