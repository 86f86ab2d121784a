"""Kohn-Sham matrices of molecules with PySCF, and the embedded ones of water.

    python datasets/water-orbitals/prepare.py --sample new.npz          # the file that is here; needs geomlib[dft]
    python datasets/water-orbitals/prepare.py molecules.extxyz data.h5 --basis def2-svp --functional b3lyp5

The second line makes a file that `HamiltonianStore` reads of the closed-shell molecules in any file that ASE reads. It
can be stopped and started again: molecules that the file holds already are not computed anew. A molecule whose SCF does
not converge, or that is no closed shell, is reported and left out.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import iread
from pyscf import dft, gto

from geomlib.data.flat import FlatStore
from geomlib.data.hamiltonians import HamiltonianStore

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


def compute(atoms: Atoms, basis: str, functional: str, level: int) -> dict[str, np.ndarray]:
    """Matrices of one molecule, as lower triangles [Hartree].

    Raises:
        ValueError: no closed shell, or an SCF that does not converge.
    """
    charge = int(atoms.info.get("charge", 0))
    electrons = int(atoms.numbers.sum()) - charge
    if electrons % 2:
        raise ValueError(f"{electrons} electrons are no closed shell")
    rows = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist(), strict=True))
    mol = gto.M(atom=rows, basis=basis, charge=charge, unit="Angstrom", verbose=0)
    field = dft.RKS(mol)
    field.xc, field.grids.level, field.conv_tol = functional, level, 1e-10
    guess = field.get_init_guess(key="minao")
    initial = field.get_fock(dm=guess)
    energy = field.kernel(dm0=guess)
    if not field.converged:
        raise ValueError(f"the SCF did not converge in {field.max_cycle} cycles")
    lower = np.tril_indices(mol.nao_nr())
    matrices = {"fock": field.get_fock(), "fock_init": initial, "overlap": mol.intor_symmetric("int1e_ovlp")}
    found = {name: np.asarray(matrix)[lower][None] for name, matrix in matrices.items()}
    return found | {
        "Z": atoms.numbers.astype(np.int16),
        "pos": atoms.positions[None],
        "energy": np.array([energy]),
        "scf_cycles_minao": np.array([field.cycles], dtype=np.int16),
    }


def write(molecules: list[Atoms], target: Path, basis: str, functional: str, level: int = 3) -> list[str]:
    """Add what is missing to a file; return the complaints about molecules that were left out."""
    complaints = []
    with h5py.File(target, "a") as file:
        for name, value in (("basis", basis), ("xc", functional), ("grids_level", level)):
            if name in file.attrs and file.attrs[name] != value:
                raise SystemExit(f"{target}: was made with {name} {file.attrs[name]}, not {value}: name another file")
            file.attrs[name] = value
        for name in [name for name in file if name.startswith("part-")]:
            del file[name]  # what an interrupted run left
        for number, atoms in enumerate(molecules):
            key = f"{number:06d}"
            if key in file:
                continue
            try:
                values = compute(atoms, basis, functional, level)
            except (ValueError, RuntimeError) as error:
                complaints.append(f"molecule {number} ({atoms.get_chemical_formula()}): {error}")
                print(complaints[-1], file=sys.stderr)
                continue
            group = file.create_group(f"part-{key}")
            for name, value in values.items():
                group[name] = value
            file.move(f"part-{key}", key)  # a group is there whole or not at all
            file.flush()
            print(f"\r{number + 1}/{len(molecules)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", nargs="?", help="a file that ASE reads")
    parser.add_argument("target", nargs="?", type=Path, help="HDF5 file")
    parser.add_argument("--basis", default="def2-svp")
    parser.add_argument("--functional", default="b3lyp5", help="in PySCF's words; b3lyp5 is B3LYP with VWN5")
    parser.add_argument("--level", type=int, default=3, help="of the grid, 0 to 9")
    parser.add_argument("--sample", type=Path, help="write the embedded file here")
    args = parser.parse_args()
    if args.sample is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "water.h5"
            if write(waters(), file, SAMPLE["basis"], SAMPLE["functional"]):
                raise SystemExit("not every molecule could be computed")
            FlatStore.write(HamiltonianStore(str(file)), args.sample, overwrite=True)
    elif args.target is None:
        parser.error("give STRUCTURES and TARGET, or --sample")
    elif complaints := write(list(iread(args.structures)), args.target, args.basis, args.functional, args.level):
        print(f"{len(complaints)} molecules were left out", file=sys.stderr)


if __name__ == "__main__":
    main()
