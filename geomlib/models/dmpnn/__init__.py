"""Directed message passing on the bonds of molecules."""

from geomlib.models.dmpnn.net import DMPNN

__all__ = ["DMPNN"]
