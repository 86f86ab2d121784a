"""Model files, checkpoints, and files of other packages."""
