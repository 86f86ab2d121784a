"""How many SCF cycles a predicted matrix saves.

    python scripts/benchmarks/scf.py MODEL DATA.h5 [--frames 450:500:5] [--json]     # needs geomlib[dft]

For the chosen frames of a file that `HamiltonianStore` reads, PySCF runs the calculation that the model was trained on
twice: from its own `minao` density and from the density of the predicted orbitals. Printed are the cycles of both,
which of the two the guard of `initial_guess` takes, how far predicted and converged occupied orbitals lie in the
occupied space of the initial matrix (`Guess.shared`), the ratios without and with the guard, and the largest difference
of the final energies. A prediction takes one Fock matrix and the net; the guard takes no other one where the net adds
to that of the initial density, and one where it does not.
"""

import argparse
import json
import time

import numpy as np
from ase import Atoms

from geomlib.apply.orbitals.fock import FockPredictor, choose_guess, initial_guess, mean_field, shared_space
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
        density = initial_guess(predictor, molecule, guard=False)
        seconds = time.process_time() - begin
        begin = time.process_time()
        chosen = choose_guess(predictor, molecule)
        guarded = time.process_time() - begin
        found = {}
        for name, guess in (("minao", None), ("predicted", density)):
            field = mean_field(molecule, predictor.functional)
            field.conv_tol = 1e-10
            energy = field.kernel(dm0=guess)
            found[name] = {"cycles": int(field.cycles), "energy": float(energy), "converged": bool(field.converged)}
        initial = mean_field(molecule, predictor.functional)
        orbitals = initial.eig(predictor.initial_fock(molecule), initial.get_ovlp())[1]
        shared = shared_space(orbitals, field.mo_coeff, initial.get_ovlp(), molecule.nelectron // 2)
        cycles = found["minao" if chosen.taken == "minao" else "predicted"]["cycles"]
        guard = {"taken": chosen.taken, "shared": chosen.shared, "converged": shared, "cycles": cycles}
        rows.append({"frame": index, "seconds": seconds, "guarded_seconds": guarded, "guard": guard, **found})
    minao = np.array([row["minao"]["cycles"] for row in rows])
    difference = max(abs(row["predicted"]["energy"] - row["minao"]["energy"]) for row in rows)
    for row in rows:
        print(
            f"frame {row['frame']}: {row['minao']['cycles']} cycles from minao, {row['predicted']['cycles']} predicted"
            f"; the guard takes {row['guard']['taken']} (shared {row['guard']['shared']:.3f}, "
            f"converged {row['guard']['converged']:.3f})"
        )
    for name, words in (("predicted", "without the guard"), ("guard", "with it")):
        ratios = np.array([row[name]["cycles"] for row in rows]) / minao
        print(f"ratio {words} {ratios.mean():.3f}, at most {ratios.max():.3f}")
    print(f"energies differ by at most {difference:.1e} Hartree")
    seconds, guarded = (np.mean([row[name] for row in rows]) for name in ("seconds", "guarded_seconds"))
    print(f"a prediction takes {seconds:.2f} CPU s, {guarded:.2f} with the guard")
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
