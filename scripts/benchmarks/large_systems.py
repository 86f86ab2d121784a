"""Time per atom and peak memory of DPA3 on growing boxes of water: energy, forces and virial in one evaluation.

    python scripts/benchmarks/large_systems.py [--copies 1x1x1 2x2x2 3x3x6] [--recompute angles] [--json]

Each box repeats a frame of 64 molecules (12.4447 Å) and runs in a process of its own, so that the peak is its own; CPU
time is the minimum over the repeats after one warm-up, on one thread. The net is the published water example (L6,
128/64/32, float32) with random weights. Without `--recompute` the net chooses by the memory that is free.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from dpa3 import BOX, water_frame


def measure(copies: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Evaluate one box in this process."""
    from geomlib.allocator import keep_freed_memory

    keep_freed_memory()  # as the geomlib command does
    import numpy as np
    import torch

    from geomlib.data.graph import GraphData
    from geomlib.models import DPA3
    from geomlib.nn.derivative import Derivatives

    torch.set_num_threads(1)
    torch.manual_seed(0)
    positions, numbers, _ = water_frame()
    repeats = [int(count) for count in copies.split("x")]
    shifts = np.indices(repeats).reshape(3, -1).T * BOX
    graph = GraphData(
        pos=torch.from_numpy(np.concatenate([positions + shift for shift in shifts])),
        atomic_number=torch.from_numpy(np.tile(numbers, len(shifts))).long(),
        cell=torch.diag(torch.tensor(repeats, dtype=torch.float64) * BOX)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    net = Derivatives(DPA3(["O", "H"], recompute=arguments.recompute or "none")).eval().requires_grad_(False)
    start = time.process_time()
    net.spec.build(graph)
    times = [time.process_time() - start]
    for _ in range(arguments.repeats + 1):
        start = time.process_time()
        net(graph)
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"atoms": graph.num_nodes, "build_s": times[0], "cpu_s": min(times[2:]), "peak_gib": peak}


def main() -> None:
    """Measure every box and print a table, or one JSON list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", nargs="+", default=["1x1x1", "2x2x2", "3x3x3", "3x3x6"], metavar="AxBxC")
    parser.add_argument("--recompute", choices=["none", "angles", "layers"], help="what to compute again; by memory")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return
    rows = []
    for copies in arguments.copies:
        command = [sys.executable, *sys.argv, "--one", copies]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        if not arguments.json:
            row = rows[-1]
            if len(rows) == 1:
                print(f"{'atoms':>7s}{'edges s':>9s}{'CPU s':>8s}{'ms/atom':>9s}{'peak GiB':>10s}")
            print(f"{row['atoms']:7d}{row['build_s']:9.2f}{row['cpu_s']:8.2f}", end="")
            print(f"{1e3 * row['cpu_s'] / row['atoms']:9.2f}{row['peak_gib']:10.2f}", flush=True)
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
