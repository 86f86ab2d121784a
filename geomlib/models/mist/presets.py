"""Sizes of the molecular encoder, by name."""

from collections.abc import Mapping

__all__ = ["PRESETS"]


def _size(layers: int, width: int, heads: int, feedforward: int, positions: int) -> dict[str, int]:
    return {"layers": layers, "width": width, "heads": heads, "feedforward": feedforward, "positions": positions}


PRESETS: Mapping[str, Mapping[str, int]] = {
    "tiny": _size(4, 128, 4, 512, 256),
    "small": _size(6, 256, 8, 1024, 512),
    "28M": _size(8, 512, 8, 2048, 2048),
    "1.8B": _size(28, 2304, 18, 9216, 2048),
}
"""Preset name → constructor arguments of the encoder; `28M` and `1.8B` are the published sizes (arXiv 2510.18900)."""
