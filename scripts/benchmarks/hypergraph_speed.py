"""Speed and memory of hypergraph reconstruction on a made-up bibliography, stage by stage.

The graph is the projection of `geomlib.testing.hypergraphs.coauthors(200_000)`: about 312,000 authors and 723,000
pairs of co-authors. A sampler is fitted on another such hypergraph of 20,000 papers; then the large graph goes through
maximal cliques, sampler, count features and prediction. Besides: ρ on a set with 15,000 maximal cliques, and motif
features of 5,000 candidates, both on a dense contact graph and on the large one.

    OMP_NUM_THREADS=2 python scripts/benchmarks/hypergraph_speed.py [--papers 200000] [--json FILE]
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from geomlib.data.hypergraphs import Hypergraph
from geomlib.graphs.cliques import maximal_cliques
from geomlib.models.shyre.counts import count_features
from geomlib.models.shyre.motifs import motif_features
from geomlib.models.shyre.net import SHyRe
from geomlib.models.shyre.sampler import CliqueSampler, RhoTable
from geomlib.models.shyre.statistics import standardised
from geomlib.testing.hypergraphs import coauthors

ROWS: dict[str, float] = {}


class stage:
    """Times a block and prints it with the largest memory so far."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        ROWS[self.name] = round(wall, 3)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{self.name:<42} {wall:8.2f} s wall {cpu:8.2f} s CPU   peak {memory:5.2f} GiB", flush=True)


def contacts(nodes: int = 242, seed: int = 0) -> Hypergraph:
    """Meetings in a school: many small groups within and between classes, with about 15,000 maximal cliques."""
    rng = np.random.default_rng(seed)
    classes = np.arange(nodes) % 10
    sets = []
    for _ in range(9000):
        size = int(rng.choice([2, 3, 4, 5], p=[0.7, 0.2, 0.08, 0.02]))
        pool = np.flatnonzero(classes == rng.integers(10)) if rng.random() < 0.62 else np.arange(nodes)
        sets.append(rng.choice(pool, size, replace=False).tolist())
    return Hypergraph.from_sets(sets, nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--papers", type=int, default=200_000)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()

    source = coauthors(args.papers // 10, seed=1)
    source_cliques = maximal_cliques(source.project())
    sampler = CliqueSampler.fit(RhoTable.of(source, source_cliques), len(source), args.papers // 2)
    torch.manual_seed(0)
    net = SHyRe("count", hidden=[100], members=1)
    query = coauthors(args.papers, seed=0)
    graph = query.project()
    print(f"{query}, {graph}")
    begin = time.perf_counter()
    with stage("maximal cliques"):
        cliques = maximal_cliques(graph)
    with stage("sampler"):
        found = sampler.candidates(cliques)
    with stage("count features"):
        features = standardised(count_features(graph, cliques, found))
    with stage("prediction"), torch.no_grad():
        net.probability(torch.from_numpy(features), torch.from_numpy(found.maximal))
    ROWS["cliques to prediction"] = round(time.perf_counter() - begin, 2)
    print(f"{len(cliques):,} maximal cliques, {len(found):,} candidates, {ROWS['cliques to prediction']} s in all")
    with stage("ρ of the whole graph"):
        RhoTable.of(query, cliques)
    chosen = np.sort(np.random.default_rng(0).choice(len(found), min(5000, len(found)), replace=False))
    with stage("motif features of 5,000 candidates"):
        motif_features(graph, cliques, found.sets.take(chosen))

    school = contacts()
    network = school.project()
    cliques = maximal_cliques(network)
    print(f"contacts: {school}, {network}, {len(cliques):,} maximal cliques")
    with stage("ρ on the contact graph"):
        RhoTable.of(school, cliques)
    found = CliqueSampler.every(cliques, 3).candidates(cliques)
    chosen = np.sort(np.random.default_rng(0).choice(len(found), 5000, replace=False))
    with stage("motif features of 5,000 candidates there"):
        motif_features(network, cliques, found.sets.take(chosen))
    ROWS["peak_GiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)
    if args.json:
        Path(args.json).write_text(json.dumps(ROWS, indent=1) + "\n")


if __name__ == "__main__":
    main()
