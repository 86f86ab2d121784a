"""Where a fit goes on from: a checkpoint under the user's own settings."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["hold_configuration"]

logger = logging.getLogger(__name__)


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
