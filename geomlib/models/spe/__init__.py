"""Stable and expressive positional encodings, others beside them, and nets that use them."""
