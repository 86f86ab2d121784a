"""Molecular dynamics of many structures at once: each frame of a file, or replicas of one.

    python scripts/batched_md.py model.safetensors starts.extxyz --steps 2000 -o runs/many
    python scripts/batched_md.py model.safetensors card:gfn2-molecules:900 --replicas 32 --ensemble langevin -T 400
    python scripts/batched_md.py model.safetensors starts.extxyz --steps 4000 -o runs/many --resume

Writes `<folder>/<number>.extxyz` for each structure with a log and a state beside it, as `geomlib md` does;
`geomlib report` and `geomlib md --resume` take them. Copy it and change it: it is 40 lines around `simulate_batched`.
"""

import argparse
import json
from pathlib import Path

from geomlib.allocator import keep_freed_memory
from geomlib.commands.progress import ProgressLine


def main() -> int:
    """Simulate and print a line for each structure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model file (.safetensors)")
    parser.add_argument(
        "structures", help="a file that ASE reads, with @INDEX for some of its frames, or card:NAME:INDEX"
    )
    parser.add_argument("--output", "-o", type=Path, default=Path("runs/batched-md"), metavar="FOLDER")
    parser.add_argument("--replicas", type=int, default=1, help="copies of each structure, with other seeds (1)")
    parser.add_argument("--ensemble", choices=("nve", "langevin"), default="nve")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--timestep", type=float, default=0.5, help="fs (0.5)")
    parser.add_argument("--temperature", "-T", type=float, default=300.0, help="K (300)")
    parser.add_argument("--interval", type=int, default=10, help="steps between frames (10)")
    parser.add_argument("--seed", type=int, default=0, help="structure k gets this plus k (0)")
    parser.add_argument("--max-atoms", default="auto", help="atoms in a batch, or auto (auto)")
    parser.add_argument("--device", help="e.g. cuda")
    parser.add_argument("--resume", action="store_true", help="go on with what is in the folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    keep_freed_memory()

    from geomlib.apply.ase import Calculator
    from geomlib.apply.batched.dynamics import Simulated, simulate_batched
    from geomlib.apply.dynamics import Settings
    from geomlib.apply.structures import read_structures

    starts = [atoms for atoms in read_structures(args.structures) for _ in range(args.replicas)]
    settings = Settings(args.ensemble, args.timestep, args.temperature, interval=args.interval, seed=args.seed)
    files = [args.output / f"{number:04d}.extxyz" for number in range(len(starts))]
    line = ProgressLine(len(starts) * args.steps, "step")
    results = simulate_batched(
        starts,
        Calculator(args.model, device=args.device),
        settings,
        args.steps,
        files,
        args.max_atoms if args.max_atoms == "auto" else int(args.max_atoms),
        resume=args.resume,
        progress=lambda done, running, steps: line.update(steps, f"{done} done, {running} in the batch"),
    )
    line.close()
    rows = []
    for file, result in zip(files, results, strict=True):
        if isinstance(result, Simulated):
            summary = result.summary
            drift = summary.drift_meV_per_atom
            rows.append({"file": str(file), "temperature_K": summary.temperature_K, "drift_meV_per_atom": drift})
        else:
            rows.append({"file": str(file), "failed": result.reason})
    if args.json:
        print(json.dumps({"structures": rows}))
    else:
        for row in rows:
            print(
                "  ".join(
                    f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in row.items()
                )
            )
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
