"""From a manifest and tensors to a net, with every disagreement named before memory is spent."""

import inspect
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from geomlib.errors import ConfigError, FileFormatError, GeomlibError, nearest
from geomlib.files.header import check_schema
from geomlib.files.manifest import WRAPPERS, AnyNet, bare_net, wrap
from geomlib.files.migrations import migrate
from geomlib.models import family
from geomlib.models.base import Net

__all__ = ["build_net", "choose_head", "current_config", "parse_dtype", "place"]


def build_net(manifest: dict[str, Any], tensors: dict[str, Tensor], where: str) -> AnyNet:
    """The net that a manifest describes, wrapped as it says, with these weights; in evaluation mode, frozen.

    Neither the default dtype nor the state of torch's random numbers is touched.

    Args:
        manifest: parsed manifest, of any version that can be migrated.
        tensors: state of the bare net; taken over, not copied.
        where: what to call the file in messages.

    Raises:
        FileFormatError: unknown family, configuration or wrapper; tensors or spec that don't fit the net.
        NewerFile: from a later version.
    """
    check_schema(manifest, where)
    cls = _family(manifest["family"], where)
    manifest, tensors = migrate(manifest, tensors, cls.family_version, where)
    for name in manifest["wrappers"]:
        if name not in WRAPPERS:
            raise FileFormatError(f"{where}: asks for the wrapper '{name}', which is unknown{nearest(name, WRAPPERS)}")
    config = _checked_config(cls, manifest["config"], where)
    with torch.device("meta"):  # shapes without memory: an absurd width in a file is refused before it is allocated
        skeleton = _construct(cls, config, where)
    _compare_state(skeleton.state_dict(), tensors, where)
    if _as_json(skeleton.spec.to_dict()) != _as_json(manifest["spec"]):
        raise FileFormatError(
            f"{where}: its spec {manifest['spec']} is not that of the net it describes, {skeleton.spec.to_dict()}"
        )
    with torch.random.fork_rng(devices=[]):
        net = _construct(cls, config, where)
    net.load_state_dict(tensors, strict=True, assign=True)
    return wrap(net, manifest["wrappers"]).eval().requires_grad_(False)


def current_config(manifest: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration of a manifest as today's version of its family has it.

    Args:
        manifest: parsed manifest, of any version that can be migrated.
        where: what to call the file in messages.

    Raises:
        FileFormatError: unknown family.
        NewerFile: from a later version.
    """
    check_schema(manifest, where)
    migrated, _ = migrate(manifest, {}, _family(manifest["family"], where).family_version, where)
    return dict(migrated["config"])


def choose_head(net: AnyNet, head: str | None, where: str) -> AnyNet:
    """The net of one head, wrapped as the whole; a net without heads is passed on.

    Args:
        net: as built.
        head: its name; `*` for the net with all heads that it has.
        where: what to call the file in messages.

    Raises:
        ConfigError: the head is missing or unknown.
    """
    inner, wrappers = bare_net(net)
    if head == "*" or (head is None and not inner.heads):
        return net
    if not inner.heads:
        raise ConfigError(f"{where}: holds one model without heads; leave head '{head}' out")
    known = f"it has {', '.join(inner.heads)}"
    if head is None:
        raise ConfigError(f"{where}: holds several heads, choose one with head=… or '{where}#NAME'; {known}")
    if head not in inner.heads:
        raise ConfigError(f"{where}: has no head '{head}'{nearest(head, inner.heads)}; {known}")
    return wrap(inner.single(head), wrappers).eval().requires_grad_(False)


def place(net: AnyNet, device: str | torch.device | None, dtype: str | torch.dtype | None) -> AnyNet:
    """Move a net to a device and a floating precision; buffers that must keep float64 do.

    Raises:
        ConfigError: no such device or dtype.
    """
    if dtype is not None:
        net = net.to(parse_dtype(dtype))
    if device is not None:
        try:
            net = net.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"device '{device}' can't be used: {str(error).splitlines()[0]}") from None
    return net


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Floating dtype from its name.

    Raises:
        ConfigError: not a name of one.
    """
    known = ("float64", "float32", "bfloat16", "float16")
    name = str(dtype).removeprefix("torch.")
    if name not in known:
        raise ConfigError(f"dtype '{name}' is not a floating dtype{nearest(name, known)}; known: {', '.join(known)}")
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _family(name: str, where: str) -> type[Net]:
    try:
        return family(name)
    except FileFormatError as error:
        raise FileFormatError(f"{where}: {error}") from None


def _checked_config(cls: type[Net], config: dict[str, Any], where: str) -> dict[str, Any]:
    known = [name for name in inspect.signature(cls).parameters if name != "self"]
    for key in config:
        if key not in known:
            raise FileFormatError(f"{where}: {cls.__name__} has no argument '{key}'{nearest(key, known)}")
    return config


def _construct(cls: type[Net], config: dict[str, Any], where: str) -> Net:
    try:
        with warnings.catch_warnings():
            # torch warns when it initialises an empty tensor, which a net without frame parameters has
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            return cls(**config)
    except (GeomlibError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FileFormatError(f"{where}: its config makes no {cls.__name__}: {error}") from None


def _compare_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    if missing := [name for name in expected if name not in found]:
        raise FileFormatError(f"{where}: lacks the tensor '{missing[0]}'{_more(missing)}{nearest(missing[0], found)}")
    if unknown := [name for name in found if name not in expected]:
        hint = nearest(unknown[0], expected)
        raise FileFormatError(f"{where}: holds the tensor '{unknown[0]}'{_more(unknown)}, which the net lacks{hint}")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise FileFormatError(
                f"{where}: tensor '{name}' has shape {list(found[name].shape)}, "
                f"its config asks for {list(tensor.shape)}"
            )
        if tensor.is_floating_point() != found[name].is_floating_point():
            raise FileFormatError(f"{where}: tensor '{name}' is {found[name].dtype}, expected {tensor.dtype}")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
