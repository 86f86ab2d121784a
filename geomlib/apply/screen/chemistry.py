"""What a screening does with a molecule: standardise, calculate cheap properties, look for alerts and substructures."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from geomlib.data.rdkit_smiles import parse_molecule
from geomlib.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from rdkit.Chem.rdFingerprintGenerator import FingerprintGenerator64
    from rdkit.DataStructs import ExplicitBitVect

__all__ = [
    "ALERTS",
    "PROPERTIES",
    "STANDARDIZATIONS",
    "Alerts",
    "Standardizer",
    "fingerprint",
    "pattern",
    "property_function",
    "property_of",
]


_FUNCTIONS = {
    "MW": ("rdMolDescriptors", "_CalcMolWt"),
    "logP": ("Crippen", "MolLogP"),
    "TPSA": ("rdMolDescriptors", "CalcTPSA"),
    "HBD": ("rdMolDescriptors", "CalcNumHBD"),
    "HBA": ("rdMolDescriptors", "CalcNumHBA"),
    "rotatable_bonds": ("rdMolDescriptors", "CalcNumRotatableBonds"),
    "rings": ("rdMolDescriptors", "CalcNumRings"),
    "aromatic_rings": ("rdMolDescriptors", "CalcNumAromaticRings"),
    "charge": ("rdmolops", "GetFormalCharge"),
    "heavy_atoms": ("rdMolDescriptors", "CalcNumHeavyAtoms"),
    "atoms": ("rdMolDescriptors", "CalcNumAtoms"),
    "fragments": ("rdmolops", "GetMolFrags"),
    "fraction_sp3": ("rdMolDescriptors", "CalcFractionCSP3"),
    "molar_refractivity": ("Crippen", "MolMR"),
    "QED": ("QED", "qed"),
}
"""Name of a property → module below rdkit.Chem and function there."""

PROPERTIES = tuple(_FUNCTIONS)
"""Names of properties. MW in g/mol, TPSA in Å², molar refractivity in cm³/mol, others pure numbers.

Source: logP and molar refractivity, Wildman and Crippen, 10.1021/ci990307l; TPSA, Ertl et al., 10.1021/jm000942e;
QED, Bickerton et al., 10.1038/nchem.1243; as implemented by RDKit.
"""

STANDARDIZATIONS = ("cleanup", "fragment", "uncharge", "tautomer")
"""Steps in the order in which they are done: RDKit's normalisation, the largest organic fragment, neutral where protons
allow it, the canonical tautomer."""

ALERTS = ("PAINS", "BRENK", "NIH")
"""Catalogs of structural alerts that RDKit has.

Source: Baell and Holloway, 10.1021/jm901137j (PAINS); Brenk et al., 10.1002/cmdc.200700139; Jadhav et al.,
10.1021/jm901070c (NIH).
"""


def property_function(name: str) -> "Callable[[Mol], float]":
    """What calculates a property, one of `PROPERTIES`, of a molecule."""
    module, function = _FUNCTIONS[name]
    found: Callable[[Mol], float] = getattr(import_module(f"rdkit.Chem.{module}"), function)
    return (lambda molecule: len(found(molecule))) if name == "fragments" else found  # type: ignore[arg-type]


def property_of(name: str) -> str | None:
    """Name of a property in the table, whatever case it is given in; None if there is none."""
    lower = {known.lower(): known for known in PROPERTIES}
    return lower.get(name.lower())


class Standardizer:
    """Brings molecules into one form.

    Args:
        steps: some of `STANDARDIZATIONS`; they are done in the order of that table.

    Raises:
        ConfigError: an unknown step.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        from rdkit.Chem.MolStandardize import rdMolStandardize

        for step in steps:
            if step not in STANDARDIZATIONS:
                hint = nearest(step, STANDARDIZATIONS)
                raise ConfigError(f"standardisation '{step}'{hint}: expected {', '.join(STANDARDIZATIONS)}")
        self.steps = tuple(step for step in STANDARDIZATIONS if step in steps)
        self._functions: dict[str, Callable[[Mol], Mol]] = {
            "cleanup": rdMolStandardize.Cleanup,
            "fragment": rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose,
            "uncharge": rdMolStandardize.Uncharger().uncharge,
            "tautomer": rdMolStandardize.TautomerEnumerator().Canonicalize,
        }

    def __call__(self, molecule: "Mol") -> "Mol":
        """The molecule in standard form, read anew from its SMILES so that the SMILES says all of it.

        Raises:
            DataError: what comes out is no molecule.
        """
        from rdkit import Chem

        for step in self.steps:
            molecule = self._functions[step](molecule)
        return parse_molecule(Chem.MolToSmiles(molecule))


class Alerts:
    """Structural alerts of catalogs.

    Args:
        names: some of `ALERTS`.

    Raises:
        ConfigError: an unknown catalog.
    """

    def __init__(self, names: Sequence[str]) -> None:
        from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

        parameters = FilterCatalogParams()
        for name in names:
            if name.upper() not in ALERTS:
                raise ConfigError(f"alerts '{name}'{nearest(name, ALERTS)}: expected {', '.join(ALERTS)}")
            parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name.upper()))
        self._catalog = FilterCatalog(parameters)

    def first(self, molecule: "Mol") -> str:
        """Catalog and name of the first alert; empty if there is none."""
        entry = self._catalog.GetFirstMatch(molecule)
        if entry is None:
            return ""
        return f"{entry.GetProp('FilterSet')} {entry.GetDescription()}"


def pattern(smarts: str) -> "Mol":
    """Query of a SMARTS.

    Raises:
        ConfigError: it is none.
    """
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    silence = BlockLogs()
    try:
        query = Chem.MolFromSmarts(smarts)
    finally:
        del silence
    if query is None or not query.GetNumAtoms():
        raise ConfigError(f"'{smarts}' can't be read as SMARTS")
    return query


def fingerprint(molecule: "Mol") -> "ExplicitBitVect":
    """ECFP4 as 2048 bits.

    Source: Rogers and Hahn, 10.1021/ci100050t; Morgan fingerprint of radius 2 of RDKit.
    """
    return _generator().GetFingerprint(molecule)


@cache
def _generator() -> "FingerprintGenerator64":
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    return GetMorganGenerator(radius=2, fpSize=2048)
