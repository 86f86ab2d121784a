"""`geomlib relax`: relax positions and cells."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from geomlib.commands.potential import (
    add_model_arguments,
    atoms_in_a_batch,
    make_calculator,
    stem,
    structure_help,
)
from geomlib.commands.progress import ProgressLine
from geomlib.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from geomlib.apply.batched.waiting import Failure
    from geomlib.apply.relax import Relaxation, RelaxSettings

__all__ = ["configure", "run"]

_EPILOG = """
examples:
  geomlib relax model.safetensors molecule.xyz                       positions
  geomlib relax model.safetensors crystal.cif --cell full            positions and cell
  geomlib relax model.safetensors many.extxyz -o relaxed.extxyz      many at once, which is faster
  geomlib relax model.safetensors many.extxyz --trajectory steps.traj --resume

Structures of a file are relaxed at once, in batches, unless --trajectory, --symmetry or --optimizer bfgs asks for one
after the other; each takes the same steps either way, rounding apart. One that fails is reported with its number,
and the others go on.
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
    parser.add_argument(
        "--batch",
        action=argparse.BooleanOptionalAction,
        help="relax many structures at once, or one after the other (at once where there are several)",
    )
    parser.add_argument(
        "--max-atoms",
        type=atoms_in_a_batch,
        default="auto",
        metavar="N",
        help="atoms in a batch, or auto for what memory and speed allow (auto)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what --output and --trajectory hold")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib relax`; the exit code is 1 if a structure failed or did not converge."""
    from geomlib.apply.relax import RelaxSettings
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
    batched = _batched(args, len(structures))
    results = (_at_once if batched else _one_by_one)(args, structures, settings, output)
    if args.json:
        rows = [_row(result) for result in results]
        values = {"output": output, "settings": asdict(settings), "batched": batched, "structures": rows}
        print(json.dumps(values))
    else:
        print("\n".join(_report(args, results, output)))
    return int(not all(_status(result) == "converged" for result in results))


def _batched(args: argparse.Namespace, count: int) -> bool:
    """Whether to relax many at once."""
    alone = {"--trajectory": args.trajectory, "--symmetry": args.symmetry, "--optimizer bfgs": args.optimizer == "bfgs"}
    reasons = [option for option, given in alone.items() if given]
    if args.batch and reasons:
        raise ConfigError(f"--batch: {reasons[0]} needs one structure after the other; leave one of the two out")
    return count > 1 and not reasons if args.batch is None else bool(args.batch)


def _one_by_one(
    args: argparse.Namespace, structures: "list[Atoms]", settings: "RelaxSettings", output: str
) -> "list[Relaxation | Failure]":
    from geomlib.apply.relax import relax_all

    line = ProgressLine(args.steps, "step")

    def progress(step: int, energy: float, force: float) -> None:
        line.update(step, f"E {energy:.4f} eV, largest force {force:.4f} eV/Å")

    try:
        return [*relax_all(structures, make_calculator(args), output, settings, args.trajectory, args.resume, progress)]
    finally:
        line.close()


def _at_once(
    args: argparse.Namespace, structures: "list[Atoms]", settings: "RelaxSettings", output: str
) -> "list[Relaxation | Failure]":
    from geomlib.apply.batched.relax import relax_all_batched

    line = ProgressLine(len(structures), "structure")

    def progress(done: int, running: int, force: float) -> None:
        line.update(done, f"{running} in the batch, largest force {force:.4f} eV/Å")

    try:
        return relax_all_batched(
            structures, make_calculator(args), output, settings, args.max_atoms, args.resume, progress
        )
    finally:
        line.close()


def _status(result: "Relaxation | Failure") -> str:
    from geomlib.apply.batched.waiting import Failure

    if isinstance(result, Failure):
        return "failed"
    return "converged" if result.converged else "not converged"


def _row(result: "Relaxation | Failure") -> dict[str, object]:
    names = ("converged", "steps", "initial_energy", "energy", "max_force", "max_stress", "volume_change")
    atoms, status = result.atoms, _status(result)
    cell = atoms.cell.cellpar().tolist() if atoms.cell.rank and status != "failed" else None
    return {
        "formula": atoms.get_chemical_formula(),
        "status": status,
        "reason": getattr(result, "reason", None),
        **{name: getattr(result, name, None) for name in names},
        "converged": status == "converged",
        "cell": cell,
    }


def _report(args: argparse.Namespace, results: "list[Relaxation | Failure]", output: str) -> list[str]:
    lines = [_line(args, result) for result in results[:20]]
    if len(results) > 20:
        lines += [_line(args, result) for result in results[20:] if _status(result) == "failed"][:20]
        counts = {
            status: sum(_status(result) == status for result in results) for status in ("failed", "not converged")
        }
        lines.append(
            f"{len(results)} structures in all, {counts['not converged']} not converged, {counts['failed']} failed"
        )
    if not results:
        lines.append("nothing was left to do")
    lines.append(f"wrote {output}" + (f", {args.trajectory}" if args.trajectory else ""))
    periodic = bool(results) and bool(results[-1].atoms.pbc.all())
    lines.append(f"next: geomlib {'phonons' if periodic else 'md'} {args.model} {output}")
    return lines


def _line(args: argparse.Namespace, result: "Relaxation | Failure") -> str:
    """A structure's line of the report."""
    from geomlib.apply.batched.waiting import Failure

    formula = result.atoms.get_chemical_formula()
    if isinstance(result, Failure):
        return f"{formula}: FAILED, structure {result.index}: {result.reason}"
    state = "converged" if result.converged else "NOT converged"
    text = (
        f"{formula}: {state} after {result.steps} steps, energy {result.initial_energy:.4f} → {result.energy:.4f} eV, "
        f"largest force {result.max_force:.4f} eV/Å"
    )
    if result.max_stress is not None and args.cell != "fixed":
        a, b, c, alpha, beta, gamma = result.atoms.cell.cellpar()
        text += (
            f", stress {result.max_stress:.3f} GPa, volume {100 * (result.volume_change or 0):+.2f} %, cell "
            f"{a:.4f} {b:.4f} {c:.4f} Å {alpha:.2f} {beta:.2f} {gamma:.2f}°"
        )
    return text
