"""The manifest of a net: everything needed to build it again, and where it comes from."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import torch
from torch import nn

from geomlib import __version__
from geomlib.data.fields import field
from geomlib.errors import ConfigError, nearest
from geomlib.files.header import FORMAT, SCHEMA
from geomlib.models.base import Net
from geomlib.nn.derivative import Derivatives

__all__ = ["PROVENANCE", "WRAPPERS", "AnyNet", "bare_net", "manifest_of", "manifest_text", "wrap"]

AnyNet = Net | Derivatives
"""What is saved and loaded: a net, bare or wrapped; both have `spec`, `inputs` and `outputs`."""

WRAPPERS: Mapping[str, type[Derivatives]] = {Derivatives.name: Derivatives}
"""Name in a file → module that is put around the net after loading."""

PROVENANCE: Mapping[str, str] = {
    "trained_on": "dataset card: {card, sha256, split, sizes}",
    "recipe_sha256": "checksum of the recipe file",
    "metrics": "name → number, as seen on the test set",
    "licence": "of the weights",
    "citation": "what to cite",
    "created": "time, ISO 8601",
    "source": "for an imported model: {software, version, file, sha256, head}",
}
"""What a caller may add to the manifest."""

_PACKAGES = ("torch", "e3nn", "torch_geometric")


def bare_net(net: nn.Module) -> tuple[Net, list[str]]:
    """The net without its wrappers, and the names of the wrappers that its file asks for, innermost first.

    An energy net without forces of its own gets `derivatives`, whether it is wrapped at the moment or not.

    Raises:
        ConfigError: `net` is not a net.
    """
    inner = cast(nn.Module, net.net) if isinstance(net, Derivatives) else net
    if not isinstance(inner, Net):
        raise ConfigError(f"{type(inner).__name__} is not a geomlib net (a subclass of Net) and can't be saved")
    return inner, [Derivatives.name] if "energy" in inner.outputs and "forces" not in inner.outputs else []


def wrap(net: Net, wrappers: list[str]) -> AnyNet:
    """Put wrappers around a net, innermost first."""
    wrapped: AnyNet = net
    for name in wrappers:
        wrapped = WRAPPERS[name](wrapped)
    return wrapped


def manifest_of(net: nn.Module, **provenance: Any) -> dict[str, Any]:
    """Manifest of a net, JSON-able; the block `geomlib` of a checkpoint is the same.

    Args:
        net: a net, bare or wrapped.
        **provenance: keys of `PROVENANCE`.

    Raises:
        ConfigError: an unknown key, or a value that JSON can't hold.
    """
    for key in provenance:
        if key not in PROVENANCE:
            raise ConfigError(
                f"model files have no '{key}'{nearest(key, PROVENANCE)}; known: {', '.join(sorted(PROVENANCE))}"
            )
    inner, wrappers = bare_net(net)
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "family": inner.family,
        "family_version": inner.family_version,
        "config": inner.config,
        "spec": inner.spec.to_dict(),
        "wrappers": wrappers,
        "inputs": list(inner.inputs),
        "outputs": {
            name: {"unit": field(name).unit, "level": field(name).level} for name in wrap(inner, wrappers).outputs
        },
        "elements": inner.config.get("elements"),
        "heads": list(inner.heads) or None,
        "dtype": _dtype_name(inner),
        "parameters": sum(parameter.numel() for parameter in inner.parameters()),
        "versions": _versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: _without_nan(value) for key, value in provenance.items()},
    }
    return cast(dict[str, Any], json.loads(manifest_text(manifest)))


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as it stands in a file: sorted keys, one line, floats that read back bit for bit.

    Raises:
        ConfigError: a value that JSON can't hold.
    """
    try:
        return json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the manifest of a model file takes text, finite numbers, lists and dictionaries only: {error}"
        ) from None


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON has no word for by null, so that a diverged metric doesn't cost the weights."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dtype_name(net: nn.Module) -> str:
    dtypes = [parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()]
    return str(dtypes[0] if dtypes else torch.float32).removeprefix("torch.")


def _versions() -> dict[str, str]:
    found = {"geomlib": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
