"""Layers that more than one net uses."""
