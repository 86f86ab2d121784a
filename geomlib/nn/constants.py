"""Constants of a module that keep their exact values whatever precision the module is moved to and back."""

import functools
from collections.abc import Callable
from typing import ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["ExactConstants", "follow_loaded_precision", "on_cpu"]

P = ParamSpec("P")
R = TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function make its tensors on the CPU, also where a net is built without memory to check its shapes."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped


class ExactConstants(nn.Module):
    """A module with floating constants that follow from its arguments, so they are not saved.

    They are buffers in the precision of the module, made anew from float64 values each time it changes: a net that is
    built in single precision and moved to double is exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor) -> None:
        """Add a buffer called `name` from float64 values on the CPU."""
        if value.dtype != torch.float64 or value.device.type != "cpu":
            raise TypeError(f"constant '{name}' is {value.dtype} on {value.device}; expected float64 on the CPU")
        self._exact[name] = value
        self.register_buffer(name, value.to(torch.get_default_dtype(), copy=True), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, exact in self._exact.items():
            self._buffers[name] = exact.to(self.get_buffer(name), copy=True)  # never the tensor of others
        return self


def follow_loaded_precision(net: nn.Module) -> None:
    """Let the constants of a net have the precision of its parameters where a state brings another (`assign`)."""

    def move(net: nn.Module, _: object) -> None:
        dtype = next(parameter.dtype for parameter in net.parameters() if parameter.is_floating_point())
        for module in net.modules():
            if isinstance(module, ExactConstants):
                module.to(dtype)

    net.register_load_state_dict_post_hook(move)
