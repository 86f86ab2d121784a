"""Features of atoms and bonds against molecules taken apart by hand, and against what may not change them."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from geomlib.data.molecular_features import ATOM_FEATURES, BOND_FEATURES, molecule_structure
from geomlib.errors import ConfigError


def structure(smiles, **options):
    return molecule_structure(Chem.MolFromSmiles(smiles), **options)


def named(row, names):
    """Names of the columns that are 1."""
    return {name for name, number in zip(names, row.tolist(), strict=True) if number == 1.0}


def atoms(smiles, **options):
    return [named(row, ATOM_FEATURES) for row in structure(smiles, **options).node_features]


def bonds(smiles):
    found = structure(smiles)
    pairs = [tuple(pair) for pair in found.edge_index.T.tolist()]
    return dict(zip(pairs, [named(row, BOND_FEATURES) for row in found.edge_features], strict=True))


def test_acetate_by_hand():
    methyl, carbon, double, single = atoms("CC(=O)[O-]")
    common = {"chirality_none"}
    assert methyl == common | {"element_6", "degree_4", "charge_0", "hydrogens_3", "hybridization_SP3"}
    assert carbon == common | {"element_6", "degree_3", "charge_0", "hydrogens_0", "hybridization_SP2"}
    assert double == common | {"element_8", "degree_1", "charge_0", "hydrogens_0", "hybridization_SP2"}
    assert single == common | {"element_8", "degree_1", "charge_-1", "hydrogens_0", "hybridization_SP2"}
    features = structure("CC(=O)[O-]").node_features
    torch.testing.assert_close(features[:, -1], torch.tensor([0.12011, 0.12011, 0.15999, 0.15999]))


def test_bonds_by_hand():
    found = bonds("CC=O")
    assert set(found) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert found[0, 1] == found[1, 0] == {"type_SINGLE", "stereo_none"}
    assert found[1, 2] == found[2, 1] == {"type_DOUBLE", "stereo_none"}
    assert bonds("C#N")[0, 1] == {"type_TRIPLE", "stereo_none"}
    assert bonds("c1ccccc1")[0, 1] == {"type_AROMATIC", "conjugated", "in_ring", "stereo_none"}
    assert bonds("C/C=C/C")[1, 2] == {"type_DOUBLE", "stereo_E"}
    assert bonds("C/C=C\\C")[1, 2] == {"type_DOUBLE", "stereo_Z"}
    assert bonds("[NH3]->[Cu]")[0, 1] == {"stereo_none"}


def test_rare_values_have_a_column_of_their_own():
    (uranium,) = atoms("[U+4]")
    assert {"element_other", "charge_other"} <= uranium
    assert {"aromatic"} <= atoms("c1ccccc1")[0]
    assert {"degree_other", "hybridization_SP3D2"} <= atoms("S(F)(F)(F)(F)(F)F")[0]


def test_isotopes_change_the_mass_alone():
    light, heavy = structure("CC").node_features, structure("[13CH3]C").node_features
    torch.testing.assert_close(heavy[0, -1], torch.tensor(0.13003355))
    assert torch.equal(light[:, :-1], heavy[:, :-1])


def test_edges_are_sorted_by_the_atom_that_they_lead_to():
    source, target = structure("CC(C)(C)c1ccccc1").edge_index
    keys = target * 100 + source
    assert torch.equal(keys, keys.sort().values) and len(keys) == 20


@pytest.mark.parametrize("smiles", ["C", "[Na+]"])
def test_an_atom_alone(smiles):
    found = structure(smiles)
    assert found.node_features.shape == (1, 72)
    assert found.edge_index.shape == (2, 0) and found.edge_features.shape == (0, 14)
    assert found.edge_index.dtype == torch.int64 and found.edge_features.dtype == torch.float32


def test_hydrogens_as_atoms():
    found = structure("CO", hydrogens=True)
    assert found.node_features.shape[0] == 6 and found.edge_index.shape == (2, 10)
    assert [("element_1" in row) for row in atoms("CO", hydrogens=True)] == [False, False, *[True] * 4]
    assert "hydrogens_0" in atoms("CO", hydrogens=True)[2]


def rows(smiles, **options):
    """Features of atoms in an order that does not depend on the writing."""
    table = structure(smiles, **options).node_features.numpy()
    return table[np.lexsort(table.T)]


ALANINE = ("C[C@H](N)C(=O)O", "OC(=O)[C@@H](N)C")  # the same molecule


def test_chirality_does_not_depend_on_the_writing():
    np.testing.assert_array_equal(rows(ALANINE[0]), rows(ALANINE[1]))
    assert "chirality_S" in atoms(ALANINE[0])[1]
    assert "chirality_R" in atoms("C[C@@H](N)C(=O)O")[1]
    assert (rows(ALANINE[0]) != rows("C[C@@H](N)C(=O)O")).any()
    np.testing.assert_array_equal(rows(ALANINE[0], chirality="none"), rows("CC(N)C(=O)O"))


def test_the_sense_of_rotation_depends_on_the_writing():
    assert (rows(ALANINE[0], chirality="tag") != rows(ALANINE[1], chirality="tag")).any()


def test_another_chirality_is_refused():
    with pytest.raises(ConfigError, match="choose from cip, tag, none"):
        structure("C", chirality="R")
