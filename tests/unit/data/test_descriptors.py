"""Descriptors by name: what RDKit gives, what it can't give, and what is made faster here."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from geomlib.data.descriptors import (
    LIMIT,
    RDKIT_2D,
    calculate_descriptors,
    descriptor_width,
    expand_descriptors,
    fingerprint,
)
from geomlib.errors import ConfigError, DataError

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
ACTINOMYCIN = (
    "Cc1c2oc3c(C)ccc(C(=O)NC4C(=O)NC(C(C)C)C(=O)N5CCCC5C(=O)N(C)CC(=O)N(C)C(C(C)C)C(=O)OC4C)c3nc-2c(C(=O)NC2C(=O)NC"
    "(C(C)C)C(=O)N3CCCC3C(=O)N(C)CC(=O)N(C)C(C(C)C)C(=O)OC2C)c(N)c1=O"
)


def value(smiles, *names):
    return calculate_descriptors(Chem.MolFromSmiles(smiles), names)


def test_rdkit_is_every_descriptor_but_ipc():
    assert {name for name, _ in Descriptors.descList} - {"Ipc"} <= set(RDKIT_2D)
    assert "Ipc" not in RDKIT_2D and len(set(RDKIT_2D)) == len(RDKIT_2D) == 216
    assert expand_descriptors("rdkit") == RDKIT_2D
    assert expand_descriptors(["TPSA", "ecfp"]) == ("TPSA", "ecfp")
    assert descriptor_width("rdkit") == 216 and descriptor_width(("ecfp", "TPSA"), size=64) == 65


def test_values_are_those_of_rdkit():
    molecule = Chem.MolFromSmiles(ASPIRIN)
    reference = Descriptors.CalcMolDescriptors(molecule)
    np.testing.assert_allclose(
        calculate_descriptors(molecule, RDKIT_2D), [reference[name] for name in RDKIT_2D], rtol=1e-9, atol=1e-9
    )


def test_values_by_hand():
    found = value("OCCN", "MolWt", "NumHDonors", "HeavyAtomCount", "RingCount")
    np.testing.assert_allclose(found, [61.084, 2, 4, 0])


@pytest.mark.parametrize("smiles", ["C", "CC", "C1CC1", ASPIRIN, "c1ccc2c(c1)ccc1ccccc12", "CCO.[Na+]"])
def test_information_of_the_characteristic_polynomial(smiles):
    molecule = Chem.MolFromSmiles(smiles)
    assert value(smiles, "AvgIpc")[0] == pytest.approx(Descriptors.AvgIpc(molecule), abs=1e-9)


def test_information_of_a_large_molecule_is_that_of_exact_integers():
    # by Le Verrier's recursion in Python's integers; RDKit's, in floats, gives 0.913
    assert value(ACTINOMYCIN, "AvgIpc")[0] == pytest.approx(4.175358840742129, abs=1e-8)


def test_what_rdkit_cannot_give_is_nan_and_nothing_is_infinite():
    found = value("C1CC1[Pt](Cl)Cl", *RDKIT_2D)
    missing = {name for name, number in zip(RDKIT_2D, found, strict=True) if np.isnan(number)}
    assert "MaxPartialCharge" in missing and "MolWt" not in missing
    assert not np.isinf(found).any() and np.nanmax(np.abs(found)) <= LIMIT
    assert np.isnan(value("[H][H]", "SPS")[0])


def test_huge_values_are_cut_off():
    assert value("C" * 200, "Ipc")[0] == LIMIT


def test_nothing_is_printed(capfd):
    value("[Te]", *RDKIT_2D)
    assert capfd.readouterr() == ("", "")


def test_fingerprints_count_or_mark():
    molecule = Chem.MolFromSmiles("CCCCCC")
    counts, bits = fingerprint(molecule, size=1024), fingerprint(molecule, size=1024, counts=False)
    assert counts.max() >= 2 and set(bits) == {0.0, 1.0}
    np.testing.assert_array_equal(counts > 0, bits > 0)
    assert counts.sum() == 6 + 6 + 6 - 2  # radius 0, 1 and 2; the ends' last covers what their neighbours' did
    np.testing.assert_array_equal(
        calculate_descriptors(molecule, ("HeavyAtomCount", "ecfp"), size=1024), np.append(6.0, counts)
    )


def test_radius_and_size():
    molecule = Chem.MolFromSmiles(ASPIRIN)
    assert fingerprint(molecule, radius=0).sum() == molecule.GetNumAtoms()
    assert fingerprint(molecule, size=16).shape == (16,)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("molwt", "did you mean 'MolWt'"),
        (["rdkit", "TPSA"], "each of them once"),
        ([], "at least one name"),
    ],
)
def test_names_that_mean_nothing(names, message):
    with pytest.raises(ConfigError, match=message):
        expand_descriptors(names)


def test_a_descriptor_that_this_rdkit_lacks(monkeypatch):
    monkeypatch.setattr("geomlib.data.descriptors._functions", dict)
    with pytest.raises(DataError, match="no descriptor 'TPSA'"):
        value("C", "TPSA")
