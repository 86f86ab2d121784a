"""DPA3: line-graph potentials."""

from geomlib.models.dpa3.net import DPA3
from geomlib.models.dpa3.presets import PRESETS

__all__ = ["DPA3", "PRESETS"]
