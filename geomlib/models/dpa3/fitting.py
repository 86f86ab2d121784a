"""Fitting net: atomic energies from descriptors."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.nn.activation import Activation

__all__ = ["EnergyFitting"]


class EnergyFitting(nn.Module):
    """Residual multilayer perceptron, one for all elements.

    y = σ(xW + b), times a trainable time-step where the layer has a shortcut; the shortcut adds x if the width stays
    and [x ‖ x] if it doubles. The last layer is linear with one output. The data set's code c is part of the input x of
    the first layer; with biases of its own a data set has also b + cB in every further hidden layer.

    Args:
        descriptor_dim: width of the descriptor.
        layers: hidden widths.
        activation_name: see `geomlib.nn.activation`.
        timestep: whether shortcut layers have a time-step.
        frame_parameters: number of parameters per frame appended to the input, normalised by buffers.
        atom_parameters: number of parameters per atom, likewise.
        dataset_encoding: width of the data set's one-hot code appended to the input; 0 for none.
        dataset_biases: whether each data set has biases of its own in the further hidden layers too.
    """

    frame_mean: Tensor
    frame_inv_std: Tensor
    atom_mean: Tensor
    atom_inv_std: Tensor
    dataset_code: Tensor

    def __init__(
        self,
        descriptor_dim: int,
        layers: Sequence[int],
        activation_name: str,
        *,
        timestep: bool,
        frame_parameters: int = 0,
        atom_parameters: int = 0,
        dataset_encoding: int = 0,
        dataset_biases: bool = False,
    ) -> None:
        super().__init__()
        self.activation = Activation(activation_name)
        widths = [descriptor_dim + frame_parameters + atom_parameters + dataset_encoding, *layers]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(widths, [*widths[1:], 1], strict=True)])
        own = layers[1:] if dataset_biases else []
        self.dataset_biases = nn.ParameterList([nn.Parameter(torch.zeros(dataset_encoding, b)) for b in own])
        self.timesteps = nn.ParameterDict(
            {
                str(k): nn.Parameter(torch.empty(b).normal_(0.1, 0.001))
                for k, (a, b) in enumerate(pairwise(widths))
                if timestep and b in (a, 2 * a)
            }
        )
        self.register_buffer("frame_mean", torch.zeros(frame_parameters))
        self.register_buffer("frame_inv_std", torch.ones(frame_parameters))
        self.register_buffer("atom_mean", torch.zeros(atom_parameters))
        self.register_buffer("atom_inv_std", torch.ones(atom_parameters))
        self.register_buffer("dataset_code", torch.zeros(dataset_encoding))

    def forward(
        self,
        descriptor: Float[Tensor, "nodes dim"],
        frame_parameters: Float[Tensor, "nodes frame"] | None = None,
        atom_parameters: Float[Tensor, "nodes atom"] | None = None,
        dataset_code: Float[Tensor, "nodes code"] | None = None,
    ) -> Float[Tensor, " nodes"]:
        """Atomic energies [eV], without the bias of the elements; `dataset_code` replaces the net's own."""
        x = descriptor.to(self.dataset_code.dtype)
        if frame_parameters is not None:
            x = torch.cat([x, (frame_parameters.to(x) - self.frame_mean) * self.frame_inv_std], dim=1)
        if atom_parameters is not None:
            x = torch.cat([x, (atom_parameters.to(x) - self.atom_mean) * self.atom_inv_std], dim=1)
        if dataset_code is None:
            dataset_code = self.dataset_code.expand(x.shape[0], -1)
        if dataset_code.shape[1]:
            x = torch.cat([x, dataset_code], dim=1)
        for k, layer in enumerate(self.layers[:-1]):
            y = layer(x)
            if k > 0 and self.dataset_biases:
                y = y + dataset_code @ self.dataset_biases[k - 1]
            y = self.activation(y)
            if str(k) in self.timesteps:
                y = y * self.timesteps[str(k)]
            repeats, rest = divmod(y.shape[1], x.shape[1])
            if rest == 0 and repeats in (1, 2):
                y = y + (x if repeats == 1 else torch.cat([x, x], dim=1))
            x = y
        return self.layers[-1](x).squeeze(1)
