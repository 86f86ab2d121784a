"""Steps that bring model files of older family versions up to date.

A renamed parameter, a default that changes numbers or another unit of a field raises `family_version` of the net;
the step from the old version stands here, and a golden file of the old version under `tests/golden`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from geomlib.errors import FileFormatError
from geomlib.files.header import newer_file

__all__ = ["MIGRATIONS", "Migration", "migrate"]

Migration = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]
"""Pure function (manifest, tensors) → (manifest, tensors) of the next family version; it changes neither argument.
There may be no tensors, where only the configuration is asked for."""


def _sphnet_2(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Features of pairs had every irrep of both parities."""
    return {**manifest, "config": {**manifest["config"], "pair_irreps": "all"}}, tensors


MIGRATIONS: Mapping[str, Mapping[int, Migration]] = {"sphnet": {1: _sphnet_2}}
"""Family → version that the step starts from → the step."""


def migrate(
    manifest: dict[str, Any], tensors: dict[str, Tensor], target: int, where: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Apply the steps of a family one version at a time, up to `target`.

    Args:
        manifest: as read.
        tensors: as read.
        target: `family_version` of the net as it is now.
        where: what to call the file in messages.

    Raises:
        NewerFile: the file is of a later version than `target`.
        FileFormatError: a step is missing.
    """
    family, found = manifest["family"], manifest["family_version"]
    if found > target:
        raise newer_file(manifest, where, f"{family} version {found}, this one knows up to {target}")
    for step in range(found, target):
        migration = MIGRATIONS.get(family, {}).get(step)
        if migration is None:
            raise FileFormatError(f"{where}: {family} version {step} is too old: no migration to version {step + 1}")
        manifest, tensors = migration(manifest, tensors)
        manifest = {**manifest, "family_version": step + 1}
    return manifest, tensors
