"""`geomlib relax`: relax positions and cells."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from geomlib.commands.potential import add_model_arguments, make_calculator, stem, structure_help
from geomlib.commands.progress import ProgressLine

if TYPE_CHECKING:
    from geomlib.apply.relax import Relaxation

__all__ = ["configure", "run"]

_EPILOG = """
examples:
  geomlib relax model.safetensors molecule.xyz                       positions
  geomlib relax model.safetensors crystal.cif --cell full            positions and cell
  geomlib relax model.safetensors many.extxyz --trajectory steps.traj --resume
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib relax`."""
    add_model_arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument("structure", metavar="STRUCTURE", help=f"{structure_help}; all of its structures are relaxed")
    parser.add_argument("--output", "-o", metavar="FILE", help="relaxed structures (<structure>-relaxed.extxyz)")
    parser.add_argument(
        "--cell",
        nargs="?",
        const="full",
        default="fixed",
        choices=("fixed", "full", "isotropic", "shape"),
        help="what may change of the cell (fixed; --cell alone means full)",
    )
    parser.add_argument("--optimizer", choices=("lbfgs", "bfgs", "fire"), default="lbfgs", help="(lbfgs)")
    parser.add_argument("--fmax", type=float, default=0.01, metavar="F", help="stop below this force, eV/Å (0.01)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="give up after so many (500)")
    parser.add_argument("--pressure", type=float, default=0.0, metavar="GPA", help="for a moving cell, GPa (0)")
    parser.add_argument("--symmetry", action="store_true", help="keep the space group (needs spglib)")
    parser.add_argument("--trajectory", metavar="FILE", help="write every step here (.extxyz or .traj)")
    parser.add_argument("--resume", action="store_true", help="go on with what --output and --trajectory hold")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib relax`; the exit code is 1 if a structure did not converge."""
    from geomlib.apply.relax import RelaxSettings, relax_all
    from geomlib.apply.structures import read_structures

    structures = read_structures(args.structure)
    settings = RelaxSettings(
        optimizer=args.optimizer,
        fmax=args.fmax,
        steps=args.steps,
        cell=args.cell,
        pressure=args.pressure,
        symmetry=args.symmetry,
    )
    output = args.output or f"{stem(args.structure)}-relaxed.extxyz"
    line = ProgressLine(args.steps, "step")

    def progress(step: int, energy: float, force: float) -> None:
        line.update(step, f"E {energy:.4f} eV, largest force {force:.4f} eV/Å")

    try:
        results = relax_all(structures, make_calculator(args), output, settings, args.trajectory, args.resume, progress)
    finally:
        line.close()
    if args.json:
        rows = [_row(result) for result in results]
        print(json.dumps({"output": output, "settings": asdict(settings), "structures": rows}))
    else:
        print("\n".join(_report(args, results, output)))
    return int(not all(result.converged for result in results))


def _row(result: "Relaxation") -> dict[str, object]:
    names = ("converged", "steps", "initial_energy", "energy", "max_force", "max_stress", "volume_change")
    return {
        "formula": result.atoms.get_chemical_formula(),
        **{name: getattr(result, name) for name in names},
        "cell": result.atoms.cell.cellpar().tolist() if result.atoms.cell.rank else None,
    }


def _report(args: argparse.Namespace, results: "list[Relaxation]", output: str) -> list[str]:
    lines = []
    for result in results[:20]:
        state = "converged" if result.converged else "NOT converged"
        text = (
            f"{result.atoms.get_chemical_formula()}: {state} after {result.steps} steps, energy "
            f"{result.initial_energy:.4f} → {result.energy:.4f} eV, largest force {result.max_force:.4f} eV/Å"
        )
        if result.max_stress is not None and args.cell != "fixed":
            a, b, c, alpha, beta, gamma = result.atoms.cell.cellpar()
            text += (
                f", stress {result.max_stress:.3f} GPa, volume {100 * (result.volume_change or 0):+.2f} %, cell "
                f"{a:.4f} {b:.4f} {c:.4f} Å {alpha:.2f} {beta:.2f} {gamma:.2f}°"
            )
        lines.append(text)
    if len(results) > 20:
        failed = sum(not result.converged for result in results)
        lines.append(f"{len(results)} structures in all, {failed} not converged")
    if not results:
        lines.append("nothing was left to do")
    lines.append(f"wrote {output}" + (f", {args.trajectory}" if args.trajectory else ""))
    periodic = bool(results) and bool(results[-1].atoms.pbc.all())
    lines.append(f"next: geomlib {'phonons' if periodic else 'md'} {args.model} {output}")
    return lines
