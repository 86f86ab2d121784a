"""Builders of molecular graphs and descriptors from SMILES."""

import json

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.graphs.molecule import Descriptors, MoleculeGraph
from geomlib.graphs.spec import GraphSpec

BOTH = GraphSpec((MoleculeGraph(), Descriptors(("MolWt", "ecfp"), size=16)))


def built(*arguments, spec=BOTH, **options):
    return spec.build(from_smiles(*arguments, **options))


def test_ethanol():
    graph = built("CCO").validate(BOTH.builders[0].provides)
    assert graph.node_features.shape == (3, 72) and graph.edge_features.shape == (4, 14)
    assert graph.edge_index.tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]]
    assert graph.node_component.tolist() == [0, 0, 0]
    torch.testing.assert_close(graph.descriptors[:, 0], torch.tensor([46.069]))
    assert graph.descriptors.shape == (1, 17) and graph.descriptors[0, 1:].sum() == 3 + 3  # all of radius 2 was seen


def test_molecules_of_a_mixture_follow_each_other():
    graph = built(["CO", "O", "C=C"], mole_fraction=[0.2, 0.3, 0.5]).validate()
    assert graph.node_component.tolist() == [0, 0, 1, 2, 2]
    assert graph.edge_index.tolist() == [[1, 0, 4, 3], [0, 1, 3, 4]]
    assert graph.descriptors.shape == (3, 17)


def test_a_salt_is_one_molecule_of_several_pieces():
    graph = built("[Na+].[Cl-]")
    assert graph.node_component.tolist() == [0, 0] and graph.edge_index.shape == (2, 0)


def test_a_batch_is_its_graphs_one_after_the_other():
    mixtures = [(["CO", "O"], [0.5, 0.5]), (["C"], [1.0]), (["C#N", "CC", "N"], [0.2, 0.3, 0.5])]
    texts = [from_smiles(smiles, mole_fraction=fractions) for smiles, fractions in mixtures]
    late = BOTH.build(collate(texts))
    early = collate([BOTH.build(text.clone()) for text in texts])
    assert set(late.keys()) == set(early.keys())
    for name in early.keys():  # noqa: SIM118 - not a mapping
        assert torch.equal(late[name], early[name]), name
    assert torch.equal(early.to_data_list()[2].edge_index, BOTH.build(texts[2]).edge_index)


def test_hydrogens_and_chirality():
    spec = GraphSpec((MoleculeGraph(hydrogens=True, chirality="none"),))
    assert built("CO", spec=spec).node_features.shape == (6, 72)
    chiral, plain = (built(smiles, spec=spec).node_features for smiles in ("C[C@H](N)F", "CC(N)F"))
    assert torch.equal(chiral, plain)


@pytest.mark.parametrize("builder", BOTH.builders, ids=["graph", "descriptors"])
def test_what_is_no_molecule_is_named(builder):
    with pytest.raises(DataError, match=r"C1CC"):
        builder.build(from_smiles("C1CC"))


def test_spec_goes_through_json():
    spec = GraphSpec.from_dict(json.loads(json.dumps(BOTH.to_dict())))
    assert spec == BOTH and spec.hash == BOTH.hash
    assert hash(spec.builders[1]) == hash(BOTH.builders[1])
    with pytest.raises(FileFormatError, match="no argument"):
        GraphSpec.from_dict({"builders": [{"kind": "molecule_graph", "cutoff": 5.0}]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoleculeGraph(chirality="left"), "choose from cip"),
        (lambda: Descriptors("rdkti"), "did you mean 'rdkit'"),
        (lambda: Descriptors("ecfp", size=0), "expected"),
    ],
)
def test_arguments_that_mean_nothing(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_width_is_that_of_what_is_built():
    builder = Descriptors(("rdkit", "ecfp"), size=32)
    graph = from_smiles("CCO")
    builder.build(graph)
    assert builder.width == graph.descriptors.shape[1] == 216 + 32


def test_descriptors_are_calculated_once(monkeypatch):
    builder, graph = Descriptors("TPSA"), from_smiles("CCCCCCCCCCCCN")
    builder.build(graph)
    first = graph.descriptors
    monkeypatch.setattr("geomlib.graphs.molecule.calculate_descriptors", lambda *_, **__: 1 / 0)
    builder.build(graph)
    assert torch.equal(graph.descriptors, first)
