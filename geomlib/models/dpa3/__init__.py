"""DPA3: line-graph potentials."""
