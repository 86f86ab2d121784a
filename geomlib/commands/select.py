"""`geomlib select`: structures of a pool that are worth a label."""

import argparse
import json

from geomlib.commands.potential import add_model_arguments, make_calculator
from geomlib.commands.progress import ProgressLine

__all__ = ["configure", "run"]

_EPILOG = """
POOL is a file that ASE reads, with @INDEX for some of its frames (md.extxyz@::10), or card:NAME.

examples:
  geomlib select committee.json md.extxyz label.extxyz --count 50
  geomlib select committee.json md.extxyz label.extxyz --count 50 --between 0.1 0.5 --diverse
  geomlib select a.safetensors md.extxyz label.extxyz --count 50 --committee b.safetensors c.safetensors
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib select`."""
    add_model_arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument("pool", metavar="POOL", help="structures to choose from")
    parser.add_argument("output", metavar="OUT", help="file for those that were chosen, without labels (.extxyz)")
    parser.add_argument("--count", "-n", type=int, default=50, metavar="N", help="how many to choose (50)")
    parser.add_argument(
        "--between",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="only those whose largest deviation of a force is between these, eV/Å",
    )
    parser.add_argument(
        "--diverse", action="store_true", help="of five times as many, those whose distances between atoms differ most"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib select`."""
    from geomlib.apply.pool import choose
    from geomlib.apply.structures import read_structures
    from geomlib.apply.trajectory import TrajectoryFile

    committee, pool = make_calculator(args), read_structures(args.pool)
    between = None if args.between is None else (args.between[0], args.between[1])
    line = ProgressLine(len(pool), "structure")
    try:
        found = choose(
            committee,
            pool,
            args.count,
            between=between,
            diverse=args.diverse,
            progress=lambda done, _: line.update(done),
        )
    finally:
        line.close()
    with TrajectoryFile(args.output) as file:
        for frame in found.frames:
            file.write(frame)
    chosen = [frame.info["max_devi_f"] for frame in found.frames]
    if args.json:
        indices = [frame.info["pool_index"] for frame in found.frames]
        values = {"pool": len(pool), "candidates": found.candidates, "chosen": indices, "max_devi_f": chosen}
        print(json.dumps({**values, "output": args.output}))
        return 0
    rows = {"pool": found.deviation.tolist(), "chosen": chosen}
    print(f"{'':<8}{'structures':>12}{'largest deviation of a force':>32}")
    for name, values in rows.items():
        print(f"{name:<8}{len(values):>12,}{f'{min(values):.3f} to {max(values):.3f} eV/Å':>32}")
    print(f"wrote {args.output}; label these structures, add them to the training data and fit again")
    return 0
