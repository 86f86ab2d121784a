"""Which atoms of a molecule each of its tokens speaks of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.data.molecules import ordered_smiles, parse_molecule
from geomlib.data.selfies_tokens import smiles_to_selfies
from geomlib.errors import DataError
from geomlib.graphs.tokens import SmilesTokens

__all__ = ["WrittenMolecule", "write_molecule"]


@dataclass(frozen=True, slots=True)
class WrittenMolecule:
    """A molecule as a net reads it.

    Attributes:
        text: as it is written.
        tokens: of the text; special tokens of a template included.
        atoms: of each token those that it speaks of, numbered as RDKit numbers the SMILES that was given.
        size: number of atoms.
    """

    text: str
    tokens: list[str]
    atoms: list[tuple[int, ...]]
    size: int

    def on_atoms(self, values: Sequence[float] | NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Values of tokens on the atoms, those of bonds half on either, and the sum of what belongs to no atom."""
        found, rest = np.zeros(self.size), 0.0
        for value, owners in zip(values, self.atoms, strict=False):
            for owner in owners:
                found[owner] += value / len(owners)
            if not owners:
                rest += float(value)
        return found, rest


def write_molecule(smiles: str, builder: SmilesTokens) -> WrittenMolecule:
    """Write a molecule as `builder` does and say where its atoms went.

    Raises:
        DataError: it is no molecule, or its text can't be followed to the atoms.
    """
    molecule = parse_molecule(smiles)
    if builder.form in ("as-is", "selfies-as-is"):
        text, order = smiles.strip(), _order_as_given(smiles)
    else:
        text, order = ordered_smiles(molecule, kekule=builder.form != "canonical")
    if builder.form.startswith("selfies"):
        text = smiles_to_selfies(text)
    tokens, owners = builder.tokenizer.tokenize(text), builder.tokenizer.token_atoms(text)
    if max((atom for owner in owners for atom in owner), default=-1) >= len(order):
        raise DataError(f"SMILES '{smiles[:60]}': its tokens name more atoms than the molecule has")
    atoms = [tuple(order[atom] for atom in owner) for owner in owners]
    if builder.template:
        tokens, atoms = ["[CLS]", *tokens, "[SEP]"], [(), *atoms, ()]
    if builder.max_tokens:
        tokens, atoms = tokens[: builder.max_tokens], atoms[: builder.max_tokens]
    return WrittenMolecule(text, tokens, atoms, molecule.GetNumAtoms())


def _order_as_given(smiles: str) -> list[int]:
    """Atom of the parsed molecule for each that is written; a hydrogen that RDKit takes away is at its neighbour."""
    from rdkit import Chem

    parameters: Any = Chem.SmilesParserParams()
    parameters.removeHs = False
    whole = Chem.MolFromSmiles(smiles, parameters)
    if whole is None:
        raise DataError(f"SMILES '{smiles[:60]}': its atoms can't be followed")
    for atom in whole.GetAtoms():
        atom.SetIntProp("written", atom.GetIdx())
    kept = [atom.GetIntProp("written") for atom in Chem.RemoveHs(whole).GetAtoms()]
    place = {number: index for index, number in enumerate(kept)}
    return [
        place[number] if number in place else place[whole.GetAtomWithIdx(number).GetNeighbors()[0].GetIdx()]
        for number in range(whole.GetNumAtoms())
    ]
