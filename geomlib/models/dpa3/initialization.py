"""Fresh weights of DPA3."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from geomlib.models.dpa3.net import DPA3

__all__ = ["initialize"]

_SLOPE = 2.0
"""Spread of the slopes of fresh bond features, 1/Å."""
_ZEROS = (0.7, 0.6)
"""Zeros of fresh bond features lie between the first [Å] and the second times the cutoff."""
_APART = 0.5
"""Spread of fresh biases of data sets, wide enough that their hidden layers bend at different places."""


@torch.no_grad()
def initialize(net: "DPA3", kind: str) -> None:
    """Draw all linear maps of a fresh net from torch's global generator (seeded by the trainer).

    `published` is deepmd-kit's: weights N(0, 1/(in + out)) and biases N(0, 1). There a fresh bond feature is a gentle
    slope in the distance, and the net spends most of a short training on making it see a bond stretch.

    `geomlib` has weights N(0, 1/in) and zero biases, and bond features v(r − r₀) with slopes v ~ N(0, (2/Å)²) and
    zeros r₀ spread evenly over bond lengths, so that the activations of the first block bend where the atoms are.

    Args:
        net: a net whose residual vectors and time-steps keep what their layers drew.
        kind: `published` or `geomlib`.
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
    if net.config["dataset_biases"]:
        width = net.config["dataset_encoding"]
        net.fitting.layers[0].weight[:, -width:].normal_(0.0, _APART)  # type: ignore[index]
        for biases in net.fitting.dataset_biases:
            biases.normal_(0.0, _APART)
    if kind == "geomlib" and net.config["edge_init"] == "distance":
        layer = net.edge_embedding
        layer.weight.normal_(0.0, _SLOPE)
        zeros = torch.empty_like(layer.bias).uniform_(_ZEROS[0], max(_ZEROS[0], _ZEROS[1] * net.config["cutoff"]))
        layer.bias.copy_(-layer.weight[:, 0] * zeros)
