"""Molecules as the graphs of the ZINC benchmark: heavy atoms of 28 types, bonds of 3."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from rdkit import Chem
from torch import Tensor

from geomlib.errors import DataError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["ZINC_ATOMS", "ZINC_BONDS", "zinc_structure"]

# fmt: off
ZINC_ATOMS = (
    "C", "O", "N", "F", "C H1", "S", "Cl", "O -", "N H1 +", "Br", "N H3 +", "N H2 +", "N +", "N -", "S -", "I", "P",
    "O H1 +", "N H1 -", "O +", "S +", "P H1", "P H2", "C H2 -", "P +", "S H1 +", "C H1 -", "P H1 +",
)
# fmt: on
"""Position → element, hydrogens written in brackets ("C H1" is a stereocentre), sign of the charge."""

ZINC_BONDS = ("", "single", "double", "triple")
"""Position → order of a bond of the kekulised molecule; 0 is not used."""

_TYPES = {name: position for position, name in enumerate(ZINC_ATOMS)}
_ORDERS = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}


def zinc_structure(
    molecule: "Mol", where: str = "molecule"
) -> tuple[Int[Tensor, " atoms"], Int[Tensor, "2 edges"], Int[Tensor, " edges"]]:
    """Types of atoms, edges in both directions sorted by the atom they lead to, and types of edges.

    The molecule is kekulised, written as SMILES and read again without sanitising, as the benchmark's authors must
    have done; atoms keep the order that they have in `molecule`.

    Args:
        molecule: from `parse_molecule`.
        where: what to call it in messages.

    Raises:
        DataError: an atom or bond that the benchmark does not have, or no Kekulé structure.

    Source: Dwivedi et al., arXiv:2003.00982; the rule gives the 28 types for all molecules of the benchmark.
    """
    copy = Chem.Mol(molecule)
    try:
        Chem.Kekulize(copy, clearAromaticFlags=True)
    except Chem.KekulizeException as error:
        raise DataError(f"{where}: {str(error).splitlines()[0]}") from None
    text = Chem.MolToSmiles(copy, kekuleSmiles=True)
    order = [int(number) for number in copy.GetProp("_smilesAtomOutputOrder").strip("[],").split(",") if number]
    written = Chem.MolFromSmiles(text, sanitize=False)
    if written is None or written.GetNumAtoms() != len(order):
        raise DataError(f"{where}: its Kekulé structure '{text}' can't be read back")
    types = torch.empty(len(order), dtype=torch.int64)
    for atom in written.GetAtoms():
        name = _name(atom)
        if name not in _TYPES:
            raise DataError(
                f"{where}: atom {order[atom.GetIdx()]} of '{text}' is of type '{name}', which the ZINC benchmark "
                f"does not have; its 28 types are {', '.join(ZINC_ATOMS)}"
            )
        types[order[atom.GetIdx()]] = _TYPES[name]
    edges = []
    for bond in written.GetBonds():
        if bond.GetBondType() not in _ORDERS:
            raise DataError(f"{where}: '{text}' has a bond of type {bond.GetBondType().name}; expected one to three")
        ends = order[bond.GetBeginAtomIdx()], order[bond.GetEndAtomIdx()]
        edges += [(*ends, _ORDERS[bond.GetBondType()]), (*ends[::-1], _ORDERS[bond.GetBondType()])]
    edges.sort(key=lambda edge: (edge[1], edge[0]))
    rows = torch.tensor(edges, dtype=torch.int64).reshape(-1, 3).T
    return types, rows[:2].contiguous(), rows[2].contiguous()


def _name(atom: "Chem.Atom") -> str:
    hydrogens = f" H{atom.GetNumExplicitHs()}" if atom.GetNumExplicitHs() else ""
    charge = "" if atom.GetFormalCharge() == 0 else " +" if atom.GetFormalCharge() > 0 else " -"
    return atom.GetSymbol() + hydrogens + charge
