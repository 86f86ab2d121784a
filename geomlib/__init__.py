"""geomlib: train, check and use geometric models of molecules, materials, meshes and graphs.

Importing the package imports none of torch, lightning, e3nn or rdkit; the names below load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from geomlib.apply.ase import Calculator as Calculator
    from geomlib.data.graph import GraphData as GraphData
    from geomlib.files.modelfile import load as load
    from geomlib.files.modelfile import save as save

_LAZY = {
    "Calculator": "geomlib.apply.ase",
    "GraphData": "geomlib.data.graph",
    "load": "geomlib.files.modelfile",
    "save": "geomlib.files.modelfile",
}

__all__ = ["Calculator", "GraphData", "__version__", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'geomlib' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
