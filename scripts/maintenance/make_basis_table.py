"""Write `geomlib/data/basis_shells.json`: the degrees of the shells of each element in common basis sets.

    python scripts/maintenance/make_basis_table.py            # needs geomlib[dft]

Degrees are in the order in which PySCF puts the orbitals of an atom.
"""

import json
from pathlib import Path

from pyscf import gto
from pyscf.lib.exceptions import BasisNotFoundError

TARGET = Path(__file__).resolve().parents[2] / "geomlib" / "data" / "basis_shells.json"
BASIS_SETS = ("sto-3g", "6-31g", "6-31g*", "def2-svp", "def2-tzvp", "cc-pvdz", "cc-pvtz")
ELECTRONS = 36  # H to Kr


def shells(basis: str, symbol: str, number: int) -> list[int] | None:
    """Degree of each shell of a single atom, or None where the basis set has none."""
    try:
        atom = gto.M(atom=f"{symbol} 0 0 0", basis=basis, spin=number % 2, verbose=0)
    except (BasisNotFoundError, KeyError):
        return None
    return [atom.bas_angular(shell) for shell in range(atom.nbas) for _ in range(atom.bas_nctr(shell))]


def main() -> None:
    table = {}
    for basis in BASIS_SETS:
        rows = {}
        for number in range(1, ELECTRONS + 1):
            symbol = gto.mole._symbol(number)
            if (found := shells(basis, symbol, number)) is not None:
                rows[symbol] = found
        table[basis] = rows
    lines = [
        json.dumps(basis) + ": {\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items()) + "\n}"
        for basis, rows in table.items()
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
