"""`geomlib eos`: equation of state, equilibrium volume and bulk modulus."""

import argparse
import csv
import json
from pathlib import Path

from geomlib.commands.potential import add_model_arguments, make_calculator, stem, structure_help
from geomlib.commands.progress import ProgressLine

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib eos`."""
    add_model_arguments(parser)
    parser.epilog = "example:\n  geomlib eos model.safetensors crystal.cif"
    parser.add_argument("structure", metavar="STRUCTURE", help=structure_help)
    parser.add_argument("--output", "-o", metavar="STEM", help="beginning of the file names (<structure>-eos)")
    parser.add_argument("--points", type=int, default=11, metavar="N", help="number of volumes (11)")
    parser.add_argument("--strain", type=float, default=0.06, metavar="X", help="volumes from 1−X to 1+X (0.06)")
    parser.add_argument("--relax", action="store_true", help="relax the atoms at each volume")
    parser.add_argument("--fmax", type=float, default=0.01, metavar="F", help="of that relaxation, eV/Å (0.01)")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib eos`."""
    from geomlib.apply.eos import equation_of_state, plot
    from geomlib.apply.structures import read_structure

    atoms = read_structure(args.structure)
    line = ProgressLine(args.points, "volume")
    try:
        state = equation_of_state(
            atoms, make_calculator(args), args.points, args.strain, args.relax, args.fmax, line.update_of
        )
    finally:
        line.close()
    begin = args.output or f"{stem(args.structure)}-eos"
    Path(begin).parent.mkdir(parents=True, exist_ok=True)
    table = Path(f"{begin}.csv")
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["volume_A3", "energy_eV"])
        rows.writerows(zip(state.volumes.tolist(), state.energies.tolist(), strict=True))
    figure = plot(state, f"{begin}.png", atoms.get_chemical_formula())
    lattice = atoms.copy()
    lattice.set_cell(atoms.cell * state.scale)
    cell = lattice.cell.cellpar().tolist()
    values = {
        "formula": atoms.get_chemical_formula(),
        "atoms": state.atoms,
        "volume_A3": state.volume,
        "energy_eV": state.energy,
        "bulk_modulus_GPa": state.bulk_modulus,
        "bulk_modulus_derivative": state.bulk_modulus_derivative,
        "scale": state.scale,
        "cell": cell,
        "residual_meV_per_atom": state.residual,
        "table": str(table),
        "figure": str(figure),
    }
    if args.json:
        print(json.dumps(values))
        return 0
    a, b, c, *angles = cell
    print(f"equilibrium volume    {state.volume:.4f} Å³ ({state.volume / state.atoms:.4f} Å³/atom)")
    print(f"lattice               {a:.4f} {b:.4f} {c:.4f} Å, {' '.join(f'{angle:.2f}' for angle in angles)}°")
    print(f"energy                {state.energy:.5f} eV ({state.energy / state.atoms:.5f} eV/atom)")
    print(f"bulk modulus          {state.bulk_modulus:.2f} GPa, derivative {state.bulk_modulus_derivative:.2f}")
    print(f"points off the curve  {state.residual:.4f} meV/atom")
    print(f"wrote {table}, {figure}")
    print(f"next: geomlib relax {args.model} {args.structure} --cell full, then geomlib phonons")
    return 0
