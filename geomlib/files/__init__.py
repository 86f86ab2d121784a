"""Model files, checkpoints and imports from other packages; nothing in a file is ever executed."""
