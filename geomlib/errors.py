"""Every error that geomlib raises on purpose.

A message says what was wrong, where (file, row, key), what was expected and what to do. The command line prints
it as one line; a traceback means a bug in geomlib.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CompileError",
    "ConfigError",
    "DataError",
    "FileFormatError",
    "GeomlibError",
    "GeomlibWarning",
    "MissingExtra",
    "NewerFile",
    "SpecMismatch",
    "UnitError",
    "UnknownElement",
    "UnknownField",
    "nearest",
]


class GeomlibError(Exception):
    """Base of all errors that a user can mend."""


class DataError(GeomlibError):
    """Data that can't be used as it is: shapes, missing labels, non-finite numbers, sizes beyond memory."""


class UnknownField(DataError):
    """A field name that the field table does not know."""


class UnknownElement(DataError):
    """A chemical element that the net was not built for."""


class SpecMismatch(DataError):
    """A graph that was not built by the spec that the net needs."""


class UnitError(DataError):
    """A unit that is missing, unknown, or of another dimension than the field."""


class FileFormatError(GeomlibError):
    """A file that is damaged, of another kind, or unsafe to open."""


class NewerFile(FileFormatError):
    """A file written by a newer geomlib than this one."""


class ConfigError(GeomlibError):
    """A recipe or command line that can't be carried out."""


class MissingExtra(GeomlibError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'geomlib[{extra}]'")


class CompileError(GeomlibError):
    """Compiled code can't be made, or it doesn't give what eager evaluation gives."""


class GeomlibWarning(UserWarning):
    """Something that a user should know and that did not stop the work."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` with the closest known name, or an empty string.

    Args:
        name: what was given.
        known: the valid names.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
