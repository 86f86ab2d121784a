"""Header of a model file, read with the standard library alone: the manifest and where each tensor stands.

Layout of the container (safetensors): 8 bytes with the length n of the header, little-endian; n bytes of JSON; then
the bytes of the tensors without gaps. Every size is compared with the size of the file before anything is read.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomlib.errors import FileFormatError, NewerFile

__all__ = [
    "FORMAT",
    "MAX_HEADER_BYTES",
    "METADATA_KEY",
    "SCHEMA",
    "Header",
    "TensorEntry",
    "check_schema",
    "existing_file",
    "read_header",
    "read_manifest",
    "split_head",
]

FORMAT = "geomlib-model"
METADATA_KEY = "geomlib"
SCHEMA = 1
"""Version of the manifest's layout; a file with a higher one is refused."""

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library refuses longer headers too."""

_ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

_OTHER_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, probably a pickled checkpoint, and is not opened"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    *((b"\x80" + bytes([protocol]), "a pickle and is not opened") for protocol in range(2, 6)),
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor stands in the file.

    Args:
        dtype: name of the container, e.g. `F32`.
        shape: of the tensor.
        start: first byte, counted from the end of the header.
        stop: one past the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the tensors of a model file.

    Args:
        text: the manifest, exactly as it was written.
        manifest: the same, parsed.
        tensors: entry of each tensor.
    """

    text: str
    manifest: dict[str, Any]
    tensors: dict[str, TensorEntry]


def existing_file(path: str | os.PathLike[str]) -> Path:
    """`path` if it is a file.

    Raises:
        FileFormatError: nothing there, or a folder.
    """
    file = Path(path)
    if file.is_dir():
        inside = file / "model.safetensors"
        hint = f": give '{inside}'" if inside.is_file() else ""
        raise FileFormatError(f"{file}: is a folder, not a model file{hint}")
    if not file.is_file():
        raise FileFormatError(f"{file}: no such file")
    return file


def split_head(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Path of a file and the head that is named after it, as in `model.safetensors#water`."""
    text = os.fspath(path)
    file, mark, head = text.rpartition("#")
    if not mark or Path(text).exists():
        return Path(text), None
    return Path(file), head


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a model file.

    Raises:
        FileFormatError: not a model file, or a damaged one.
        NewerFile: written by a geomlib with a newer layout.
    """
    file = existing_file(path)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        promised = len(start) == 8 and length <= min(size - 8, MAX_HEADER_BYTES)
        if not promised:  # else the first bytes are a length, though they may look like a pickle's (0x0580 = 1408)
            _refuse_other_kinds(file, start)
        if len(start) < 8:
            raise FileFormatError(f"{file}: is truncated: {size} bytes are less than the header of any model file")
        if not promised:
            raise FileFormatError(
                f"{file}: is not a model file or is truncated: "
                f"its first bytes promise a header of {length} bytes, but {size - 8} follow"
            )
        raw = stream.read(length)
    entries = _parse(file, raw)
    metadata = entries.pop("__metadata__", {})
    tensors = {name: _tensor_entry(file, name, entry) for name, entry in entries.items()}
    described = max((entry.stop for entry in tensors.values()), default=0)
    if described != size - 8 - length:
        state = "is truncated" if described > size - 8 - length else "is damaged"
        raise FileFormatError(
            f"{file}: {state}: its tensors take {described} bytes, but {size - 8 - length} follow the header"
        )
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise FileFormatError(
            f"{file}: is a safetensors file without a geomlib manifest, not a model file; "
            "geomlib.save and 'geomlib model import' write model files"
        )
    manifest = _parse(file, text.encode())
    check_schema(manifest, str(file))
    return Header(text, manifest, tensors)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Manifest of a model file; the tensors are not read.

    Raises:
        FileFormatError: not a model file, or a damaged one.
        NewerFile: written by a geomlib with a newer layout.
    """
    return read_header(path).manifest


def check_schema(manifest: Mapping[str, Any], where: str) -> None:
    """Raise unless `manifest` has the layout that this geomlib reads.

    Args:
        manifest: parsed manifest.
        where: what to call the file in messages.

    Raises:
        FileFormatError: it is no manifest, or parts are missing or of the wrong kind.
        NewerFile: a newer layout.
    """
    if manifest.get("format") != FORMAT:
        raise FileFormatError(f"{where}: its manifest says format '{manifest.get('format')}', expected '{FORMAT}'")
    schema = manifest.get("schema")
    if type(schema) is not int or schema < 1:
        raise FileFormatError(f"{where}: its manifest says schema {schema!r}, expected a number from 1")
    if schema > SCHEMA:
        raise newer_file(manifest, where, f"file schema {schema}, this one reads up to {SCHEMA}")
    kinds: dict[str, type] = {"family": str, "family_version": int, "config": dict, "spec": dict, "wrappers": list}
    for key, kind in kinds.items():
        if not isinstance(manifest.get(key), kind):
            found = f"is {type(manifest[key]).__name__}" if key in manifest else "is missing"
            raise FileFormatError(f"{where}: '{key}' {found} in its manifest, expected {kind.__name__}")


def newer_file(manifest: Mapping[str, Any], where: str, detail: str) -> NewerFile:
    """The error for a file from the future."""
    versions = manifest.get("versions")
    made_by = versions.get("geomlib", "version unknown") if isinstance(versions, dict) else "version unknown"
    return NewerFile(f"{where}: made by a newer geomlib ({made_by}): {detail}; upgrade geomlib to open it")


def _refuse_other_kinds(file: Path, start: bytes) -> None:
    for magic, kind in _OTHER_KINDS:
        if start.startswith(magic):
            raise FileFormatError(
                f"{file}: is {kind}; a model file ends in .safetensors, a resume file of geomlib in .ckpt, "
                "and 'geomlib model import' reads models of deepmd-kit"
            )


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):  # includes UnicodeDecodeError and JSONDecodeError
        raise FileFormatError(f"{file}: is not a model file: its header is no JSON") from None
    if not isinstance(value, dict):
        raise FileFormatError(f"{file}: is not a model file: its header is {type(value).__name__}, expected an object")
    return value


def _tensor_entry(file: Path, name: str, entry: Any) -> TensorEntry:
    where = f"{file}: is damaged: the header entry of tensor '{name}'"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise FileFormatError(f"{where} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in _ITEM_BYTES:
        raise FileFormatError(f"{where} has the unknown dtype {dtype!r}")
    for values, count in ((shape, None), (offsets, 2)):
        if not isinstance(values, list) or any(type(item) is not int or item < 0 for item in values):
            raise FileFormatError(f"{where} holds {values!r}, expected a list of whole numbers")
        if count is not None and len(values) != count:
            raise FileFormatError(f"{where} has {len(values)} offsets, expected {count}")
    start, stop = offsets
    if stop - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise FileFormatError(f"{where} gives {stop - start} bytes to a tensor of {dtype} and shape {shape}")
    return TensorEntry(dtype, tuple(shape), start, stop)
