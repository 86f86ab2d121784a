"""`geomlib reconstruct`: hyperedges of a projected graph."""

import argparse
import json
import time
from pathlib import Path

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib reconstruct`."""
    parser.epilog = "example:\n  geomlib reconstruct model.safetensors contacts.txt groups.csv --truth groups.txt"
    parser.add_argument("model", metavar="MODEL", help="a SHyRe model (.safetensors) or checkpoint (.ckpt)")
    parser.add_argument(
        "graph", metavar="GRAPH", help="edge list: 'u v' a line, or 'u v weight'; a node alone is isolated"
    )
    parser.add_argument(
        "out", metavar="OUT", help="hyperedges: .txt one a line, .csv with probabilities, .json HIF (XGI reads it)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="least probability; that of the model if not given"
    )
    parser.add_argument("--cover", action="store_true", help="add likely candidates until every edge is in one")
    parser.add_argument("--peel", action="store_true", help="add the pairs that the edge weights prove")
    parser.add_argument("--known", metavar="FILE", help="hyperedges that are known already, one a line")
    parser.add_argument("--truth", metavar="FILE", help="true hyperedges, to compare with")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib reconstruct`."""
    from geomlib.apply.reconstruct import as_graph, match_labels, reconstruct
    from geomlib.data.hypergraph_formats import read_hypergraph, write_hypergraph
    from geomlib.data.hypergraph_metrics import agreement
    from geomlib.errors import FileFormatError

    if Path(args.out).suffix not in (".txt", ".csv", ".json", ""):
        raise FileFormatError(f"{args.out}: hypergraphs are written as .txt, .csv or .json (HIF)")
    begin = time.perf_counter()
    graph = as_graph(args.graph)
    known = None if args.known is None else match_labels(read_hypergraph(args.known), graph, args.known)
    truth = None if args.truth is None else match_labels(read_hypergraph(args.truth), graph, args.truth)
    found = reconstruct(
        args.model, graph, args.threshold, args.cover, known=known, weighted="peel" if args.peel else "ignore"
    )
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_hypergraph(found.hypergraph, args.out, found.probability.tolist())
    values = {
        "nodes": graph.num_nodes,
        "edges": len(graph.edges),
        "candidates": len(found.candidates),
        "hyperedges": len(found.hypergraph),
        "mean_size": float(found.hypergraph.sizes.mean()) if len(found.hypergraph) else 0.0,
        "threshold": found.threshold,
        "covered_edges": found.covered,
        "seconds": round(time.perf_counter() - begin, 3),
        "file": args.out,
    }
    if truth is not None:
        values["agreement"] = agreement(truth, found.hypergraph, found.candidates).to_dict()
    if args.json:
        print(json.dumps(values))
        return 0
    print(f"graph       {graph.num_nodes:,} nodes, {len(graph.edges):,} edges")
    print(f"candidates  {len(found.candidates):,}, taken above a probability of {found.threshold:.3f}")
    print(f"hyperedges  {len(found.hypergraph):,}, mean size {values['mean_size']:.2f}")
    print(f"covered     {100 * found.covered:.1f} % of the edges")
    if truth is not None:
        score = agreement(truth, found.hypergraph, found.candidates)
        print(f"agreement   Jaccard {score.jaccard:.4f}, precision {score.precision:.4f}, recall {score.recall:.4f}")
    print(f"wrote {args.out}")
    return 0
