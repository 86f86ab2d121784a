"""Several nets and descriptors under one head."""

from geomlib.models.combined.net import CombinedNet

__all__ = ["CombinedNet"]
