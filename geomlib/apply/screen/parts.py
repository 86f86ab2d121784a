"""The folder of finished chunks beside the output of a screening, so that one that was interrupted goes on."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from geomlib.errors import ConfigError
from geomlib.files.atomic import write_atomically

__all__ = ["Finished", "Parts", "chunk_file"]


def chunk_file(folder: Path, index: int) -> Path:
    """File of a finished chunk."""
    return folder / f"chunk-{index:08d}.txt"


@dataclass(frozen=True, slots=True)
class Finished:
    """A chunk that is done.

    Args:
        text: its rows as CSV.
        reasons: what the statuses say, without what belongs to one row alone → number of rows.
    """

    text: str
    reasons: Mapping[str, int]

    def to_bytes(self) -> bytes:
        """Content of its file: the reasons as a line of JSON, then the rows."""
        return f"{json.dumps(self.reasons)}\n{self.text}".encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Finished":
        """What `to_bytes` wrote."""
        head, _, rows = content.partition(b"\n")
        return cls(rows.decode(), json.loads(head))


class Parts:
    """Chunk files and what they belong to.

    A chunk file is there in whole or not at all. The manifest holds everything that the result depends on; chunks of
    another manifest are never taken up.

    Args:
        folder: where they lie.
        manifest: what the result depends on, JSON-able.
        restart: throw away what is there.

    Raises:
        ConfigError: the folder holds another screening.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, object], *, restart: bool = False) -> None:
        self.folder = folder
        if restart:
            self.remove()
        file = folder / "manifest.json"
        wanted = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        if file.exists() and (found := file.read_text(encoding="utf-8")) != wanted:
            old, new = json.loads(found), json.loads(wanted)
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            raise ConfigError(
                f"{folder}: holds a screening that differs in {', '.join(changed)}; finish that one, give another "
                "output, or begin anew with --restart"
            )
        write_atomically(file, wanted.encode())

    def path(self, index: int) -> Path:
        """File of a chunk."""
        return chunk_file(self.folder, index)

    def __contains__(self, index: int) -> bool:
        return self.path(index).exists()

    def write(self, index: int, content: bytes) -> None:
        """Keep a finished chunk, as `Finished.to_bytes` gives it."""
        write_atomically(self.path(index), content)

    def finished(self, count: int) -> Iterator[Finished]:
        """All chunks in their order."""
        for index in range(count):
            yield Finished.from_bytes(self.path(index).read_bytes())

    def remove(self) -> None:
        """Remove the folder."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
