"""Many structures that move at the same time: their positions, neighbour lists and evaluation as one batch."""

from geomlib.apply.batched.batch import Member, Predictions, StructureBatch, admit, fixed_atoms, frame_of

__all__ = ["Member", "Predictions", "StructureBatch", "admit", "fixed_atoms", "frame_of"]
