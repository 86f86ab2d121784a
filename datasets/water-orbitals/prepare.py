"""Kohn-Sham matrices of molecules with PySCF, and the embedded ones of water.

    python datasets/water-orbitals/prepare.py --sample new.npz          # the file that is here; needs geomlib[dft]
    python datasets/water-orbitals/prepare.py molecules.extxyz data.h5 --basis def2-svp --functional b3lyp5

The second line makes a file that `HamiltonianStore` reads of the closed-shell molecules in any file that ASE reads,
with their charges from `charge` in it. It can be stopped and started again: molecules that the file holds already are
not computed anew, and a process that is killed loses no more than the molecule it was at. A molecule whose SCF does not
converge, or that is no closed shell, is reported and left out; the next run tries it again.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import iread

from geomlib.apply.hamiltonian_data import HamiltonianFile, Preparation, converged
from geomlib.data.flat import FlatStore
from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.errors import GeomlibError

FRAMES, SPREAD = 120, 0.08  # Å, standard deviation of each coordinate
SAMPLE = {"basis": "sto-3g", "functional": "b3lyp5"}


def waters() -> list[Atoms]:
    """Displaced and turned water molecules."""
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(FRAMES):
        frame = molecule("H2O")
        frame.positions += rng.normal(0.0, SPREAD, frame.positions.shape)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        frame.positions = frame.positions @ (turn * np.linalg.det(turn))
        frames.append(frame)
    return frames


def write(
    molecules: list[Atoms], target: Path, basis: str, functional: str, level: int = 3, cycles: int = 50
) -> Preparation:
    """Add what is missing to a file; molecules that are left out are reported as the work goes on."""

    def show(number: int, complaint: str) -> None:
        if complaint:
            print(f"\rmolecule {number} ({molecules[number].get_chemical_formula()}): {complaint}", file=sys.stderr)
        print(f"\r{number + 1}/{len(molecules)}", end="", file=sys.stderr, flush=True)

    file = HamiltonianFile(target, basis, functional, level)
    compute = functools.partial(converged, basis=basis, functional=functional, level=level, cycles=cycles)
    done = file.extend(enumerate(molecules), compute, show)
    print(file=sys.stderr)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="?", help="a file that ASE reads")
    parser.add_argument("target", nargs="?", type=Path, help="HDF5 file")
    parser.add_argument("--basis", default="def2-svp")
    parser.add_argument("--functional", default="b3lyp5", help="in PySCF's words; b3lyp5 is B3LYP with VWN5")
    parser.add_argument("--level", type=int, default=3, help="of the grid, 0 to 9")
    parser.add_argument("--cycles", type=int, default=50, help="of an SCF, at most")
    parser.add_argument("--sample", type=Path, help="write the embedded file here")
    args = parser.parse_args()
    if args.sample is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "water.h5"
            if write(waters(), file, SAMPLE["basis"], SAMPLE["functional"]).complaints:
                raise SystemExit("not every molecule could be computed")
            FlatStore.write(HamiltonianStore(str(file)), args.sample, overwrite=True)
        return
    if args.target is None:
        parser.error("give STRUCTURES and TARGET, or --sample")
    try:
        molecules = list(iread(args.structures))
        done = write(molecules, args.target, args.basis, args.functional, args.level, args.cycles)
    except (GeomlibError, OSError) as error:
        raise SystemExit(f"prepare.py: {error}") from None
    print(f"{args.target}: {done.added} molecules added, {done.present} were there, {len(done.complaints)} left out")


if __name__ == "__main__":
    main()
