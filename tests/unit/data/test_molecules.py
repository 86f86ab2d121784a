"""SMILES to graphs of text and back; what is no molecule; other ways to write one."""

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.molecules import (
    canonical_smiles,
    from_smiles,
    kekule_smiles,
    murcko_scaffold,
    parse_molecule,
    random_smiles,
    to_smiles,
)
from geomlib.errors import DataError, UnknownField


def test_a_molecule_is_a_mixture_of_one():
    graph = from_smiles("CCO", target=torch.tensor([[1.0, 2.0]])).validate(("smiles", "component_graph", "target"))
    assert graph.smiles.tolist() == [67, 67, 79] and graph.character_component.tolist() == [0, 0, 0]
    assert "mole_fraction" not in graph and "temperature" not in graph
    assert to_smiles(graph) == ["CCO"]


def test_a_mixture():
    graph = from_smiles(["CCO", "O"], mole_fraction=[0.25, 0.75], temperature=298.15).validate()
    assert graph.component_graph.tolist() == [0, 0] and graph.character_component.tolist() == [0, 0, 0, 1]
    assert graph.mole_fraction.tolist() == [0.25, 0.75] and graph.temperature.tolist() == [298.15]
    assert graph.mole_fraction.dtype == graph.temperature.dtype == torch.float64


def test_a_batch_gives_all_texts_back():
    texts = [["CCO", "O"], ["c1ccccc1"], ["N#N", "[13CH4]", "Cl"]]
    batch = collate([from_smiles(row) for row in texts])
    assert to_smiles(batch) == [text for row in texts for text in row]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "none of them empty"),
        (([],), "at least one"),
        ((["C", ""],), "none of them empty"),
        ((["C", "O"], [1.0]), "1 mole fractions for 2 molecules"),
        ((["C", "O"], [0.5, 0.6]), "sum to 1"),
        ((["C", "O"], [1.5, -0.5]), "sum to 1"),
        ((["C", "O"], [float("nan"), 1.0]), "sum to 1"),
    ],
)
def test_what_is_no_mixture(arguments, message):
    with pytest.raises(DataError, match=message):
        from_smiles(*arguments)


def test_fields_are_those_of_the_table():
    with pytest.raises(UnknownField, match="tagret"):
        from_smiles("C", tagret=torch.zeros(1, 1))


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "can't be read as SMILES"),
        ("xx", "can't be read as SMILES"),
        ("", "no atoms"),
        ("C(C)(C)(C)(C)C", "valence"),
        ("c1cccc1", "kekulize"),
        ("C" * 500 + "(", "500 characters|501 characters"),
    ],
)
def test_what_is_no_molecule(smiles, reason, capfd):
    with pytest.raises(DataError, match=reason) as caught:
        parse_molecule(smiles, "a.csv, row 3")
    message = str(caught.value)
    assert message.startswith("a.csv, row 3: ") and "\n" not in message and len(message) < 250
    assert capfd.readouterr() == ("", "")


def test_ways_to_write_a_molecule():
    molecule = parse_molecule("OC(=O)c1ccccc1")
    assert canonical_smiles(molecule) == "O=C(O)c1ccccc1"
    assert kekule_smiles(molecule) == "O=C(O)C1=CC=CC=C1"
    assert canonical_smiles(molecule) == "O=C(O)c1ccccc1"  # the molecule is as it was
    assert murcko_scaffold(molecule) == "c1ccccc1" and murcko_scaffold(parse_molecule("CCO")) == ""
    assert murcko_scaffold(parse_molecule("C[C@@H]1CCN1C1CC1")) == "C1CN(C2CC2)C1"


def test_random_smiles_are_the_same_molecule():
    molecule = parse_molecule("C[C@H](N)C(=O)Nc1ccncc1")
    generator = torch.Generator().manual_seed(0)
    written = {random_smiles(molecule, generator) for _ in range(20)}
    assert len(written) > 10
    assert {canonical_smiles(parse_molecule(text)) for text in written} == {canonical_smiles(molecule)}
    first, second = (random_smiles(molecule, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first == second
