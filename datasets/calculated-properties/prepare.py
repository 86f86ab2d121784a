"""Make the data set: properties that RDKit calculates, of molecules that geomlib made up.

    python datasets/calculated-properties/prepare.py --out new      # needs RDKit and takes a second

The molecules are the first 800 of random-molecules. Labels are Crippen's logP, the topological polar surface
area, and whether there is a halogen; a fifth of the last two is left out.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors

HERE = Path(__file__).parent
MOLECULES = HERE.parent / "random-molecules" / "text" / "train-0.smi"
COUNT, MISSING, SEED = 800, 0.2, 0
COLUMNS = ("smiles", "logp", "tpsa", "halogenated", "year")


def rows() -> list[list[str]]:
    """Rows of the table."""
    generator = np.random.default_rng(SEED)
    made = []
    for smiles in MOLECULES.read_text(encoding="utf-8").splitlines()[:COUNT]:
        molecule = Chem.MolFromSmiles(smiles)
        logp = Crippen.MolLogP(molecule)
        halogens = any(atom.GetSymbol() in ("F", "Cl", "Br", "I") for atom in molecule.GetAtoms())
        kept = generator.random(2) >= MISSING
        year = int(generator.integers(2000, 2025))
        tpsa = f"{rdMolDescriptors.CalcTPSA(molecule):.2f}" if kept[0] else ""
        made.append([smiles, f"{logp:.4f}", tpsa, str(int(halogens)) if kept[1] else "", str(year)])
    return made


def write(folder: Path) -> None:
    """Write the table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into")
    write(parser.parse_args().out)
