"""Checkpoints: pickles that are read as plain values and tensors only, never executed."""

import os
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomlib.errors import FileFormatError
from geomlib.files.construct import build_net, place
from geomlib.files.header import METADATA_KEY, check_schema, existing_file
from geomlib.files.manifest import AnyNet

__all__ = ["archive_members", "checkpoint_manifest", "is_checkpoint", "load_checkpoint_net", "read_checkpoint"]

_PREFIX = "net."


def is_checkpoint(path: Path) -> bool:
    """Whether the name says that this is a checkpoint."""
    return path.suffix == ".ckpt"


def archive_members(file: Path) -> set[str]:
    """Names in a zip archive, without the folder that holds them all; nothing if it is no (whole) archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name.split("/", 1)[-1] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return set()


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a pickled checkpoint (`torch.save`) as tensors, numbers, text, lists and dictionaries; on the CPU.

    Raises:
        FileFormatError: no checkpoint, a damaged one, or one that asks for anything else to be loaded or called.
    """
    file = existing_file(path)
    if "constants.pkl" in archive_members(file):
        raise FileFormatError(f"{file}: is a TorchScript archive, which holds code, and is not opened")
    try:
        with warnings.catch_warnings(), file.open("rb") as stream:  # by name, torch picks a reader by the ending
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        # damage and malice make the unpickler raise anything; whatever it is, the file is refused
        raise FileFormatError(f"{file}: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{file}: holds a {type(content).__name__}, expected a checkpoint (a dictionary)")
    return content


def load_checkpoint_net(
    path: str | os.PathLike[str], device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> AnyNet:
    """The net of a geomlib checkpoint: the averaged one where the run averaged its weights.

    Args:
        path: the `.ckpt` file.
        device: where to put the net.
        dtype: floating precision.

    Raises:
        FileFormatError: not a checkpoint of geomlib, or one that doesn't fit the net that it describes.
        NewerFile: written by a newer geomlib.
    """
    file = existing_file(path)
    content = read_checkpoint(file)
    manifest, state = _block(content, file), content.get("state_dict")
    if not isinstance(state, dict):
        raise FileFormatError(f"{file}: is a checkpoint without a state_dict")
    tensors = _below(_PREFIX, state)
    wrappers = manifest.get("wrappers")
    for _ in wrappers if isinstance(wrappers, list) else ():
        if all(name.startswith(_PREFIX) for name in tensors):
            tensors = _below(_PREFIX, tensors)
    return place(build_net(manifest, tensors, str(file)), device, dtype)


def checkpoint_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Manifest in the block `geomlib` of a checkpoint.

    Raises:
        FileFormatError: not a checkpoint of geomlib.
        NewerFile: written by a newer geomlib.
    """
    file = existing_file(path)
    manifest = _block(read_checkpoint(file), file)
    check_schema(manifest, str(file))
    return manifest


def _block(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    manifest = content.get(METADATA_KEY)
    if not isinstance(manifest, dict):
        raise FileFormatError(
            f"{file}: is a checkpoint without a geomlib block, made by another program; "
            "'geomlib model import' reads training checkpoints of deepmd-kit"
        )
    return manifest


def _below(prefix: str, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(value, Tensor)
    }


def _reason(error: Exception) -> str:
    """One line without torch's advice to switch the protection off."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return (
            f"is a pickle that asks to load or call '{found[1]}' and is not opened; only tensors and plain values are"
        )
    if type(error).__name__ == "UnpicklingError":
        return "is a pickle that holds more than tensors and plain values, or a damaged one, and is not opened"
    return "is not a checkpoint, or is truncated or damaged, and is not opened"
