"""Published sizes of DPA3, by name."""

from collections.abc import Mapping
from typing import Any

from geomlib.data.elements import SYMBOLS

__all__ = ["PRESETS"]

_MEDIUM = {"node_dim": 128, "edge_dim": 64, "angle_dim": 32}
_WIDE = {"node_dim": 256, "edge_dim": 128, "angle_dim": 32}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    **{f"L{layers}": {"layers": layers, **_MEDIUM} for layers in (3, 6, 12, 16, 24)},
    **{f"L{layers}-wide": {"layers": layers, **_WIDE} for layers in (3, 6, 12)},
    "DPA-3.1-3M": {
        "layers": 16,
        **_MEDIUM,
        "elements": list(SYMBOLS[1:]),
        "edge_init": "inverse_distance",
        "activation": "silut:3",
        "fitting_activation": "silut:3",
        "dataset_encoding": 31,
    },
}
"""Preset name → the constructor arguments in which it differs from the defaults.

Source: the deepmd-kit documentation and examples (L3 to L24) and the released DPA-3.1-3M model section.
"""
