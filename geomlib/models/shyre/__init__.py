"""SHyRe: hyperedges from the cliques of a projected graph, learned from a hypergraph of the same domain."""

from geomlib.models.shyre.net import SHyRe as SHyRe

__all__ = ["SHyRe"]
