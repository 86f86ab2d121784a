"""Make `sample.npz`: mixtures of two or three molecules with a property that mixes by a Margules law.

python datasets/margules-mixtures/prepare.py --out new.npz
python datasets/margules-mixtures/prepare.py --stats                 # statistics of the file that is here
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch

from geomlib.data.descriptors import calculate_descriptors
from geomlib.data.flat import FlatStore
from geomlib.data.molecules import from_smiles, parse_molecule
from geomlib.data.stores import MemoryStore

HERE = Path(__file__).parent
SEED, PAIRS, TRIPLES, ROWS = 20261125, 260, 40, 5
MOLECULES = [
    "O",
    "CO",
    "CCO",
    "CCCO",
    "CC(C)O",
    "CCCCO",
    "OCCO",
    "CC(=O)C",
    "CCC(=O)C",
    "CC#N",
    "CCC#N",
    "CC(=O)OC",
    "CC(=O)OCC",
    "COC(=O)OC",
    "CCOC(=O)OCC",
    "C1COC(=O)O1",
    "C1CCOC1",
    "CCOCC",
    "COCCOC",
    "CCCCCC",
    "CCCCCCC",
    "CCCCCCCC",
    "C1CCCCC1",
    "c1ccccc1",
    "Cc1ccccc1",
    "Clc1ccccc1",
    "ClCCl",
    "ClC(Cl)Cl",
    "CN(C)C=O",
    "CS(C)=O",
    "CCN",
    "CCNCC",
    "CCN(CC)CC",
    "c1ccncc1",
    "CC(=O)O",
    "CCC(=O)O",
    "CC(=O)N(C)C",
    "OCC(F)(F)F",
    "FC(F)(F)c1ccccc1",
    "C[N+](=O)[O-]",
]


def numbers(smiles: str) -> tuple[float, float]:
    """Polarity P (polar surface / 40 Å²) and lipophilicity L (logP / 3) of a molecule."""
    surface, logp = calculate_descriptors(parse_molecule(smiles), ("TPSA", "MolLogP"))
    return float(surface) / 40.0, float(logp) / 3.0


def label(smiles: list[str], x: np.ndarray, kelvin: float) -> tuple[float, float]:
    """Property, and its excess Σ_{i<j} x_i x_j (300 K / T) (a + b (x_i − x_j))."""
    found = [numbers(text) for text in smiles]
    linear = sum(share * (1.0 + 0.8 * p - 0.5 * ell) for share, (p, ell) in zip(x, found, strict=True))
    excess = 0.0
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            (p, l), (q, m) = found[i], found[j]
            a, b = 2.0 * (p - q) ** 2 - 1.0 * abs(l - m), 0.8 * (p - q)
            excess += x[i] * x[j] * (a + b * (x[i] - x[j])) * 300.0 / kelvin
    return linear + excess, excess


def store() -> MemoryStore:
    """All mixtures: every molecule alone, then pairs, then triples; the rows of a mixture stand together."""
    rng = np.random.default_rng(SEED)
    graphs = []

    def add(smiles: list[str], x: np.ndarray) -> None:
        kelvin = float(rng.integers(28, 36)) * 10.0
        value, excess = label(smiles, x, kelvin)
        fields = {"target": torch.tensor([[value]]), "target_excess": torch.tensor([[excess]])}
        graphs.append(from_smiles(smiles, x.tolist(), kelvin, **{k: v.double() for k, v in fields.items()}))

    for smiles in MOLECULES:
        add([smiles], np.ones(1))
    for size, count in ((2, PAIRS), (3, TRIPLES)):
        seen: set[frozenset[int]] = set()
        while len(seen) < count:
            chosen = rng.choice(len(MOLECULES), size, replace=False)
            if frozenset(chosen.tolist()) in seen:
                continue
            seen.add(frozenset(chosen.tolist()))
            for _ in range(ROWS):
                add([MOLECULES[k] for k in chosen], rng.dirichlet(np.ones(size)))
    return MemoryStore(graphs, "margules-mixtures")


def statistics(path: Path) -> str:
    """What the README says."""
    flat = FlatStore(path)
    graphs = [flat[index] for index in range(len(flat))]
    lines = [f"{len(flat)} mixtures of {len(MOLECULES)} molecules"]
    for name in ("target", "target_excess"):
        values = torch.cat([graph[name] for graph in graphs])
        low, high = float(values.min()), float(values.max())
        lines.append(f"{name}: {float(values.mean()):.3f} ± {float(values.std()):.3f}, {low:.3f} to {high:.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stats", action="store_true")
    options = parser.parse_args()
    if options.out:
        FlatStore.write(store(), options.out, units={"target": "1", "target_excess": "1"})
        print(f"{options.out}: {options.out.stat().st_size} bytes")
        print(f"sha256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}")
    if options.stats:
        print(statistics(HERE / "sample.npz"))


if __name__ == "__main__":
    main()
