"""Make coauthors: twelve made-up bibliographies as projected graphs with their papers as hyperedges.

python datasets/coauthors/prepare.py [--out datasets/coauthors/sample.npz] [--stats]
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from geomlib.data.flat import FlatStore
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.stores import MemoryStore
from geomlib.graphs.cliques import maximal_cliques
from geomlib.testing.hypergraphs import coauthors

OUT = Path(__file__).parent / "sample.npz"
PAPERS = 250
GRAPHS = 12


def graphs() -> MemoryStore:
    """The bibliographies, each from a seed of its own."""
    return MemoryStore([coauthors(PAPERS, seed=1000 + k).to_data(weighted=True) for k in range(GRAPHS)], "coauthors")


def statistics(path: Path) -> None:
    """Print what is in the file, and how far reading maximal cliques as hyperedges gets."""
    store = FlatStore(path)
    hypergraphs = [Hypergraph.from_data(store[position]) for position in range(len(store))]
    scores = [agreement(h, maximal_cliques(h.project())).jaccard for h in hypergraphs]
    sizes = np.concatenate([h.sizes for h in hypergraphs])
    edges = [len(h.project().edges) for h in hypergraphs]
    print(f"graphs {len(store)}, nodes {sum(h.num_nodes for h in hypergraphs)}, edges {sum(edges)}")
    print(f"hyperedges {len(sizes)}, mean size {sizes.mean():.2f}, largest {sizes.max()}")
    print(f"maximal cliques as hyperedges: Jaccard {np.mean(scores):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--stats", action="store_true", help="only print numbers about the file")
    args = parser.parse_args()
    if not args.stats:
        args.out.unlink(missing_ok=True)
        FlatStore.write(graphs(), args.out)
        print(f"{args.out.stat().st_size} bytes, sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}")
    statistics(args.out)


if __name__ == "__main__":
    main()
