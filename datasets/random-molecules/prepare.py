"""Make the text: canonical SMILES of molecules put together at random from cores, linkers and substituents.

python datasets/random-molecules/prepare.py --out new            # writes new/train-0.smi, train-1.smi, validation.smi
python datasets/random-molecules/prepare.py --stats              # statistics of the files that are here
"""

import argparse
import hashlib
import random
from pathlib import Path

from rdkit import Chem

HERE = Path(__file__).parent / "text"
PARTS = {"train-0.smi": 1000, "train-1.smi": 1000, "validation.smi": 200}
SEED = 0

CORES = (
    *("c~ccc({0})cc~", "c~cc({0})cc({1})c~", "c~ccnc({0})c~", "c~csc({0})n~", "c~ccc^[nH]c({0})cc^c~", "c~coc({0})c~"),
    *("C~CCN({0})CC~", "C~CCC({0})C({1})C~", "C~COC({0})C~", "C~CN({0})CCN~{1}", "C(C{0})C{1}", "CC(C){0}"),
)
"""SMILES with free places; ~ and ^ stand for ring bonds, which get other numbers at each depth."""

LINKERS = ("", "C", "CC", "O", "S", "C(=O)N", "NC(=O)", "C=C", "C#C", "S(=O)(=O)N", "C(=O)O")
SUBSTITUENTS = (
    *("C", "CC", "C(C)C", "O", "OC", "N", "N(C)C", "F", "Cl", "Br", "C#N", "C(=O)O", "C(=O)OC", "C(N)=O"),
    *("S(C)(=O)=O", "C(F)(F)F", "[N+](=O)[O-]"),
)


def grow(source: random.Random, depth: int = 0) -> str:
    """SMILES of a core whose free places hold linkers with further cores, or substituents."""
    core = source.choice(CORES).replace("~", str(2 * depth + 1)).replace("^", str(2 * depth + 2))
    filled = []
    for _ in range(core.count("{")):
        if depth < 2 and source.random() < 0.45:
            filled.append(source.choice(LINKERS) + grow(source, depth + 1))
        else:
            filled.append(source.choice(SUBSTITUENTS))
    return core.format(*filled)


def molecules(count: int) -> list[str]:
    """Distinct canonical SMILES of at most 80 characters."""
    source, found = random.Random(SEED), {}
    while len(found) < count:
        smiles = Chem.MolToSmiles(Chem.MolFromSmiles(grow(source)))
        if len(smiles) <= 80:
            found[smiles] = None
    rows = list(found)  # the small ones first, which are found soon
    source.shuffle(rows)
    return rows


def write(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True)
    rows = molecules(sum(PARTS.values()))
    for name, count in PARTS.items():
        (folder / name).write_text("\n".join(rows[:count]) + "\n")
        rows = rows[count:]


def statistics(folder: Path) -> None:
    """Print what the README says."""
    for name in PARTS:
        content = (folder / name).read_bytes()
        lengths = [len(line) for line in content.decode().splitlines()]
        mean = sum(lengths) / len(lengths)
        print(f"{name}: {len(lengths)} molecules, {mean:.1f} characters, at most {max(lengths)}, sha256 "
              f"{hashlib.sha256(content).hexdigest()[:16]}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stats", action="store_true")
    args = parser.parse_args()
    if args.out:
        write(args.out)
    if args.stats:
        statistics(HERE)
