"""Features of the atoms and bonds of a molecule, as numbers for a graph neural network."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.errors import ConfigError

if TYPE_CHECKING:
    from rdkit.Chem import Atom, BondStereo, BondType, HybridizationType, Mol

__all__ = ["ATOM_FEATURES", "BOND_FEATURES", "CHIRALITY", "MoleculeStructure", "molecule_structure"]

CHIRALITY = ("cip", "tag", "none")
"""Ways to describe the chirality of an atom; see `molecule_structure`."""

_ELEMENTS = (*range(1, 37), 53)
_CHARGES = (-1, -2, 1, 2, 0)
_HYBRIDIZATIONS = ("S", "SP", "SP2", "SP2D", "SP3", "SP3D", "SP3D2")
_BOND_TYPES = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")

ATOM_FEATURES = (
    *(f"element_{number}" for number in (*_ELEMENTS, "other")),
    *(f"degree_{degree}" for degree in (*range(6), "other")),
    *(f"charge_{charge}" for charge in (*_CHARGES, "other")),
    *(f"chirality_{tag}" for tag in ("none", "R", "S", "unknown", "other")),
    *(f"hydrogens_{count}" for count in (*range(5), "other")),
    *(f"hybridization_{name}" for name in (*_HYBRIDIZATIONS, "other")),
    "aromatic",
    "mass/100",
)
"""Columns of the features of atoms; degree and hydrogens count the implicit ones too."""

BOND_FEATURES = (
    "missing",
    *(f"type_{name}" for name in _BOND_TYPES),
    "conjugated",
    "in_ring",
    *(f"stereo_{name}" for name in ("none", "any", "Z", "E", "cis", "trans", "other")),
)
"""Columns of the features of bonds; `missing` is always zero and keeps the layout of chemprop."""

_WIDTHS = (len(_ELEMENTS) + 1, 7, len(_CHARGES) + 1, 5, 6, len(_HYBRIDIZATIONS) + 1)
_STARTS = np.cumsum((0, *_WIDTHS[:-1]))
_ELEMENT_COLUMN = {number: column for column, number in enumerate(_ELEMENTS)}
_CHARGE_COLUMN = {charge: column for column, charge in enumerate(_CHARGES)}
_HYBRIDIZATION_COLUMN = {name: column for column, name in enumerate(_HYBRIDIZATIONS)}
_CIP_COLUMN = {"R": 1, "S": 2}


@dataclass(frozen=True, slots=True)
class MoleculeStructure:
    """Atoms and directed bonds of one molecule.

    Attributes:
        node_features: `ATOM_FEATURES` of each atom.
        edge_index: atoms of each directed bond, row 0 from, row 1 to; sorted by row 1, then by row 0.
        edge_features: `BOND_FEATURES` of each directed bond.
    """

    node_features: Float[Tensor, "atoms 72"]
    edge_index: Int[Tensor, "2 bonds"]
    edge_features: Float[Tensor, "bonds 14"]


def molecule_structure(molecule: "Mol", *, chirality: str = "cip", hydrogens: bool = False) -> MoleculeStructure:
    """Features of atoms and bonds, in float32.

    Args:
        molecule: a sanitised molecule.
        chirality: `cip` marks stereocentres R or S, which do not depend on how the molecule was written; `tag` takes
            the sense of rotation in the order in which the bonds were written, as chemprop does, so that two SMILES of
            one molecule may differ; `none` leaves it out.
        hydrogens: give hydrogens atoms of their own.

    Raises:
        ConfigError: another `chirality`.

    Source: `MultiHotAtomFeaturizer.v2` and `MultiHotBondFeaturizer` of chemprop 2, which `tag` equals.
    """
    if chirality not in CHIRALITY:
        raise ConfigError(f"chirality is '{chirality}'; choose from {', '.join(CHIRALITY)}")
    if hydrogens:
        from rdkit.Chem import AddHs

        molecule = AddHs(molecule)
    # asked for one by one: RDKit's sequences take three times as long
    atoms = [molecule.GetAtomWithIdx(index) for index in range(molecule.GetNumAtoms())]
    bonds = [molecule.GetBondWithIdx(index) for index in range(molecule.GetNumBonds())]
    rows = [_atom_row(*_atom_key(atom, chirality)) for atom in atoms]
    nodes = np.stack(rows) if rows else np.zeros((0, len(ATOM_FEATURES)), dtype=np.float32)
    nodes[:, -1] = [0.01 * atom.GetMass() for atom in atoms]
    rows = [_bond_row(b.GetBondType(), b.GetStereo(), b.GetIsConjugated(), b.IsInRing()) for b in bonds]
    edges = np.stack(rows) if rows else np.zeros((0, len(BOND_FEATURES)), dtype=np.float32)
    ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]).reshape(-1, 2).T
    directed = np.concatenate([ends, ends[::-1]], axis=1)
    order = np.lexsort(directed)  # by the last row first
    return MoleculeStructure(
        node_features=torch.from_numpy(nodes),
        edge_index=torch.from_numpy(directed[:, order].astype(np.int64)),
        edge_features=torch.from_numpy(np.concatenate([edges, edges])[order]),
    )


def _atom_key(atom: "Atom", chirality: str) -> tuple[object, ...]:
    handed = 0
    if chirality == "tag":
        handed = min(int(atom.GetChiralTag()), 4)
    elif chirality == "cip" and atom.HasProp("_CIPCode"):
        handed = _CIP_COLUMN.get(atom.GetProp("_CIPCode"), 4)
    return (
        atom.GetAtomicNum(),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        handed,
        atom.GetTotalNumHs(),
        atom.GetHybridization(),
        atom.GetIsAromatic(),
    )


@lru_cache(maxsize=4096)
def _atom_row(
    number: int,
    degree: int,
    charge: int,
    handed: int,
    hydrogens: int,
    hybridization: "HybridizationType",
    aromatic: bool,
) -> np.ndarray:
    """Features of an atom but its mass."""
    columns = (
        _ELEMENT_COLUMN.get(number, len(_ELEMENTS)),
        min(degree, 6),
        _CHARGE_COLUMN.get(charge, len(_CHARGES)),
        handed,
        min(hydrogens, 5),
        _HYBRIDIZATION_COLUMN.get(hybridization.name, len(_HYBRIDIZATIONS)),
    )
    row = np.zeros(len(ATOM_FEATURES), dtype=np.float32)
    row[np.array(columns) + _STARTS] = 1.0
    row[-2] = aromatic
    return row


@lru_cache(maxsize=4096)
def _bond_row(kind: "BondType", stereo: "BondStereo", conjugated: bool, in_ring: bool) -> np.ndarray:
    """Features of a bond; a kind that is none of `_BOND_TYPES`, such as dative, has zeros there."""
    row = np.zeros(len(BOND_FEATURES), dtype=np.float32)
    if kind.name in _BOND_TYPES:
        row[1 + _BOND_TYPES.index(kind.name)] = 1.0
    row[5], row[6] = conjugated, in_ring
    row[7 + min(int(stereo), 6)] = 1.0
    return row
