"""Molecules and mixtures as text: SMILES to graphs and back, and what RDKit says about a SMILES."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.rdkit_smiles import canonical_smiles, parse_molecule
from geomlib.errors import DataError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = [
    "canonical_smiles",
    "from_smiles",
    "kekule_smiles",
    "murcko_scaffold",
    "ordered_smiles",
    "parse_molecule",
    "random_smiles",
    "to_smiles",
]


def from_smiles(
    smiles: str | Sequence[str],
    mole_fraction: Sequence[float] | None = None,
    temperature: float | None = None,
    **fields: Tensor,
) -> GraphData:
    """A molecule, or a mixture of several, as a graph of text alone; a net's spec builds what it needs of it.

    Nothing is parsed here, and RDKit is not needed.

    Args:
        smiles: of the molecule, or of each molecule of a mixture.
        mole_fraction: of each molecule; needed where there are several.
        temperature: [K].
        **fields: further fields, such as `target` [1, targets].

    Raises:
        DataError: no molecule, an empty SMILES, or mole fractions that are none.
        UnknownField: a name that is not in the field table.
    """
    molecules = [smiles] if isinstance(smiles, str) else list(smiles)
    if not molecules or not all(isinstance(text, str) and text for text in molecules):
        raise DataError(f"SMILES {molecules}: expected at least one, and none of them empty")
    lengths = torch.tensor([len(text) for text in molecules])
    graph = GraphData(
        smiles=torch.tensor([ord(character) for text in molecules for character in text]),
        character_component=torch.repeat_interleave(torch.arange(len(molecules)), lengths),
        component_graph=torch.zeros(len(molecules), dtype=torch.int64),
        **fields,
    )
    if mole_fraction is not None:
        graph.mole_fraction = _fractions(mole_fraction, molecules)
    if temperature is not None:
        graph.temperature = torch.tensor([float(temperature)], dtype=torch.float64)
    return graph


def _fractions(values: Sequence[float], molecules: Sequence[str]) -> Tensor:
    fractions = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if len(fractions) != len(molecules):
        raise DataError(f"{len(fractions)} mole fractions for {len(molecules)} molecules: {', '.join(molecules)}")
    # written so that NaN fails too
    if not bool((fractions >= 0).all()) or not abs(float(fractions.sum()) - 1.0) <= 1e-6:
        raise DataError(
            f"mole fractions {fractions.tolist()} of {', '.join(molecules)}: expected numbers of 0 and above that sum "
            "to 1"
        )
    return fractions


def to_smiles(graph: GraphData) -> list[str]:
    """SMILES of each molecule of a graph or a batch, as they were given."""
    owners = graph.character_component
    counts = torch.bincount(owners, minlength=len(graph.component_graph)).tolist()
    text = "".join(map(chr, graph.smiles.tolist()))
    pieces, start = [], 0
    for count in counts:
        pieces.append(text[start : start + count])
        start += count
    return pieces


def kekule_smiles(molecule: "Mol") -> str:
    """Canonical SMILES with single and double bonds instead of aromatic ones.

    Raises:
        DataError: aromatic bonds that can't be told apart.
    """
    from rdkit import Chem

    return str(Chem.MolToSmiles(_kekulised(molecule), kekuleSmiles=True))


def ordered_smiles(molecule: "Mol", *, kekule: bool = False) -> tuple[str, list[int]]:
    """What `canonical_smiles` or `kekule_smiles` writes, and which atom of the molecule stands at each place in it."""
    from rdkit import Chem

    copy = _kekulised(molecule) if kekule else Chem.Mol(molecule)
    text = str(Chem.MolToSmiles(copy, kekuleSmiles=kekule))  # leaves the order on the molecule
    return text, list(copy.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])


def _kekulised(molecule: "Mol") -> "Mol":
    from rdkit import Chem

    copy = Chem.Mol(molecule)
    try:
        Chem.Kekulize(copy, clearAromaticFlags=True)
    except Chem.KekulizeException as error:
        raise DataError(f"'{canonical_smiles(molecule)}' can't be kekulised: {' '.join(str(error).split())}") from None
    return copy


def random_smiles(molecule: "Mol", generator: torch.Generator, *, kekule: bool = False) -> str:
    """SMILES of the same molecule that starts at a random atom and takes random turns.

    Args:
        molecule: the molecule.
        generator: decides; the same state gives the same SMILES.
        kekule: write single and double bonds instead of aromatic ones.

    Raises:
        DataError: aromatic bonds that can't be told apart.
    """
    from rdkit import Chem

    order = torch.randperm(molecule.GetNumAtoms(), generator=generator).tolist()
    shuffled = Chem.RenumberAtoms(_kekulised(molecule) if kekule else molecule, order)
    return str(Chem.MolToSmiles(shuffled, canonical=False, kekuleSmiles=kekule))


def murcko_scaffold(molecule: "Mol") -> str:
    """SMILES of the Bemis-Murcko scaffold without chirality: rings and what joins them; empty if there are no rings."""
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    return str(MurckoScaffoldSmiles(mol=molecule, includeChirality=False))
