"""A published database of Kohn-Sham matrices as a file that `HamiltonianStore` reads, with what it lacks.

    python scripts/convert_hamiltonians.py qh9 QH9Stable.db qh9-stable.h5            # needs geomlib[dft]
    python scripts/convert_hamiltonians.py md17 schnorb_hamiltonian_water.db md17-water.h5
    python scripts/convert_hamiltonians.py pubchemqh pubchemqh.lmdb pubchemqh.h5     # needs geomlib[dft,lmdb]

Nets that learn the difference to the matrix of the initial density need that matrix, and metrics of orbitals need the
overlap; databases lack one or both. PySCF computes them, which takes a tenth of a second to some seconds a molecule,
once. The work can be stopped and started again.

Before, the first records prove that they are what they are taken for: the Kohn-Sham matrix of a converged density is
that of its own orbitals. Another functional, basis set, order of orbitals or unit of positions is seen there.

A record that can't be read or that fails is reported and left out; published splits (`QH9Split`,
`MD17HamiltonianSplit`) go by the numbers of the records and keep their molecules.
"""

import argparse
import sys

from geomlib.apply.hamiltonian_data import HamiltonianFile, complete, own_fock_error
from geomlib.data.hamiltonian_databases import MD17HamiltonianStore, PubChemQHStore, QH9Store, RecordStore
from geomlib.data.splits import parse_indices
from geomlib.errors import DataError, GeomlibError

PROOF = 1e-3  # Hartree


def opened(kind: str, path: str, functional: str | None) -> RecordStore:
    """The database, with all matrices that it has."""
    if kind == "md17":
        return MD17HamiltonianStore(path)
    if kind == "pubchemqh":
        return PubChemQHStore(path, **({"functional": functional} if functional else {}))
    try:
        store = QH9Store(path, ["hamiltonian", "initial_hamiltonian"], functional=functional)
        _ = store[0]
    except DataError:
        store = QH9Store(path, functional=functional)
    return store


def prove(store: RecordStore, count: int, level: int) -> None:
    """Stop where the first records are not converged matrices of what the store says."""
    for index in range(min(count, len(store))):
        error = own_fock_error(store[index], store.basis, store.functional, level)
        print(f"{store.describe(index)}: the matrix of its own density differs by {error:.1e} Hartree", file=sys.stderr)
        if error > PROOF:
            raise DataError(
                f"{store.describe(index)}: is no converged matrix of {store.functional}/{store.basis}; the functional "
                "(--functional), the order of orbitals or the unit of positions is another one (--check 0 goes on)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("qh9", "md17", "pubchemqh"))
    parser.add_argument("source", help="the database")
    parser.add_argument("target", help="HDF5 file")
    parser.add_argument("--records", default=":", help="ranges of the database, as '0:10000' (all)")
    parser.add_argument("--functional", help="in PySCF's words, where it is not that of the published database")
    parser.add_argument("--level", type=int, default=3, help="of the grid, 0 to 9 (3)")
    parser.add_argument("--check", type=int, default=2, metavar="N", help="records that prove what they are (2)")
    args = parser.parse_args()
    try:
        store = opened(args.kind, args.source, args.functional)
        file = HamiltonianFile(args.target, store.basis, store.functional, args.level)
        prove(store, args.check, args.level)
        chosen = parse_indices(args.records, len(store), "--records").tolist()

        def show(number: int, complaint: str) -> None:
            if complaint:
                print(f"\rrecord {number} left out: {complaint}", file=sys.stderr)
            print(f"\r{number}", end="", file=sys.stderr, flush=True)

        done = file.extend(
            ((number, lambda number=number: store[number]) for number in chosen),
            lambda graph: complete(graph, store.basis, store.functional, args.level),
            show,
        )
        file.gather(records=len(store))
    except GeomlibError as error:
        raise SystemExit(f"convert_hamiltonians.py: {error}") from None
    print(f"\n{args.target}: {done.added} records added, {done.present} were there, {len(done.complaints)} left out")


if __name__ == "__main__":
    main()
