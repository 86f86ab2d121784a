"""Make `sample.npz`: molecular dynamics of ethanol and of small water clusters with GFN2-xTB.

    python datasets/gfn2-molecules/prepare.py --out new.npz            # needs pip install 'geomlib[labels]'
    python datasets/gfn2-molecules/prepare.py --stats                  # statistics of the file that is here

Langevin dynamics samples the frames. Their energies and forces are then computed afresh, without a density carried over
from the step before, at the positions as they are stored (rounded to float32), so that each label belongs to exactly
the positions beside it.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.optimize import BFGS
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from geomlib.data.atoms import from_atoms
from geomlib.data.flat import FlatStore
from geomlib.data.stores import MemoryStore

HERE = Path(__file__).parent
TIMESTEP = 0.5  # fs
EVERY = 10  # steps between frames
FRICTION = 0.01  # 1/fs
EQUILIBRATION = 100  # steps
LARGEST_FORCE = 10.0  # eV/Å; thermal ones stay well below
LARGEST_GAP = 4.0  # Å between neighbouring oxygen atoms of a cluster that holds together
DTYPES = {"pos": "float32", "forces": "float32", "cell": "float32"}


@dataclass(frozen=True)
class Run:
    """One trajectory: `blocks` of kept frames, with `gap` frames left out between two blocks."""

    name: str
    temperature: float  # K
    blocks: tuple[int, ...]  # train, val, test
    gap: int
    seed: int


ETHANOL = Run("ethanol", 500.0, (760, 40, 200), 20, 2024)
WATER = tuple(Run(f"water{n}", 250.0, (70, 10, 20), 10, 3000 + n) for n in range(1, 7))


def calculator():
    """A fresh GFN2-xTB calculator, converged tighter than tblite's default."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def water_cluster(n: int, rng: np.random.Generator) -> Atoms:
    """`n` water molecules in random orientation on the corners of a cube of 2.9 Å."""
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * 2.9
    cluster = Atoms()
    for corner in corners[:n]:
        water = molecule("H2O")
        water.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
        water.translate(corner - water.get_center_of_mass())
        cluster += water
    return cluster


def trajectory(start: Atoms, run: Run, rng: np.random.Generator) -> Iterator[tuple[Atoms, float]]:
    """Relax, warm up, and yield the frames of the blocks of `run`, without labels, and their temperatures [K]."""
    atoms = start.copy()
    atoms.calc = calculator()
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=300)
    spread = np.sqrt(atoms.get_masses() * units.kB * run.temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    Stationary(atoms)
    ZeroRotation(atoms)
    atoms.set_constraint(FixCom())  # `fixcm=True` of Langevin heats small molecules, ethanol here to about 680 K
    dynamics = Langevin(
        atoms,
        TIMESTEP * units.fs,
        temperature_K=run.temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(EQUILIBRATION)
    for position, frames in enumerate(run.blocks):
        dynamics.run(EVERY * run.gap * (position > 0))
        for _ in range(frames):
            dynamics.run(EVERY)
            freedom = 3 * len(atoms) - 3
            yield Atoms(atoms.numbers, atoms.positions), 2 * atoms.get_kinetic_energy() / (freedom * units.kB)


def label(atoms: Atoms) -> Atoms:
    """The frame at its stored positions, with energy [eV] and forces [eV/Å]."""
    frame = Atoms(atoms.numbers, atoms.positions.astype(np.float32).astype(np.float64))
    frame.calc = calculator()
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    frame.calc = SinglePointCalculator(frame, energy=float(energy), forces=forces)
    return frame


def check(frames: list[Atoms], run: Run) -> None:
    """Refuse a trajectory with an outlying force, a broken molecule or a cluster that came apart."""
    for index, frame in enumerate(frames):
        largest = np.abs(frame.get_forces()).max()
        if largest > LARGEST_FORCE:
            raise ValueError(f"{run.name}, frame {index}: a force component of {largest:.1f} eV/Å")
        hydrogen, heavy = frame.positions[frame.numbers == 1], frame.positions[frame.numbers != 1]
        if cdist(hydrogen, heavy).min(1).max() > 1.5:
            raise ValueError(f"{run.name}, frame {index}: a hydrogen atom left its molecule")
        if connected_components(cdist(heavy, heavy) < LARGEST_GAP)[0] > 1:
            raise ValueError(f"{run.name}, frame {index}: came apart")


def frames() -> list[Atoms]:
    """All labelled frames: ethanol, then the water clusters by size; each trajectory in order of time."""
    result = []
    for run in (ETHANOL, *WATER):
        rng = np.random.default_rng(run.seed)
        start = molecule("CH3CH2OH") if run is ETHANOL else water_cluster(int(run.name[-1]), rng)
        sampled, temperatures = zip(*trajectory(start, run, rng), strict=True)
        labelled = [label(frame) for frame in sampled]
        check(labelled, run)
        print(f"{run.name}: {len(labelled)} frames at {np.mean(temperatures):.0f} K on average", flush=True)
        result += labelled
    return result


def splits() -> dict[str, dict[str, list[int]]]:
    """Named splits → part → frames. Within each trajectory train comes before val, and val before test."""
    named: dict[str, dict[str, list[int]]] = {
        name: {part: [] for part in ("train", "val", "test")} for name in ("ethanol", "water", "all")
    }
    begin = 0
    for run in (ETHANOL, *WATER):
        for part, count in zip(("train", "val", "test"), run.blocks, strict=True):
            block = range(begin, begin + count)
            begin += count
            named["ethanol" if run is ETHANOL else "water"][part] += block
            named["all"][part] += block
    return named


def build(path: Path) -> None:
    """Make the file at `path`."""
    graphs = [from_atoms(frame, fields=("energy", "forces")) for frame in frames()]
    FlatStore.write(MemoryStore(graphs), path, dtypes=DTYPES, overwrite=True)
    content = path.read_bytes()
    print(f"{path}: {len(graphs)} frames, bytes: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}")


def statistics(path: Path) -> None:
    """Print what the data are like, and what a model that has learned nothing but the mean gets on the test frames."""
    graphs = list(FlatStore(path))
    energies = np.array([float(graph.energy) for graph in graphs])
    forces = [graph.forces.numpy() for graph in graphs]
    begin = 0
    print("trajectory  frames  atoms  std(E) eV  rms force eV/Å  largest |component| eV/Å")
    for run in (ETHANOL, *WATER):
        part = slice(begin, begin + sum(run.blocks))
        stacked = np.concatenate(forces[part])
        begin = part.stop
        print(
            f"{run.name:10} {part.stop - part.start:7} {len(forces[part][0]):6} {energies[part].std():10.4f}"
            f" {np.sqrt((stacked**2).mean()):15.4f} {np.abs(stacked).max():25.2f}"
        )
    ethanol = splits()["ethanol"]
    atoms = len(forces[0])
    mean = energies[ethanol["train"]].mean()
    for part in ("val", "test"):
        rows = np.concatenate([forces[i] for i in ethanol[part]])
        error = 1e3 * np.abs(energies[ethanol[part]] - mean).mean() / atoms
        print(
            f"mean predictor, ethanol {part}: energy MAE {error:.2f} meV/atom, "
            f"force MAE {np.abs(rows).mean():.4f} eV/Å, force RMSE {np.sqrt((rows**2).mean()):.4f} eV/Å"
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
