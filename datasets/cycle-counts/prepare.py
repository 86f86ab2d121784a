"""Make `sample.npz`: random regular graphs with the numbers of their cycles of length 3 to 6.

python datasets/cycle-counts/prepare.py --out new.npz
python datasets/cycle-counts/prepare.py --stats                 # statistics of the file that is here
"""

import argparse
import hashlib
from pathlib import Path

import networkx as nx
import numpy as np
import torch

from geomlib.data.flat import FlatStore
from geomlib.data.graph import GraphData
from geomlib.data.networks import from_networkx
from geomlib.data.stores import MemoryStore

HERE = Path(__file__).parent
NODES, DEGREE, LONGEST = 16, 4, 6
GRAPHS = 2600
PARTS = {"train": "0:2000", "val": "2000:2100", "test": "2100:2600"}


def count_cycles(network: nx.Graph, longest: int = LONGEST) -> list[int]:
    """Numbers of simple cycles of length 3, 4, …, `longest`.

    Every cycle is walked from its lowest node, in both directions.
    """
    neighbours = {node: sorted(network[node]) for node in network}
    found = [0] * (longest + 1)
    for first in network:
        paths = [(node, {first, node}) for node in neighbours[first] if node > first]
        while paths:
            last, seen = paths.pop()
            for node in neighbours[last]:
                if node == first and len(seen) > 2:
                    found[len(seen)] += 1
                elif node > first and node not in seen and len(seen) < longest:
                    paths.append((node, seen | {node}))
    return [number // 2 for number in found[3:]]


def graph(seed: int) -> GraphData:
    """A random 4-regular graph of 16 nodes, and the numbers of its cycles."""
    network = nx.random_regular_graph(DEGREE, NODES, seed=seed)
    ordered = nx.Graph()
    ordered.add_nodes_from(range(NODES))
    ordered.add_edges_from(network.edges)
    return from_networkx(ordered, target=torch.tensor([count_cycles(ordered)], dtype=torch.float64))


def store() -> MemoryStore:
    """All graphs; the number of a graph is its seed."""
    return MemoryStore([graph(seed) for seed in range(GRAPHS)], "cycle-counts")


def statistics(path: Path) -> str:
    """What the README says."""
    flat = FlatStore(path)
    target = np.concatenate([flat[index].target.numpy() for index in range(len(flat))])
    lines = [f"{len(flat)} graphs of {NODES} nodes, each of degree {DEGREE}"]
    for length, column in zip(range(3, LONGEST + 1), target.T, strict=True):
        low, high = column.min(), column.max()
        lines.append(f"cycles of length {length}: {column.mean():.2f} ± {column.std():.2f}, {low:.0f} to {high:.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stats", action="store_true")
    options = parser.parse_args()
    if options.out:
        FlatStore.write(store(), options.out, units={"target": "1"})
        print(f"{options.out}: {options.out.stat().st_size} bytes")
        print(f"sha256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}")
    if options.stats:
        print(statistics(HERE / "sample.npz"))


if __name__ == "__main__":
    main()
