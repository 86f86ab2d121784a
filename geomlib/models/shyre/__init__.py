"""SHyRe: hyperedges from the cliques of a projected graph, learned from a hypergraph of the same domain."""
