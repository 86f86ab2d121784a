"""The model families. A file can only name a key of `FAMILIES`, never a path to import."""

import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from geomlib.errors import FileFormatError, nearest

if TYPE_CHECKING:
    from geomlib.models.base import Net
    from geomlib.models.combined.net import CombinedNet as CombinedNet
    from geomlib.models.dmpnn.net import DMPNN as DMPNN
    from geomlib.models.dpa3.multihead import MultiHeadDPA3 as MultiHeadDPA3
    from geomlib.models.dpa3.net import DPA3 as DPA3
    from geomlib.models.mist.conductivity import ConductivityNet as ConductivityNet
    from geomlib.models.mist.excess import ExcessNet as ExcessNet
    from geomlib.models.mist.mixture import MixtureNet as MixtureNet
    from geomlib.models.mist.net import MIST as MIST
    from geomlib.models.mist.property import MISTProperty as MISTProperty
    from geomlib.models.shyre.net import SHyRe as SHyRe
    from geomlib.models.spe.encoder import SPE as SPE
    from geomlib.models.spe.net import GINE as GINE
    from geomlib.models.spe.net import GPS as GPS
    from geomlib.models.sphnet.net import SPHNet as SPHNet
    from geomlib.models.sphnet.qhnet import QHNet as QHNet
    from geomlib.models.sphnet.so2net import SO2Net as SO2Net

__all__ = [
    "DMPNN",
    "DPA3",
    "FAMILIES",
    "GINE",
    "GPS",
    "MIST",
    "SPE",
    "CombinedNet",
    "ConductivityNet",
    "ExcessNet",
    "MISTProperty",
    "MixtureNet",
    "MultiHeadDPA3",
    "QHNet",
    "SHyRe",
    "SO2Net",
    "SPHNet",
    "family",
]

FAMILIES: dict[str, str] = {
    "combined": "geomlib.models.combined.net:CombinedNet",
    "dmpnn": "geomlib.models.dmpnn.net:DMPNN",
    "dpa3": "geomlib.models.dpa3.net:DPA3",
    "dpa3-multihead": "geomlib.models.dpa3.multihead:MultiHeadDPA3",
    "excess": "geomlib.models.mist.excess:ExcessNet",
    "gine": "geomlib.models.spe.net:GINE",
    "gps": "geomlib.models.spe.net:GPS",
    "ionic-conductivity": "geomlib.models.mist.conductivity:ConductivityNet",
    "mist": "geomlib.models.mist.net:MIST",
    "mist-property": "geomlib.models.mist.property:MISTProperty",
    "mixture": "geomlib.models.mist.mixture:MixtureNet",
    "qhnet": "geomlib.models.sphnet.qhnet:QHNet",
    "shyre": "geomlib.models.shyre.net:SHyRe",
    "so2net": "geomlib.models.sphnet.so2net:SO2Net",
    "sphnet": "geomlib.models.sphnet.net:SPHNet",
}
"""Family name → where its net stands. Packages add theirs through the entry-point group `geomlib.models`."""

_NETS = {target.split(":")[1]: target for target in (*FAMILIES.values(), "geomlib.models.spe.encoder:SPE")}


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def family(name: str) -> "type[Net]":
    """Net class of a family.

    Raises:
        FileFormatError: the family is neither built in nor offered by an installed package.
    """
    if name in FAMILIES:
        return _resolve(FAMILIES[name])
    for entry in entry_points(group="geomlib.models"):
        if entry.name == name:
            return entry.load()
    raise FileFormatError(f"model family '{name}' is unknown{nearest(name, FAMILIES)}; known: {sorted(FAMILIES)}")


def __getattr__(name: str) -> Any:
    if name in _NETS:
        return _resolve(_NETS[name])
    raise AttributeError(f"module 'geomlib.models' has no attribute '{name}'")
