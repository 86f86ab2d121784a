"""Fresh weights of DPA3."""

import math

import torch
from torch import nn

__all__ = ["initialize"]


@torch.no_grad()
def initialize(net: nn.Module, kind: str) -> None:
    """Draw all linear maps of a fresh net from torch's global generator (seeded by the trainer).

    Args:
        net: a DPA3 net; residual vectors and time-steps keep what their layers drew.
        kind: `published` is deepmd-kit's, weights N(0, 1/(in+out)) and biases N(0, 1); `geomlib` has weights
            N(0, 1/in) and zero biases.
    """
    for module in net.modules():
        if not isinstance(module, nn.Linear):
            continue
        fan_out, fan_in = module.weight.shape
        if kind == "published":
            module.weight.normal_(0.0, 1.0 / math.sqrt(fan_in + fan_out))
            if module.bias is not None:
                module.bias.normal_()
        else:
            module.weight.normal_(0.0, 1.0 / math.sqrt(fan_in))
            if module.bias is not None:
                module.bias.zero_()
