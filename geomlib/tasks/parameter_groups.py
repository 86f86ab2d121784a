"""Which parameters the optimizer decays."""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(net: nn.Module, *, decay_vectors: bool = True) -> list[dict[str, Any]]:
    """Groups of trainable parameters for a torch optimizer.

    Args:
        net: what is trained.
        decay_vectors: decay everything, as the published DPA3 recipe does. If False, parameters with fewer than two
            axes (biases, residual vectors, time-steps) go into a second group without weight decay.
    """
    named = [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]
    if decay_vectors:
        return [{"params": [parameter for _, parameter in named]}]

    def chosen(*, matrices: bool) -> Iterator[nn.Parameter]:
        return (parameter for _, parameter in named if (parameter.dim() >= 2) is matrices)

    groups: list[dict[str, Any]] = [
        {"params": list(chosen(matrices=True))},
        {"params": list(chosen(matrices=False)), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
