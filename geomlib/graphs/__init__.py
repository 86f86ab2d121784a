"""Builders of graph structure, and the spec that names them."""
