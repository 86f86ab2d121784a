"""Model files: `.safetensors` with weights, buffers and, in the header, a JSON manifest."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geomlib.errors import FileFormatError
from geomlib.files.atomic import write_atomically
from geomlib.files.checkpoint import is_checkpoint, load_checkpoint_net
from geomlib.files.construct import build_net, choose_head, place
from geomlib.files.header import METADATA_KEY, existing_file, read_header, read_manifest, split_head
from geomlib.files.manifest import AnyNet, bare_net, manifest_of, manifest_text

__all__ = ["load", "read_manifest", "save", "weights_checksum"]


def save(net: nn.Module, path: str | os.PathLike[str], **provenance: Any) -> Path:
    """Write a net to a model file, in one step: the file is either complete or, if anything fails, not there.

    Args:
        net: a net, bare or wrapped in `Derivatives`.
        path: ends in `.safetensors`.
        **provenance: what to keep about its origin: `trained_on`, `recipe_sha256`, `metrics`, `licence`,
            `citation`, `created`, `source`.

    Returns: the path.

    Raises:
        ConfigError: not a net, an unknown provenance key, or a value that JSON can't hold.
        FileFormatError: a path with another ending.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise FileFormatError(f"{file}: a model file ends in .safetensors")
    inner = bare_net(net)[0].for_file()
    tensors = _own_storage(inner.state_dict())
    manifest = {**manifest_of(inner, **provenance), "weights_sha256": weights_checksum(tensors)}
    write_atomically(file, safetensors.torch.save(tensors, {METADATA_KEY: manifest_text(manifest)}))
    return file


def load(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    head: str | None = None,
) -> AnyNet:
    """Read a net from a model file (`.safetensors`), a checkpoint of geomlib (`.ckpt`) or a compiled file (`.pt2`).

    Nothing in a model file or checkpoint is executed; a net is built from the family that the file names and from
    plain values. A compiled file is native code, which is run: open only those that you trust.

    Args:
        path: the file; `FILE#HEAD` names one of several heads.
        device: where to put the net; the CPU if not given.
        dtype: floating precision, by name or as a torch dtype; that of the file if not given. Buffers that must
            keep float64 (energies of the elements) keep it.
        head: which head of a net that has several; `*` gives the net as it is, with all of them.

    Returns: the net, wrapped so that an energy net gives forces; in evaluation mode, its parameters frozen.

    Raises:
        FileFormatError: not a model file, a damaged one, or one that doesn't fit the net that it describes.
        NewerFile: written by a newer geomlib.
        ConfigError: no such device, dtype or head.
    """
    file, named = split_head(path)
    if head is None:
        head = named
    file = existing_file(file)
    if file.suffix == ".pt2":
        from geomlib.files.compiled import load_compiled

        return load_compiled(file, device, dtype)
    if is_checkpoint(file):
        return place(choose_head(load_checkpoint_net(file), head, str(file)), device, dtype)
    header = read_header(file)
    tensors = _read_tensors(file)
    expected = header.manifest.get("weights_sha256")
    if expected is not None and expected != weights_checksum(tensors):
        raise FileFormatError(f"{file}: is damaged: the checksum of its weights is not the one in its manifest")
    return place(choose_head(build_net(header.manifest, tensors, str(file)), head, str(file)), device, dtype)


def weights_checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_storage(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies of tensors, where needed, such that each has memory of its own (the container asks for that)."""
    seen: set[int] = set()
    tensors = {}
    for name, value in state.items():
        tensor = value.detach().to("cpu").contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            # copies: a memory-mapped file that is overwritten later would change, or end, the process
            return {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{file}: is damaged: {error}") from None
