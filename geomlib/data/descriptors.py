"""Descriptors of molecules by name: RDKit's two-dimensional ones, and Morgan fingerprints."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from geomlib.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["LIMIT", "RDKIT_2D", "calculate_descriptors", "descriptor_width", "expand_descriptors", "fingerprint"]

LIMIT = 1e6
"""Descriptors are cut off at ± this: a few are unbounded, and float32 and averages have to stand them."""

_RDKIT_2D = """
    MaxAbsEStateIndex MaxEStateIndex MinAbsEStateIndex MinEStateIndex qed SPS MolWt HeavyAtomMolWt ExactMolWt
    NumValenceElectrons NumRadicalElectrons MaxPartialCharge MinPartialCharge MaxAbsPartialCharge MinAbsPartialCharge
    FpDensityMorgan1 FpDensityMorgan2 FpDensityMorgan3 BCUT2D_MWHI BCUT2D_MWLOW BCUT2D_CHGHI BCUT2D_CHGLO
    BCUT2D_LOGPHI BCUT2D_LOGPLOW BCUT2D_MRHI BCUT2D_MRLOW AvgIpc BalabanJ BertzCT Chi0 Chi0n Chi0v Chi1 Chi1n Chi1v
    Chi2n Chi2v Chi3n Chi3v Chi4n Chi4v HallKierAlpha Kappa1 Kappa2 Kappa3 LabuteASA PEOE_VSA1 PEOE_VSA10 PEOE_VSA11
    PEOE_VSA12 PEOE_VSA13 PEOE_VSA14 PEOE_VSA2 PEOE_VSA3 PEOE_VSA4 PEOE_VSA5 PEOE_VSA6 PEOE_VSA7 PEOE_VSA8 PEOE_VSA9
    SMR_VSA1 SMR_VSA10 SMR_VSA2 SMR_VSA3 SMR_VSA4 SMR_VSA5 SMR_VSA6 SMR_VSA7 SMR_VSA8 SMR_VSA9 SlogP_VSA1 SlogP_VSA10
    SlogP_VSA11 SlogP_VSA12 SlogP_VSA2 SlogP_VSA3 SlogP_VSA4 SlogP_VSA5 SlogP_VSA6 SlogP_VSA7 SlogP_VSA8 SlogP_VSA9
    TPSA EState_VSA1 EState_VSA10 EState_VSA11 EState_VSA2 EState_VSA3 EState_VSA4 EState_VSA5 EState_VSA6 EState_VSA7
    EState_VSA8 EState_VSA9 VSA_EState1 VSA_EState10 VSA_EState2 VSA_EState3 VSA_EState4 VSA_EState5 VSA_EState6
    VSA_EState7 VSA_EState8 VSA_EState9 FractionCSP3 HeavyAtomCount NHOHCount NOCount NumAliphaticCarbocycles
    NumAliphaticHeterocycles NumAliphaticRings NumAmideBonds NumAromaticCarbocycles NumAromaticHeterocycles
    NumAromaticRings NumAtomStereoCenters NumBridgeheadAtoms NumHAcceptors NumHDonors NumHeteroatoms NumHeterocycles
    NumRotatableBonds NumSaturatedCarbocycles NumSaturatedHeterocycles NumSaturatedRings NumSpiroAtoms
    NumUnspecifiedAtomStereoCenters Phi RingCount MolLogP MolMR fr_Al_COO fr_Al_OH fr_Al_OH_noTert fr_ArN fr_Ar_COO
    fr_Ar_N fr_Ar_NH fr_Ar_OH fr_COO fr_COO2 fr_C_O fr_C_O_noCOO fr_C_S fr_HOCCN fr_Imine fr_NH0 fr_NH1 fr_NH2 fr_N_O
    fr_Ndealkylation1 fr_Ndealkylation2 fr_Nhpyrrole fr_SH fr_aldehyde fr_alkyl_carbamate fr_alkyl_halide
    fr_allylic_oxid fr_amide fr_amidine fr_aniline fr_aryl_methyl fr_azide fr_azo fr_barbitur fr_benzene
    fr_benzodiazepine fr_bicyclic fr_diazo fr_dihydropyridine fr_epoxide fr_ester fr_ether fr_furan fr_guanido
    fr_halogen fr_hdrzine fr_hdrzone fr_imidazole fr_imide fr_isocyan fr_isothiocyan fr_ketone fr_ketone_Topliss
    fr_lactam fr_lactone fr_methoxy fr_morpholine fr_nitrile fr_nitro fr_nitro_arom fr_nitro_arom_nonortho fr_nitroso
    fr_oxazole fr_oxime fr_para_hydroxylation fr_phenol fr_phenol_noOrthoHbond fr_phos_acid fr_phos_ester fr_piperdine
    fr_piperzine fr_priamide fr_prisulfonamd fr_pyridine fr_quatN fr_sulfide fr_sulfonamd fr_sulfone fr_term_acetylene
    fr_tetrazole fr_thiazole fr_thiocyan fr_thiophene fr_unbrch_alkane fr_urea
"""

RDKIT_2D = tuple(_RDKIT_2D.split())
"""The set `rdkit`: all two-dimensional descriptors of RDKit but Ipc, whose values grow exponentially with the number
of atoms. The list is fixed here, so that a net means the same by it with any version of RDKit."""

FINGERPRINT = "ecfp"


def expand_descriptors(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names of single descriptors, and `ecfp`, of what was asked for.

    Args:
        names: `rdkit` (all of `RDKIT_2D`), `ecfp` (a Morgan fingerprint), or names of RDKit's descriptors; one, or
            several.

    Raises:
        ConfigError: a name that is unknown or stands twice.
    """
    wanted = (names,) if isinstance(names, str) else tuple(names)
    out = [single for name in wanted for single in (RDKIT_2D if name == "rdkit" else (name,))]
    known = {*RDKIT_2D, "Ipc", FINGERPRINT}
    for name in out:
        if name not in known:
            hint = nearest(name, [*known, "rdkit"])
            raise ConfigError(
                f"descriptor '{name}' is unknown{hint}; write rdkit, ecfp, or names of RDKit's descriptors"
            )
    if not out or len(set(out)) < len(out):
        raise ConfigError(f"descriptors {list(wanted)}: expected at least one name, and each of them once")
    return tuple(out)


def descriptor_width(names: str | Sequence[str], size: int = 2048) -> int:
    """Number of columns of `names`, where a fingerprint has `size` of them."""
    return sum(size if name == FINGERPRINT else 1 for name in expand_descriptors(names))


def calculate_descriptors(
    molecule: "Mol", names: Sequence[str], *, radius: int = 2, size: int = 2048, counts: bool = True
) -> np.ndarray:
    """Descriptors of a molecule as float64 `[width]`.

    What RDKit can't give (partial charges of an element without parameters, say) is NaN; what is infinite or beyond
    ±`LIMIT` is cut off there.

    Args:
        molecule: a sanitised molecule.
        names: from `expand_descriptors`.
        radius: of the fingerprint, in bonds; 2 is ECFP4.
        size: of the fingerprint.
        counts: how often a substructure occurs (true) or whether it does.

    Raises:
        DataError: a descriptor that the installed RDKit does not have.
    """
    from rdkit.rdBase import BlockLogs

    functions = _functions()
    parts: list[np.ndarray] = []
    values: list[float] = []
    silence = BlockLogs()
    for name in names:
        if name == FINGERPRINT:
            parts += [np.array(values), fingerprint(molecule, radius=radius, size=size, counts=counts)]
            values = []
            continue
        if name not in functions:
            raise DataError(f"the installed RDKit has no descriptor '{name}': update it, or leave the descriptor out")
        try:
            values.append(float(functions[name](molecule)))
        except (ValueError, RuntimeError, ArithmeticError, IndexError, KeyError):
            values.append(np.nan)  # RDKit's own CalcMolDescriptors does the same, for any exception
    del silence
    return np.clip(np.concatenate([*parts, np.array(values)]), -LIMIT, LIMIT)


def fingerprint(molecule: "Mol", *, radius: int = 2, size: int = 2048, counts: bool = True) -> np.ndarray:
    """Morgan fingerprint (ECFP of diameter 2·radius) as float64 `[size]`."""
    generator = _generator(radius, size)
    row = generator.GetCountFingerprintAsNumPy(molecule) if counts else generator.GetFingerprintAsNumPy(molecule)
    return np.asarray(row, dtype=np.float64)


@cache
def _generator(radius: int, size: int) -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)


@cache
def _functions() -> dict[str, Callable[["Mol"], float]]:
    from rdkit.Chem import Descriptors

    return {**dict(Descriptors.descList), "AvgIpc": _average_information}


def _average_information(molecule: "Mol") -> float:
    """AvgIpc: entropy [bits] of the absolute coefficients of the characteristic polynomial of the bonds.

    Of a simple graph these are integers. RDKit finds them by Le Verrier's recursion, at the fourth power of the number
    of atoms, and loses all digits on large molecules: for actinomycin D (90 atoms) it gives 0.9130, where exact
    integers give 4.1754. From the eigenvalues they are exact.
    """
    from rdkit.Chem import GetAdjacencyMatrix

    adjacency = GetAdjacencyMatrix(molecule).astype(np.float64)
    if len(adjacency) == 0:
        return float("nan")
    coefficients = np.ones(1)
    for value in np.linalg.eigvalsh(adjacency):
        coefficients = np.append(coefficients, 0.0) - value * np.insert(coefficients, 0, 0.0)
    weights = np.abs(np.where(np.abs(coefficients) < 2.0**40, np.rint(coefficients), coefficients))
    shares = weights[weights > 0] / weights.sum()
    return float(-(shares * np.log2(shares)).sum())
