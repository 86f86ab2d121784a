"""Molecules as graphs of the ZINC benchmark. Budget: 5 s."""

import csv
from pathlib import Path

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.molecules import from_smiles, parse_molecule
from geomlib.data.zinc import ZINC_ATOMS, zinc_structure
from geomlib.errors import DataError
from geomlib.graphs.zinc import ZincGraph

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "zinc"


def names(smiles):
    return [ZINC_ATOMS[kind] for kind in zinc_structure(parse_molecule(smiles))[0].tolist()]


def test_atoms_keep_their_order_and_say_hydrogens_and_charge():
    assert names("C[C@@H](O)[NH3+]") == ["C", "C H1", "O", "N H3 +"]
    assert names("[O-]c1ccc(Cl)s1") == ["O -", "C", "C", "C", "C", "Cl", "S"]


def test_bonds_are_those_of_a_kekule_structure_in_both_directions():
    types, edges, orders = zinc_structure(parse_molecule("c1ccccc1C#N"))
    assert len(types) == 8 and edges.shape == (2, 16)
    assert sorted(orders.tolist()) == [1] * 8 + [2] * 6 + [3] * 2
    assert (edges[1].diff() >= 0).all()
    matrix = torch.zeros(8, 8, dtype=torch.int64)
    matrix[edges[0], edges[1]] = orders
    assert torch.equal(matrix, matrix.T) and matrix[6, 7] == 3


def test_a_batch_is_built_like_its_graphs():
    smiles = ["CCO", "C", "c1ccncc1"]
    batch = collate([from_smiles(text) for text in smiles])
    ZincGraph().build(batch)
    singles = [from_smiles(text) for text in smiles]
    for single in singles:
        ZincGraph().build(single)
        single.validate(required=ZincGraph.provides)
    expected = collate(singles)
    for name in (*ZincGraph.provides, "batch", "ptr"):
        assert torch.equal(batch[name], expected[name]), name


@pytest.mark.parametrize(
    ("smiles", "message"), [("[Na+].[Cl-]", "type 'Cl -', which the ZINC"), ("[SiH4]", "type 'Si")]
)
def test_other_atoms_are_refused(smiles, message):
    with pytest.raises(DataError, match=message):
        zinc_structure(parse_molecule(smiles))


@pytest.mark.skipif(not FOLDER.exists(), reason=f"{FOLDER.parent.name}/{FOLDER.name} is not beside the repository")
def test_every_molecule_of_the_validation_set_has_a_graph():
    with (FOLDER / "val.csv").open() as file:
        rows = list(csv.DictReader(file))[::10]
    seen = set()
    for row in rows:
        types, edges, orders = zinc_structure(parse_molecule(row["smiles"]), row["smiles"])
        molecule = parse_molecule(row["smiles"])
        assert len(types) == molecule.GetNumAtoms() and edges.shape[1] == 2 * molecule.GetNumBonds()
        assert set(orders.tolist()) <= {1, 2, 3}
        for atom, kind in zip(molecule.GetAtoms(), types.tolist(), strict=True):
            assert ZINC_ATOMS[kind].split()[0] == atom.GetSymbol()
        seen |= set(types.tolist())
    assert len(seen) >= 12
