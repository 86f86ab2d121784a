"""Make `sample.npz`: bulk and slab configurations of copper with silver and gold, labelled with ASE's EMT.

    python datasets/emt-alloy/prepare.py --out new.npz
    python datasets/emt-alloy/prepare.py --stats                 # statistics of the file that is here

Each configuration seed draws a cell, its elements and its vacancies, and gives `FRAMES` frames that differ in strain
and displacements. Labels are computed at the positions and cells as they are stored (rounded to float32).
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, fcc110, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from geomlib.data.atoms import from_atoms
from geomlib.data.flat import FlatStore
from geomlib.data.stores import MemoryStore

HERE = Path(__file__).parent
LATTICE = {"Cu": 3.59, "Ag": 4.06, "Au": 4.06}  # Å, near the minima of EMT
VACUUM = 7.0  # Å on each side of a slab, both together more than EMT reaches (5.9 Å)
STRAIN = 0.02  # standard deviation of each component
DISPLACEMENT = (0.02, 0.10)  # Å, range of a frame's standard deviation per component
FRAMES = 4  # a configuration seed
LARGEST_FORCE = 10.0  # eV/Å; a gold pair pressed into a copper lattice comes near it
DTYPES = {"pos": "float32", "forces": "float32", "cell": "float32"}


def fcc(a: float, *repeat: int, cubic: bool = False) -> Atoms:
    """Bulk fcc cell, primitive (skewed) or cubic, repeated."""
    return bulk("Cu", "fcc", a=a, cubic=cubic).repeat(repeat)


KINDS: tuple[Callable[[float], Atoms], ...] = (
    lambda a: fcc(a, 1, 1, 1),  # 1 atom, whose neighbours are all images of itself
    lambda a: fcc100("Cu", (2, 2, 3), a=a, vacuum=VACUUM),  # 12
    lambda a: fcc(a, 1, 1, 1, cubic=True),  # 4
    lambda a: fcc(a, 2, 2, 2),  # 8, skewed
    lambda a: fcc111("Cu", (2, 2, 4), a=a, vacuum=VACUUM),  # 16
    lambda a: fcc(a, 2, 2, 2, cubic=True),  # 32
    lambda a: fcc110("Cu", (2, 2, 4), a=a, vacuum=VACUUM),  # 16
    lambda a: fcc(a, 3, 3, 3),  # 27, skewed
    lambda a: fcc(a, 1, 1, 2),  # 2
    lambda a: fcc111("Cu", (3, 3, 3), a=a, vacuum=VACUUM),  # 27
    lambda a: fcc(a, 2, 2, 1, cubic=True),  # 16
    lambda a: fcc(a, 1, 2, 3),  # 6, skewed
)
ROUNDS = {"train": 4, "val": 1, "test": 1}
"""Configuration seeds of each kind in each part."""


def configuration(seed: int) -> Atoms:
    """The undisplaced cell of a seed: kind, elements, vacancies."""
    rng = np.random.default_rng([7, seed])
    share = rng.dirichlet([2.0, 0.7, 0.7])  # mostly copper
    kind = KINDS[seed % len(KINDS)]
    symbols = rng.choice(list(LATTICE), size=len(kind(3.6)), p=share)
    atoms = kind(float(np.mean([LATTICE[symbol] for symbol in symbols])))  # Vegard's rule
    atoms.symbols = symbols
    if len(atoms) > 10 and rng.random() < 0.4:
        del atoms[rng.choice(len(atoms), size=1 + (rng.random() < 0.3), replace=False)]
    return atoms


def displaced(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A strained and rattled copy of `atoms`; a slab is not strained across its vacuum."""
    frame = atoms.copy()
    noise = rng.normal(0.0, STRAIN, (3, 3))
    deformation = np.eye(3) + 0.5 * (noise + noise.T)
    if not frame.pbc.all():
        deformation[2, :], deformation[:, 2] = (0, 0, 1), (0, 0, 1)
    frame.set_cell(frame.cell @ deformation, scale_atoms=True)
    frame.positions += rng.normal(0.0, rng.uniform(*DISPLACEMENT), frame.positions.shape)
    return frame


def label(atoms: Atoms) -> Atoms:
    """The frame at its stored positions and cell, with energy [eV], forces [eV/Å] and stress [eV/Å³]."""
    frame = Atoms(
        atoms.numbers,
        atoms.positions.astype(np.float32).astype(np.float64),
        cell=atoms.cell.array.astype(np.float32).astype(np.float64),
        pbc=atoms.pbc,
    )
    frame.calc = EMT()
    results = {
        "energy": float(frame.get_potential_energy()),
        "forces": frame.get_forces().copy(),
        "stress": frame.get_stress(),
    }
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def frames() -> list[Atoms]:
    """All labelled frames, by seed; the frames of one seed stand together."""
    result = []
    for seed in range(len(KINDS) * sum(ROUNDS.values())):
        rng, atoms = np.random.default_rng([11, seed]), configuration(seed)
        for _ in range(FRAMES):
            frame = label(displaced(atoms, rng))
            if (largest := np.abs(frame.get_forces()).max()) > LARGEST_FORCE:
                raise ValueError(f"seed {seed}: a force component of {largest:.1f} eV/Å")
            result.append(frame)
    return result


def splits() -> dict[str, str]:
    """Part → range of frames; whole seeds, every kind in every part."""
    parts, begin = {}, 0
    for part, rounds in ROUNDS.items():
        end = begin + rounds * len(KINDS) * FRAMES
        parts[part], begin = f"{begin}:{end}", end
    return parts


def build(path: Path) -> None:
    """Make the file at `path`."""
    graphs = [from_atoms(frame, fields=("energy", "forces", "stress")) for frame in frames()]
    FlatStore.write(MemoryStore(graphs), path, dtypes=DTYPES, overwrite=True)
    content = path.read_bytes()
    print(f"{path}: {len(graphs)} frames, bytes: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}")


def statistics(path: Path) -> None:
    """Print what the data are like, and what a model of composition alone (least squares) gets on the test frames."""
    graphs = list(FlatStore(path))
    slab = np.array([not bool(graph.pbc.all()) for graph in graphs])
    atoms = np.array([graph.num_nodes for graph in graphs])
    energy = np.array([float(graph.energy) for graph in graphs])
    numbers = np.concatenate([graph.atomic_number.numpy() for graph in graphs])
    elements, counts = np.unique(numbers, return_counts=True)
    print(f"{len(graphs)} frames ({slab.sum()} slabs), {atoms.sum()} atoms, {atoms.min()} to {atoms.max()} a frame")
    print("atoms of " + ", ".join(f"Z={z}: {count}" for z, count in zip(elements, counts, strict=True)))
    for name, chosen in (("bulk", ~slab), ("slab", slab)):
        rows = np.concatenate([graph.forces.numpy() for graph, keep in zip(graphs, chosen, strict=True) if keep])
        stress = np.stack([graph.stress[0].numpy() for graph, keep in zip(graphs, chosen, strict=True) if keep])
        print(
            f"{name}: energy {(energy / atoms)[chosen].mean():.3f} ± {(energy / atoms)[chosen].std():.3f} eV/atom, "
            f"rms force {np.sqrt((rows**2).mean()):.4f} eV/Å, largest |component| {np.abs(rows).max():.2f} eV/Å, "
            f"rms stress {1e3 * np.sqrt((stress**2).mean()):.2f} meV/Å³"
        )
    composition = np.array([[(graph.atomic_number == z).sum().item() for z in elements] for graph in graphs], float)
    train, test = (slice(*map(int, splits()[part].split(":"))) for part in ("train", "test"))
    weight = 1.0 / atoms[train, None]
    bias = np.linalg.lstsq(composition[train] * weight, energy[train] * weight[:, 0])[0]
    error = np.abs(energy - composition @ bias) / atoms
    forces = np.concatenate([graph.forces.numpy() for graph in graphs[test]])
    stress = np.stack([graph.stress[0].numpy() for graph in graphs])
    print(
        f"mean predictor, test: energy MAE {1e3 * error[test].mean():.1f} meV/atom (fitted energy of each element), "
        f"force MAE {np.abs(forces).mean():.4f} eV/Å, "
        f"stress MAE {1e3 * np.abs(stress[test] - stress[train].mean(0)).mean():.2f} meV/Å³"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="make the data anew and write them here")
    parser.add_argument("--stats", action="store_true", help="print statistics of the file (of --out if given)")
    arguments = parser.parse_args()
    if not arguments.out and not arguments.stats:
        parser.error("nothing to do; give --out FILE, --stats, or both")
    if arguments.out:
        build(arguments.out)
    if arguments.stats:
        statistics(arguments.out or HERE / "sample.npz")


if __name__ == "__main__":
    main()
