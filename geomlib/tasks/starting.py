"""Where a fit starts from: the weights of a model file, or a checkpoint under the user's own settings."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from geomlib.errors import ConfigError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load

__all__ = ["hold_configuration", "load_weights"]

logger = logging.getLogger(__name__)


def load_weights(net: nn.Module, path: str) -> None:
    """Copy weights and statistics of a model file into a net of the same configuration.

    Raises:
        ConfigError: the file's net has other tensors.
    """
    target, source = bare_net(net)[0], bare_net(load(path))[0]
    wanted, found = target.state_dict(), source.state_dict()
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [list(state[name].shape) if name in state else None for state in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"{path}: tensor '{name}' has shape {shapes[1]}, the configured net wants {shapes[0]}: use the net "
                "configuration of the file ('geomlib model info' shows it)"
            )
    target.load_state_dict(found)


def hold_configuration(
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    configured: Sequence[Mapping[str, Any]],
    *,
    drop_moments: bool,
) -> None:
    """After a resume, let what the user configured hold over what the checkpoint brought, and say every difference.

    Args:
        optimizer: with the state of the checkpoint.
        scheduler: with the state of the checkpoint; its factors are the configured ones, for functions are not saved.
        configured: options of each parameter group before the checkpoint was read.
        drop_moments: let the optimizer's moments start afresh.
    """
    if drop_moments:
        optimizer.state.clear()
        logger.warning("the moments of the optimizer start afresh")
    changes: dict[str, tuple[Any, Any]] = {}
    step = scheduler.last_epoch
    for position, (group, options) in enumerate(zip(optimizer.param_groups, configured, strict=True)):
        start = options["initial_lr"]
        for key, value in {**options, "lr": start * scheduler.lr_lambdas[position](step)}.items():
            if key in group and group[key] != value:
                changes.setdefault(key, (group[key], value))
                group[key] = value
        scheduler.base_lrs[position] = start
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
    names = {"lr": f"learning rate at step {step}", "initial_lr": "start learning rate"}
    for key, (old, new) in changes.items():
        logger.warning(
            "%s: the checkpoint has %s, the configuration %s; the configuration holds", names.get(key, key), old, new
        )
