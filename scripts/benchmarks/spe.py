"""SPE beside its straightforward evaluation: time, memory, and the eigensolver beside PyG's.

The straightforward evaluation stands here only. It is that of the published code: W of all graphs padded to the
largest one, `[nodes, largest, m]`; each layer gathers, sums and transforms all rows; padded columns are masked at the
end. Each measurement runs in a process of its own, so that peak memory is that of one evaluation; outputs and
gradients are compared between them.

    python scripts/benchmarks/spe.py [--data ../shared/data/zinc/val.csv] [--graphs 128] [--json]

Without the file, random molecule-like graphs of the same sizes are used.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import networkx as nx
import torch

from geomlib.graphs.spectral import LaplacianModes
from geomlib.models.spe.encoder import SPE

D, M = 37, 16
WAYS = {
    "padded": "straightforward, padded",
    "whole": "SPE, everything kept (recompute: none)",
    "pieces": "SPE, columns in pieces (the default)",
}


def molecules(path: Path, graphs: int) -> list[torch.Tensor]:
    """Bonds of the first molecules of a table, `[2, bonds]` each; or of random molecule-like graphs."""
    if path.exists():
        from rdkit import Chem

        rows = path.read_text().splitlines()[1 : graphs + 1]
        found = [Chem.MolFromSmiles(row.split(",")[1]) for row in rows]
        bonds = [[(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()] for molecule in found]
    else:
        bonds = []
        generator = torch.Generator().manual_seed(0)
        for seed in range(graphs):
            size = int(torch.randint(14, 33, (1,), generator=generator))
            net = nx.random_labeled_tree(size, seed=seed)
            for _ in range(3):
                net.add_edge(*torch.randperm(size, generator=generator)[:2].tolist())
            bonds.append(list(net.edges))
    return [torch.tensor(row).T for row in bonds]


def batch(bonds: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Eigenvalues, eigenvectors, edges, graph of each node, number of modes."""
    sizes = torch.tensor([int(row.max()) + 1 for row in bonds])
    first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    edges = torch.cat([torch.cat([row, row.flip(0)], 1) + start for row, start in zip(bonds, first, strict=False)], 1)
    values, vectors, count = LaplacianModes(D).modes(edges, first)
    return values.float(), vectors.float(), edges, torch.repeat_interleave(torch.arange(len(sizes)), sizes), count


def padded(net: SPE, values, vectors, edges, owner, count) -> torch.Tensor:
    """SPE as the equations stand there."""
    sizes = torch.bincount(owner)
    largest = int(sizes.max())
    local = torch.arange(len(owner)) - (sizes.cumsum(0) - sizes)[owner]
    columns = vectors.new_zeros(len(values), largest, D)
    columns[owner, local] = vectors
    weights = net.weights(values, vectors, owner, count)
    rows = torch.einsum("ud,udm,ujd->ujm", vectors, weights[owner], columns[owner])
    for layer in net.rho.layers:
        messages = torch.zeros_like(rows).index_add(0, edges[1], rows[edges[0]])
        rows = layer.mlp((1.0 + layer.eps) * rows + messages)
    real = torch.arange(largest) < sizes[owner][:, None]
    return (rows * real[..., None]).sum(1)


def measure(way: str, path: Path, graphs: int, repeats: int, norm: str, outputs: Path) -> dict[str, float]:
    """Time of forward and backward, and what they add to peak memory; outputs and gradients go to a file."""
    torch.set_num_threads(1)
    inputs = batch(molecules(path, graphs))
    torch.manual_seed(0)
    net = SPE(D, M, rho={"norm": norm}, recompute="auto" if way == "pieces" else "none")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        net.zero_grad()
        start = time.process_time()
        out = padded(net, *inputs) if way == "padded" else net(*inputs)
        forward = time.process_time() - start
        out.square().mean().backward()
        times.append((time.process_time() - start, forward))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    gradients = [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
    torch.save([out.detach(), torch.cat(gradients)], outputs)
    seconds, forward = min(times)
    return {"seconds": seconds, "forward_seconds": forward, "peak_MiB": peak}


def solvers(path: Path, graphs: int) -> dict[str, float]:
    """Microseconds per graph of the eigensolver and of PyG's transform."""
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE

    torch.set_num_threads(1)
    bonds = molecules(path, graphs)
    _, _, edges, owner, _ = batch(bonds)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(owner).cumsum(0)])
    singles = [torch.cat([row, row.flip(0)], 1) for row in bonds]
    data = [Data(edge_index=row, num_nodes=int(row.max()) + 1) for row in singles]
    peer = AddLaplacianEigenvectorPE(4, attr_name="pe")  # k must be below the number of nodes of every graph
    modes = LaplacianModes(D)

    def best(function) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            function()
            times.append(time.process_time() - start)
        return min(times) / len(bonds) * 1e6

    found = {
        "AddLaplacianEigenvectorPE": best(lambda: [peer(one.clone()) for one in data]),
        "LaplacianModes, a batch": best(lambda: modes.modes(edges, first)),
        "LaplacianModes, one by one": best(
            lambda: [modes.modes(row, torch.tensor([0, one.num_nodes])) for row, one in zip(singles, data, strict=True)]
        ),
    }
    net = nx.random_regular_graph(3, 2000, seed=0)
    row = torch.tensor(list(net.edges)).T
    start = time.process_time()
    LaplacianModes(16).modes(torch.cat([row, row.flip(0)], 1), torch.tensor([0, 2000]))
    found["2,000 nodes, 16 modes"] = (time.process_time() - start) * 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared/data/zinc/val.csv")
    parser.add_argument("--graphs", type=int, default=128, help="graphs of the batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--norm", choices=("layer", "none"), default="layer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", choices=(*WAYS, "solvers"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "solvers":
        print(json.dumps(solvers(options.data, options.graphs)))
        return
    if options.only:
        found = measure(options.only, options.data, options.graphs, options.repeats, options.norm, options.out)
        print(json.dumps(found))
        return
    results: dict[str, dict[str, float]] = {}
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (*WAYS, "solvers"):
            command = [
                sys.executable,
                __file__,
                "--only",
                name,
                "--out",
                str(Path(folder, name)),
                "--norm",
                options.norm,
            ]
            command += ["--data", str(options.data), "--graphs", str(options.graphs), "--repeats", str(options.repeats)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            results[name] = json.loads(done.stdout.splitlines()[-1])
            if name in WAYS:
                kept[name] = torch.load(Path(folder, name), weights_only=True)
    for name in ("whole", "pieces"):
        pairs = zip(kept[name], kept["padded"], strict=True)
        results[name]["difference"] = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    base = results["padded"]
    print(f"{options.graphs} graphs, d = {D}, m = {M}, ρ = GIN 8 × 128, forward and backward, one thread")
    for name, title in WAYS.items():
        row = results[name]
        print(
            f"  {title:40} {row['seconds']:6.2f} s ({row['seconds'] / base['seconds']:.2f}×)"
            f" {row['peak_MiB']:7.0f} MiB ({row['peak_MiB'] / base['peak_MiB']:.2f}×)"
            f"  relative difference {row.get('difference', 0.0):.0e}"
        )
    print("Eigensolvers, µs per graph")
    for name, value in results["solvers"].items():
        print(f"  {name:40} {value:9.0f}")


if __name__ == "__main__":
    main()
