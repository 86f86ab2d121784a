"""Which parameters are trained, decayed, and with which learning rate."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from geomlib.errors import ConfigError, nearest

__all__ = ["freeze", "parameter_groups"]


def freeze(net: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keep parameters as they are; return their names.

    Args:
        net: what is trained.
        patterns: names of parts (`blocks.0`), or of parameters, with `*` and `?` as in file names.

    Raises:
        ConfigError: a pattern that no parameter matches, or nothing left to train.
    """
    frozen = []
    for pattern in patterns:
        found = [(name, parameter) for name, parameter in net.named_parameters() if _matches(name, pattern)]
        if not found:
            raise _unmatched("freeze", pattern, net)
        for name, parameter in found:
            parameter.requires_grad_(False)
            frozen.append(name)
    if patterns and not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigError(f"freeze {list(patterns)} leaves nothing to train")
    return frozen


def parameter_groups(
    net: nn.Module, *, decay_vectors: bool = True, learning_rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for a torch optimizer.

    Args:
        net: what is trained.
        decay_vectors: decay everything, as the published DPA3 recipe does. If False, parameters with fewer than two
            axes (biases, residual vectors, time-steps) go into groups of their own without weight decay.
        learning_rates: name of a part → factor of its learning rate, as in `freeze`; the longest name that matches
            counts. Groups carry it as `lr_factor` and the name as `name`.

    Raises:
        ConfigError: a part that does not exist, or a factor that is not positive.
    """
    factors = dict(learning_rates or {})
    for pattern, factor in factors.items():
        if not any(_matches(name, pattern) for name, _ in net.named_parameters()):
            raise _unmatched("learning_rates", pattern, net)
        if not factor > 0:
            raise ConfigError(
                f"learning_rates '{pattern}' is {factor}: expected a positive factor; 'freeze' stops a part"
            )
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for part in ("", *factors):  # so that the group of the rest is the first, if there is one
        for matrices in (True, False):
            groups[part, matrices] = []
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            part = max((pattern for pattern in factors if _matches(name, pattern)), key=len, default="")
            groups[part, decay_vectors or parameter.dim() >= 2].append(parameter)
    out = []
    for (part, decayed), parameters in groups.items():
        group: dict[str, Any] = {"params": parameters}
        if not decayed:
            group["weight_decay"] = 0.0
        if factors:
            group |= {
                "lr_factor": float(factors.get(part, 1.0)),
                "name": (part or "rest") + ("" if decayed else "-vectors"),
            }
        if parameters:
            out.append(group)
    return out


def _matches(name: str, pattern: str) -> bool:
    return (
        name == pattern
        or name.startswith(pattern + ".")
        or fnmatchcase(name, pattern)
        or fnmatchcase(name, pattern + ".*")
    )


def _unmatched(option: str, pattern: str, net: nn.Module) -> ConfigError:
    names = [name for name, _ in net.named_parameters()]
    parts = dict.fromkeys(".".join(name.split(".")[:depth]) for depth in (1, 2, 3) for name in names)
    shown = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
    return ConfigError(f"{option} '{pattern}' matches no parameter of the net{nearest(pattern, parts)}; parts: {shown}")
