"""CPU time and peak memory of DPA3 on liquid water: inference (energy, forces, virial) and one training step.

    python scripts/benchmarks/dpa3.py [--json] [--repeats 5] [--threads 1] [--layers 6] [--dtype float32]

The model is the published water example (L6, 128/64/32, dynamic selection) with random weights; the structure is a
frame of 64 molecules (12.4447 Å, 192 atoms) of the deepmd-kit water set where `../shared/data/water_dpmd` is there,
otherwise randomly oriented molecules of the same density. Each mode runs in a process of its own, so that the peak is
its own; CPU time is that of the process, the minimum over the repeats after one warm-up.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BOX = 12.4447
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "water_dpmd" / "data_0"


def water_frame() -> tuple[np.ndarray, np.ndarray, str]:
    """Positions [Å], atomic numbers and where they come from."""
    coordinates = sorted(SHARED.glob("set.*/coord.npy"))
    if coordinates:
        types = np.loadtxt(SHARED / "type.raw", dtype=int)
        numbers = np.array([8, 1])[types]
        return np.load(coordinates[0], allow_pickle=False)[0].reshape(-1, 3).astype(float), numbers, "water_dpmd/data_0"
    rng = np.random.default_rng(0)
    molecule = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.24, 0.9266, 0.0]])
    grid = (np.indices((4, 4, 4)).reshape(3, -1).T + 0.5) * BOX / 4
    rotations = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
    positions = np.concatenate([center + molecule @ rotation for center, rotation in zip(grid, rotations, strict=True)])
    return positions, np.tile([8, 1, 1], 64), "random orientations"


def measure(mode: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run one mode in this process."""
    from geomlib.allocator import keep_freed_memory

    if not arguments.plain_malloc:  # as the geomlib command does
        keep_freed_memory()
    import torch

    from geomlib.data.graph import GraphData
    from geomlib.models import DPA3
    from geomlib.nn.derivative import Derivatives

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    positions, numbers, _ = water_frame()
    net = Derivatives(DPA3(["O", "H"], layers=arguments.layers, precision=arguments.dtype))
    graph = GraphData(
        pos=torch.from_numpy(positions),
        atomic_number=torch.from_numpy(numbers),
        cell=torch.eye(3, dtype=torch.float64)[None] * BOX,
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    net.spec.build(graph)
    forces = torch.zeros_like(graph.pos)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    net.train(mode == "train")
    net.requires_grad_(mode == "train")

    def step() -> None:
        out = net(graph)
        if mode == "train":
            loss = (out["energy"] / len(positions)).square().sum() + (out["forces"] - forces).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    times = []
    for _ in range(arguments.repeats + 1):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    edges, lines = graph.num_edges, int(graph.line_index.shape[1])
    if arguments.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), file=sys.stderr)
    return {"cpu_s": min(times[1:]), "peak_gib": peak, "edges": edges, "angles": lines}


def main() -> None:
    """Measure both modes and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--plain-malloc", action="store_true", help="leave the allocator as it is")
    parser.add_argument("--profile", action="store_true", help="print the operators that take the time")
    parser.add_argument("--mode", choices=["infer", "train"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(measure(arguments.mode, arguments)))
        return
    rows = {}
    for mode in ("infer", "train"):
        run = subprocess.run([sys.executable, *sys.argv, "--mode", mode], check=True, stdout=subprocess.PIPE, text=True)
        rows[mode] = json.loads(run.stdout.splitlines()[-1])
    result = {f"{mode}_{key}": rows[mode][key] for key in ("cpu_s", "peak_gib") for mode in rows}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{water_frame()[2]}: 192 atoms, {rows['infer']['edges']} edges, {rows['infer']['angles']} angles; ", end="")
    print(f"L{arguments.layers} {arguments.dtype}, {arguments.threads} thread(s)")
    print(f"{'':24s}{'CPU s':>8s}{'peak GiB':>10s}")
    for mode, label in (("infer", "energy+forces+virial"), ("train", "training step")):
        print(f"{label:24s}{rows[mode]['cpu_s']:8.2f}{rows[mode]['peak_gib']:10.2f}")


if __name__ == "__main__":
    main()
