"""Committees in a file: which model files belong together."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from geomlib.errors import FileFormatError
from geomlib.files.atomic import write_atomically

__all__ = ["COMMITTEE_FILE", "expand_committees", "read_committee", "write_committee"]

COMMITTEE_FILE = "committee.json"
"""Name of the file in the folder of a committee's run."""

_KIND = "geomlib committee"
_SCHEMA = 1


def write_committee(
    path: str | os.PathLike[str], members: Iterable[str | os.PathLike[str]], notes: Mapping[str, Any] | None = None
) -> Path:
    """Write the names of model files, relative to the file itself, so that the folder can be moved.

    Args:
        path: the file, ending in `.json`.
        members: model files.
        notes: what else is to stand in it, JSON-able.
    """
    file = Path(path)
    names = [Path(os.path.relpath(member, file.parent)).as_posix() for member in members]
    content = {"kind": _KIND, "schema": _SCHEMA, "members": names, **(notes or {})}
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
    return file


def read_committee(path: str | os.PathLike[str]) -> list[Path]:
    """Model files of a committee.

    Raises:
        FileFormatError: the file is none of a committee, or a member is not there.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{file}: can't be read: {error.strerror}") from None
    except ValueError as error:
        raise FileFormatError(f"{file}: is no list of a committee: {error}") from None
    members = content.get("members") if isinstance(content, dict) and content.get("kind") == _KIND else None
    if not isinstance(members, list) or not members or not all(isinstance(name, str) for name in members):
        raise FileFormatError(f"{file}: is no list of a committee; expected kind '{_KIND}' and members, model files")
    if content.get("schema") != _SCHEMA:
        raise FileFormatError(f"{file}: has schema {content.get('schema')}, but this geomlib reads {_SCHEMA}")
    found = [file.parent / name for name in members]
    for member in found:
        if not member.is_file():
            raise FileFormatError(f"{file}: names {member}, which is not there")
    return found


def expand_committees(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Model files of `paths`, among which files of committees (`.json`) stand for their members."""
    return [
        member for path in map(Path, paths) for member in (read_committee(path) if path.suffix == ".json" else [path])
    ]
