"""Any data a user names: a data set, its card, or a file or folder in a format that geomlib reads."""

from collections.abc import Sequence
from pathlib import Path

import h5py

from geomlib.data.asedb import AseDbStore
from geomlib.data.atoms import known_labels
from geomlib.data.cards import CardStore, find_cards
from geomlib.data.deepmd import DeepmdStore
from geomlib.data.extxyz import ExtxyzStore, first_frame
from geomlib.data.flat import FlatStore
from geomlib.data.stores import Store
from geomlib.errors import DataError, nearest

__all__ = ["open_source"]

_XYZ = (".xyz", ".extxyz")
_DATABASES = (".db", ".aselmdb")


def open_source(source: str | Path, fields: Sequence[str] | None = None, partial: Sequence[str] = ()) -> Store:
    """Open data by name or path.

    Args:
        source: name of a data set, path of a card, extended XYZ file (`.gz` too), ASE database, flat store, or
            deepmd-kit system (folder, pattern, HDF5 file).
        fields: labels to read; None takes those among energy, forces, stress and virial that the first graph has.
        partial: labels that may be missing or not finite, NaN in the graphs; `"*"` stands for all, and lets positions
            and cells be so too.

    Raises:
        DataError: nothing of that name, or of an unknown kind.
    """
    path = Path(source)
    text = str(source)
    name = path.name.removesuffix(".gz")
    if (path / "header.json").is_file() or path.suffix == ".npz":
        return FlatStore(path, fields)
    if (path / "card.yaml").is_file() or path.suffix in (".yaml", ".yml"):
        return CardStore(text)
    if name.endswith(_XYZ) and path.is_file():
        wanted = known_labels(first_frame(path)) if fields is None else fields
        return ExtxyzStore(path, fields=wanted, partial=_gaps(wanted, partial))
    if name.endswith(_DATABASES) and path.is_file():
        wanted = known_labels(AseDbStore.first_row(path)) if fields is None else fields
        return AseDbStore(path, fields=wanted, partial=_gaps(wanted, partial))
    file, _, _ = text.partition("#")
    if path.is_dir() or any(sign in text for sign in "*?[") or (Path(file).is_file() and h5py.is_hdf5(file)):
        wanted = DeepmdStore.labels_of(text) if fields is None else fields
        return DeepmdStore(text, fields=wanted, partial=_gaps(wanted, partial))
    known = find_cards()
    if text in known:
        return CardStore(text)
    if path.exists():
        raise DataError(
            f"{path}: of an unknown kind; expected extended XYZ ({', '.join(_XYZ)}), an ASE database "
            f"({', '.join(_DATABASES)}), a flat store, a deepmd-kit system or a card"
        )
    raise DataError(f"'{source}' is neither a file nor a data set{nearest(text, known)}; data sets: {sorted(known)}")


def _gaps(labels: Sequence[str], partial: Sequence[str]) -> Sequence[str]:
    return [*labels, "pos", "cell"] if "*" in partial else partial
