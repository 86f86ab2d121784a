"""How many SCF cycles a predicted matrix saves.

    python scripts/benchmarks/scf.py MODEL DATA.h5 [--frames 450:500:5] [--json]     # needs geomlib[dft]

For the chosen frames of a file that `HamiltonianStore` reads, PySCF runs the calculation that the model was trained on
twice: from its own `minao` density and from the density of the predicted orbitals. Printed are the cycles of both,
their ratio, and the largest difference of the final energies. A prediction takes one Fock matrix and the net.
"""

import argparse
import json
import time

import numpy as np
from ase import Atoms

from geomlib.apply.orbitals.fock import FockPredictor, mean_field
from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.data.splits import parse_indices


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--frames", default="450:500:5", help="ranges of the file")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    store, predictor = HamiltonianStore(args.data), FockPredictor(args.model)
    rows = []
    for index in parse_indices(args.frames, len(store)).tolist():
        graph = store[index]
        molecule = predictor.molecule(Atoms(graph.atomic_number.numpy(), graph.pos.numpy()))
        begin = time.process_time()
        density = predictor.report(molecule).density
        seconds = time.process_time() - begin
        found = {}
        for name, guess in (("minao", None), ("predicted", density)):
            field = mean_field(molecule, predictor.functional)
            field.conv_tol = 1e-10
            energy = field.kernel(dm0=guess)
            found[name] = {"cycles": int(field.cycles), "energy": float(energy), "converged": bool(field.converged)}
        rows.append({"frame": index, "seconds": seconds, **found})
    ratios = np.array([row["predicted"]["cycles"] / row["minao"]["cycles"] for row in rows])
    difference = max(abs(row["predicted"]["energy"] - row["minao"]["energy"]) for row in rows)
    for row in rows:
        print(
            f"frame {row['frame']}: {row['minao']['cycles']} cycles from minao, {row['predicted']['cycles']} predicted"
        )
    print(f"ratio {ratios.mean():.3f}, at most {ratios.max():.3f}; energies differ by at most {difference:.1e} Hartree")
    print(f"a prediction takes {np.mean([row['seconds'] for row in rows]):.2f} CPU s")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
