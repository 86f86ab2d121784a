"""Structures from what a user types: a file that ASE reads, or a data set by the name of its card."""

from ase import Atoms
from ase.io import ParseError, read
from ase.io.extxyz import XYZError
from ase.io.formats import UnknownFileTypeError

from geomlib.data.atoms import to_atoms
from geomlib.errors import DataError, FileFormatError

__all__ = ["read_structure", "read_structures"]

_CARD = "card:"

_UNREADABLE = (
    UnknownFileTypeError,
    ParseError,
    XYZError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    RuntimeError,
    AssertionError,
)
"""What ASE's readers raise on files that are not what their name says."""


def read_structures(source: str) -> list[Atoms]:
    """All structures that `source` names.

    Args:
        source: path of a file, with `@index` at the end for some of its frames (`@0`, `@:10`, `@-1`; all if not
            given), or `card:NAME` or `card:NAME:INDEX` for a data set that has a card.

    Raises:
        FileFormatError: the file is no structure that ASE knows, or is damaged.
        DataError: there is no such frame.
    """
    if source.startswith(_CARD):
        return _from_card(source.removeprefix(_CARD))
    name, at, index = source.rpartition("@")
    if not at:
        name, index = source, ":"
    try:
        found = read(name, index=index)
    except _UNREADABLE as error:
        reason = str(error).strip() or type(error).__name__
        raise FileFormatError(f"{name}: can't be read as a structure: {reason}") from None
    except (IndexError, StopIteration):
        raise DataError(f"{name}: has no frame '{index}'") from None
    structures = found if isinstance(found, list) else [found]
    if not structures:
        raise DataError(f"{name}: holds no structures at '{index}'")
    return structures


def read_structure(source: str) -> Atoms:
    """The only structure, or the last one, that `source` names; see `read_structures`."""
    return read_structures(source if "@" in source or source.startswith(_CARD) else f"{source}@-1")[-1]


def _from_card(words: str) -> list[Atoms]:
    from geomlib.data.cards import CardStore

    name, _, index = words.partition(":")
    store = CardStore(name)
    if not index:
        return [to_atoms(graph) for graph in store]
    try:
        position = int(index)
    except ValueError:
        raise DataError(f"card '{name}': '{index}' is no index; expected a whole number") from None
    if not -len(store) <= position < len(store):
        raise DataError(f"card '{name}': has {len(store)} structures, there is none at {position}")
    return [to_atoms(store[position % len(store)])]
