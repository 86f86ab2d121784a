"""`geomlib orbitals`: orbitals, charges and dipole of a molecule from a predicted Kohn-Sham matrix."""

import argparse
import csv
import json
from pathlib import Path

from geomlib.commands.potential import stem, structure_help

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib orbitals`."""
    parser.epilog = "example:\n  geomlib orbitals model.safetensors molecule.xyz --cubes"
    parser.add_argument("model", metavar="MODEL", help="a model file that predicts Kohn-Sham matrices (.safetensors)")
    parser.add_argument("structure", metavar="STRUCTURE", help=structure_help)
    parser.add_argument("--output", "-o", metavar="STEM", help="beginning of the file names (<structure>-orbitals)")
    parser.add_argument("--cubes", action="store_true", help="write HOMO and LUMO as cube files, and draw them")
    parser.add_argument("--charge", type=int, metavar="E", help="of the molecule; that in the file, or 0, if not given")
    parser.add_argument("--energy", action="store_true", help="also the total energy, from one more Fock matrix")
    parser.add_argument("--width", type=float, default=0.5, metavar="EV", help="of the density of states, eV (0.5)")
    parser.add_argument("--device", help="e.g. cuda; the CPU if not given")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="precision; that of the model if not given")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib orbitals`."""
    import numpy as np

    from geomlib.apply.orbitals.fock import HARTREE_EV, FockPredictor, write_cubes
    from geomlib.apply.orbitals.plot import plot_levels
    from geomlib.apply.orbitals.shape import plot_frontier
    from geomlib.apply.structures import read_structure

    atoms = read_structure(args.structure)
    if args.charge is not None:
        atoms.info["charge"] = args.charge
    predictor = FockPredictor(args.model, device=args.device, dtype=args.dtype)
    molecule = predictor.molecule(atoms)
    report = predictor.report(molecule)
    begin = args.output or f"{stem(args.structure)}-orbitals"
    Path(begin).parent.mkdir(parents=True, exist_ok=True)
    files = [Path(f"{begin}.csv"), Path(f"{begin}-fock.npy"), Path(f"{begin}-dos.csv")]
    with files[0].open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["orbital", "occupation", "energy_Hartree", "energy_eV"])
        for number, energy in enumerate(report.energies.tolist()):
            rows.writerow([number, 2 * (number < report.occupied), energy, HARTREE_EV * energy])
    np.save(files[1], report.fock)
    with files[2].open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["energy_eV", "states_per_eV"])
        rows.writerows(np.stack(report.density_of_states(args.width), axis=1).tolist())
    files.append(plot_levels(report, f"{begin}.png", atoms.get_chemical_formula(), args.width))
    if args.cubes:
        files += write_cubes(molecule, report, begin)
        files.append(plot_frontier(molecule, report, f"{begin}-frontier.png"))
    values = {
        "formula": atoms.get_chemical_formula(),
        "orbitals": len(report.energies),
        "occupied": report.occupied,
        "homo_eV": HARTREE_EV * report.homo,
        "lumo_eV": HARTREE_EV * report.lumo,
        "gap_eV": HARTREE_EV * (report.lumo - report.homo),
        "dipole_eA": report.dipole.tolist(),
        "charges_e": report.charges.tolist(),
        "files": [str(file) for file in files],
    }
    if args.energy:
        values["energy_Hartree"] = predictor.total_energy(molecule)
    if args.json:
        print(json.dumps(values))
        return 0
    print(f"{values['formula']}: {values['orbitals']} orbitals in {predictor.basis}, {report.occupied} doubly occupied")
    print(f"HOMO   {values['homo_eV']:.4f} eV")
    print(f"LUMO   {values['lumo_eV']:.4f} eV, gap {values['gap_eV']:.4f} eV")
    print(f"dipole {float(np.linalg.norm(report.dipole)):.4f} e·Å")
    pairs = zip(atoms.get_chemical_symbols(), report.charges, strict=True)
    print(f"Mulliken charges {' '.join(f'{symbol} {charge:+.3f}' for symbol, charge in pairs)}")
    if args.energy:
        print(f"total energy {values['energy_Hartree']:.6f} Hartree")
    print(f"wrote {', '.join(map(str, files))}")
    return 0
