"""What RDKit reads from a SMILES and writes as one; needs no torch, so that worker processes start fast and small."""

from typing import TYPE_CHECKING

from geomlib.errors import DataError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["canonical_smiles", "parse_molecule", "smiles_problem"]

_SHOWN = 60
"""Characters of a SMILES that a message shows."""


def parse_molecule(smiles: str, where: str = "") -> "Mol":
    """Molecule of a SMILES, sanitised.

    What RDKit has to say against it goes into the message; nothing is printed.

    Args:
        smiles: the text.
        where: file and row, for the message.

    Raises:
        DataError: it is no molecule.
    """
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    silence = BlockLogs()
    try:
        molecule = Chem.MolFromSmiles(smiles)
    finally:
        del silence
    if molecule is not None and molecule.GetNumAtoms():
        return molecule
    shown = smiles if len(smiles) <= _SHOWN else f"{smiles[:_SHOWN]}… ({len(smiles)} characters)"
    raise DataError(f"{where}{': ' if where else ''}'{shown}' is no molecule: {smiles_problem(smiles)}")


def smiles_problem(smiles: str) -> str:
    """Why a SMILES is no molecule."""
    from rdkit import Chem
    from rdkit.Chem import DetectChemistryProblems
    from rdkit.rdBase import BlockLogs

    silence = BlockLogs()
    try:
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        if molecule is None:
            return "it can't be read as SMILES (a symbol, a bracket or a ring bond is not right)"
        if molecule.GetNumAtoms() == 0:
            return "it has no atoms"
        issues = [" ".join(str(issue.Message()).split()) for issue in DetectChemistryProblems(molecule)]
    finally:
        del silence
    return "; ".join(issues) or "RDKit can't sanitise it"


def canonical_smiles(molecule: "Mol") -> str:
    """RDKit's canonical SMILES."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule))
