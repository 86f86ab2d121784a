"""All positional encodings by name."""

from collections.abc import Mapping
from typing import Any

from geomlib.errors import ConfigError, nearest
from geomlib.models.spe.columnwise import PEARL, BasisNet, SignNet
from geomlib.models.spe.encoder import SPE, PairSPE
from geomlib.models.spe.encoding import PEG, RWSE, LaplacianEncoding, NoEncoding, PositionalEncoding, split_kind

__all__ = ["ENCODINGS", "make_encoding"]

ENCODINGS: dict[str, type[PositionalEncoding]] = {
    cls.kind: cls for cls in (BasisNet, LaplacianEncoding, NoEncoding, PEARL, PEG, PairSPE, RWSE, SPE, SignNet)
}
"""Name → encoding."""


def make_encoding(options: str | Mapping[str, Any] | None) -> PositionalEncoding:
    """Encoding by name, or from `{kind: …, …}` with its arguments.

    Raises:
        ConfigError: an unknown name or argument.
    """
    kind, arguments = split_kind(options or "none", "none")
    if kind not in ENCODINGS:
        raise ConfigError(f"encoding '{kind}' is unknown{nearest(kind, ENCODINGS)}; there are {sorted(ENCODINGS)}")
    try:
        return ENCODINGS[kind](**arguments)
    except TypeError as error:
        raise ConfigError(f"encoding '{kind}': {error}") from None
