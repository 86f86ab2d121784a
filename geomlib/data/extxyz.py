"""Extended XYZ files as a store."""

import gzip
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ase import Atoms
from ase.io.extxyz import XYZError, read_xyz

from geomlib.data.atoms import from_atoms
from geomlib.data.splits import parse_indices
from geomlib.data.stores import MemoryStore, common_fields
from geomlib.errors import DataError, FileFormatError, GeomlibWarning

__all__ = ["AtomsStore", "ExtxyzStore", "first_frame", "read_frames"]


def read_frames(path: Path) -> Iterator[str]:
    """Text of each frame of an extended XYZ file (`.gz` too).

    Raises:
        FileFormatError: missing, truncated, or without the line that counts the atoms.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            line = file.readline()
            while line:
                if not line.strip():
                    line = file.readline()
                    continue
                if not line.strip().isdecimal():
                    raise FileFormatError(
                        f"{path}, frame {number}: expected the number of atoms, found '{line.strip()[:60]}'"
                    )
                atoms = int(line)
                lines = [line, file.readline(), *(file.readline() for _ in range(atoms))]
                present = sum(bool(entry.strip()) for entry in lines[2:])
                if present < atoms or not lines[1]:
                    raise FileFormatError(
                        f"{path}, frame {number}: holds {present} of {atoms} atoms; the file is truncated or malformed"
                    )
                line = file.readline()
                while line.lstrip().startswith("VEC"):  # cell vectors, as some programs write them
                    lines.append(line)
                    line = file.readline()
                yield "".join(lines)
                number += 1
    except FileNotFoundError:
        raise FileFormatError(f"{path}: there is no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}, frame {number}: can't be read ({' '.join(str(error).split())})") from None
    if number == 0:
        raise FileFormatError(f"{path}: holds no frames")


def _parse(text: str, where: str) -> Atoms:
    try:
        return next(read_xyz(io.StringIO(text), 0))
    except (
        XYZError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AssertionError,
        StopIteration,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFormatError(f"{where}: not extended XYZ ({reason[:160]})") from None


def first_frame(path: Path) -> Atoms:
    """The first structure of an extended XYZ file.

    Raises:
        FileFormatError: see `read_frames`.
    """
    return _parse(next(read_frames(path)), f"{path}, frame 0")


class AtomsStore(MemoryStore):
    """Graphs made of ASE atoms, all read at once; base of the stores of ASE's formats.

    Args:
        frames: pairs of atoms and where they come from.
        name: of the whole.
        keys: field → key, where it is not the field's name.
        units: field → unit, where it is not the internal one.
        fields: labels to read; every frame must have all.
        partial: labels among them that may be missing; NaN in the graph.

    Raises:
        DataError: a label is missing or not finite; the message says where.
    """

    def __init__(
        self,
        frames: Iterator[tuple[Atoms, str]],
        name: str,
        keys: Mapping[str, str] | None,
        units: Mapping[str, str] | None,
        fields: Sequence[str],
        partial: Sequence[str],
    ) -> None:
        graphs, self._places = [], []
        for atoms, where in frames:
            graphs.append(
                from_atoms(atoms, (*fields, *(p for p in partial if p not in (*fields, "pos", "cell"))), where,
                           keys=keys, units=units, partial=partial)
            )  # fmt: skip
            self._places.append(where)
        if not graphs:
            raise DataError(f"{name}: holds no structures")
        shared = set(common_fields(graphs))
        for extra in ("charge", "spin_multiplicity"):
            having = [index for index, graph in enumerate(graphs) if extra in graph]
            if having and extra not in shared:
                warnings.warn(
                    f"{name}: only {len(having)} of {len(graphs)} frames say '{extra}'; it is left out. Give it to all "
                    "or to none",
                    GeomlibWarning,
                    stacklevel=3,
                )
                for index in having:
                    del graphs[index][extra]
        super().__init__(graphs, name, tuple(p for p in partial if p not in ("pos", "cell")))

    def describe(self, index: int) -> str:
        """See `Store`."""
        return self._places[self._position(index)]


class ExtxyzStore(AtomsStore):
    """One extended XYZ file, read whole (large files: convert to `FlatStore` once).

    Args:
        path: the file, `.gz` too.
        keys: field → key in the file, e.g. `{"energy": "dft_energy"}`.
        units: field → unit in the file; by default ASE's, which are geomlib's: Å, eV, eV/Å, eV/Å³.
        fields: labels to read; every frame must have all.
        partial: labels among them that may be missing in some frames; NaN in the graph.
        index: which frames, e.g. `"0:100"` or `"::10"`.

    Raises:
        FileFormatError: the file is missing, truncated or malformed; the message names the frame.
        DataError: a label is missing or not finite; the message names frame and key.
    """

    def __init__(
        self,
        path: str | Path,
        keys: dict[str, str] | None = None,
        units: dict[str, str] | None = None,
        fields: Sequence[str] = ("energy", "forces"),
        partial: Sequence[str] = (),
        index: str = ":",
    ) -> None:
        self.path = Path(path)
        super().__init__(self._frames(index), str(path), keys, units, fields, partial)

    def _frames(self, index: str) -> Iterator[tuple[Atoms, str]]:
        texts = list(read_frames(self.path))
        for number in parse_indices(index, len(texts), f"{self.path}: index").tolist():
            where = f"{self.path}, frame {number}"
            yield _parse(texts[number], where), where
