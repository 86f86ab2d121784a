"""`geomlib phonons`: phonon bands and density of states."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from geomlib.commands.potential import add_model_arguments, make_calculator, stem, structure_help
from geomlib.commands.progress import ProgressLine

if TYPE_CHECKING:
    from geomlib.apply.phonons import PhononResult

__all__ = ["configure", "run"]

_EPILOG = """
The structure should be relaxed, its cell too: geomlib relax MODEL STRUCTURE --cell full. Use a primitive cell.

example:
  geomlib phonons model.safetensors cu-relaxed.extxyz --supercell 4 4 4
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib phonons`."""
    add_model_arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument("structure", metavar="STRUCTURE", help=structure_help)
    parser.add_argument("--output", "-o", metavar="STEM", help="beginning of the file names (<structure>-phonons)")
    parser.add_argument("--supercell", type=int, nargs=3, metavar="N", help="repetitions (10 Å at least)")
    parser.add_argument("--displacement", type=float, default=0.01, metavar="A", help="of the atoms, Å (0.01)")
    parser.add_argument("--path", metavar="POINTS", help="e.g. GXWGL; the lattice's standard path if not given")
    parser.add_argument("--points", type=int, default=200, metavar="N", help="wave vectors on the path (200)")
    parser.add_argument("--mesh", type=int, default=20, metavar="N", help="divisions for the density of states (20)")
    parser.add_argument("--engine", choices=("ase", "phonopy"), default="ase", help="phonopy uses symmetry (ase)")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib phonons`."""
    from geomlib.apply.phonons import phonons, plot
    from geomlib.apply.structures import read_structure

    atoms = read_structure(args.structure)
    line = ProgressLine(6 * len(atoms) + 1, "displacement")
    try:
        result = phonons(
            atoms,
            make_calculator(args),
            tuple(args.supercell) if args.supercell else None,
            displacement=args.displacement,
            path=args.path,
            points=args.points,
            mesh=args.mesh,
            engine=args.engine,
            progress=line.update_of,
        )
    finally:
        line.close()
    begin = args.output or f"{stem(args.structure)}-phonons"
    Path(begin).parent.mkdir(parents=True, exist_ok=True)
    table = _write(result, Path(f"{begin}.json"))
    figure = plot(result, f"{begin}.png", atoms.get_chemical_formula())
    special = {name: _at(result, place) for place, name in result.labels}
    if args.json:
        summary = {
            "lowest_THz": result.lowest,
            "lowest_at": result.lowest_at,
            "highest_THz": float(result.frequencies.max()),
            "largest_force": result.largest_force,
            "supercell": result.supercell,
            "special_points_THz": special,
            "table": str(table),
            "figure": str(figure),
        }
        print(json.dumps(summary))
        return 0
    print(f"supercell {' × '.join(map(str, result.supercell))}, frequencies in THz (negative: imaginary)")
    for name, values in special.items():
        shown = " ".join(f"{value:.3f}" for value in values[:12])
        print(f"  {name:<4} {shown}{' …' if len(values) > 12 else ''}")
    print(f"lowest {result.lowest:.3f} THz, highest {result.frequencies.max():.3f} THz")
    print(f"wrote {table}, {figure}")
    print(f"next: geomlib md {args.model} {args.structure} --ensemble langevin")
    return 0


def _at(result: "PhononResult", place: float) -> list[float]:
    index = int(abs(result.distance - place).argmin())
    return [round(float(value), 6) for value in result.frequencies[index]]


def _write(result: "PhononResult", path: Path) -> Path:
    values = {
        "unit": "THz",
        "points": result.points.tolist(),
        "distance": result.distance.tolist(),
        "labels": result.labels,
        "frequencies": result.frequencies.tolist(),
        "dos_frequencies": result.dos_frequencies.tolist(),
        "dos": result.dos.tolist(),
        "supercell": result.supercell,
    }
    path.write_text(json.dumps(values), encoding="utf-8")
    return path
