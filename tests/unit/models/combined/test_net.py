"""CombinedNet: its parts, their order, their start."""

import json

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.models import family
from geomlib.models.combined import CombinedNet
from geomlib.models.dmpnn import DMPNN

SMILES = ("CCO", "c1ccccc1O", "C", "CC(=O)Oc1ccccc1C(=O)O")
GRAPH = {"family": "dmpnn", "hidden": 8, "head_layers": [4]}
WIDE = {"family": "dmpnn", "hidden": 5, "depth": 2}


def fresh(members=None, **options):
    torch.manual_seed(4)
    members = {"graph": GRAPH, "wide": WIDE} if members is None else members
    net = CombinedNet(["a", "b"], members, **{"head_layers": [6], **options}).double().eval()
    graphs = [from_smiles(text, target=torch.tensor([[k, -2.0 * k]])) for k, text in enumerate(SMILES)]
    net.fit_statistics(graphs)
    return net


def built(net, smiles):
    return net.spec.build(from_smiles(smiles))


def test_the_embedding_is_that_of_the_members_side_by_side():
    net = fresh(descriptors=["TPSA", "RingCount"], normalize=False)
    graph = built(net, "CCO")
    found = net.embed(graph)
    assert found.shape == (1, 8 + 5 + 2)
    torch.testing.assert_close(found[:, :8], net.members["graph"].embed(graph))
    torch.testing.assert_close(found[:, 8:13], net.members["wide"].embed(graph))
    assert found[0, 14].item() < 0  # fewer rings than the mean


def test_embeddings_are_brought_to_one_scale():
    found = fresh().embed(built(fresh(), "CC(=O)Oc1ccccc1C(=O)O"))
    for part in (found[0, :8], found[0, 8:]):
        torch.testing.assert_close(part.mean(), torch.zeros(()).double(), atol=1e-6, rtol=0)


def test_descriptors_alone_make_a_net():
    net = fresh({}, descriptors="rdkit")
    assert [type(builder).__name__ for builder in net.spec.builders] == ["Descriptors"]
    graphs = [built(net, smiles) for smiles in SMILES]
    together = net(collate(graphs))["target"]
    torch.testing.assert_close(together, torch.cat([net(graph)["target"] for graph in graphs]))


def test_mixtures_and_batches():
    net = fresh(descriptors=["MolLogP"])
    one = net.spec.build(from_smiles(["CCO", "O"], mole_fraction=[0.25, 0.75]))
    other = net.spec.build(from_smiles(["O", "CCO"], mole_fraction=[0.75, 0.25]))
    torch.testing.assert_close(net(one)["target"], net(other)["target"])
    torch.testing.assert_close(net(collate([one, other]))["target"], net(one)["target"].expand(2, -1))


def test_structure_is_built_once_for_all():
    assert len(fresh(descriptors="rdkit").spec.builders) == 2


def test_config_makes_the_same_net():
    net = fresh(descriptors=["TPSA"])
    again = CombinedNet(**json.loads(json.dumps(net.config))).double().eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(built(net, "CCN"))["target"], net(built(net, "CCN"))["target"])


def test_every_parameter_learns():
    net = fresh(descriptors=["TPSA"]).train()
    batch = collate([built(net, smiles) for smiles in SMILES])
    net(batch)["target_raw"].square().sum().backward()
    assert not [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]


def test_members_start_from_nets_that_were_trained_alone():
    net = fresh()
    alone = DMPNN(["something else"], hidden=8, head_layers=[3, 3]).double()
    graph = built(net, "CCO")
    before = net.members["wide"].embed(graph)
    net.take_members({"graph": alone})
    torch.testing.assert_close(net.members["graph"].embed(graph), alone.embed(graph))
    torch.testing.assert_close(net.members["wide"].embed(graph), before)


def test_a_member_that_was_started_keeps_its_statistics():
    members = {"graph": {**GRAPH, "descriptors": ["HeavyAtomCount"]}}
    alone = DMPNN(["x"], hidden=8, descriptors=["HeavyAtomCount"])
    alone.descriptor_normalizer.mean.fill_(77.0)
    net = CombinedNet(["a", "b"], members)
    net.take_members({"graph": alone})
    net.fit_statistics([from_smiles("CC", target=torch.tensor([[1.0, 2.0]]))])
    assert net.members["graph"].descriptor_normalizer.mean.tolist() == [77.0]
    assert fresh(members).members["graph"].descriptor_normalizer.mean.item() < 20


def test_what_can_be_no_start():
    net = fresh()
    with pytest.raises(ConfigError, match="no member 'text'; the net has graph, wide"):
        net.take_members({"text": DMPNN(["a"])})
    with pytest.raises(DataError, match=r"\(dmpnn\) can't start from that net \(combined\)"):
        net.take_members({"graph": fresh()})
    with pytest.raises(DataError, match="of another shape"):
        net.take_members({"graph": DMPNN(["a"], hidden=9)})


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({}, {}, "nothing to combine"),
        ({"x": {"hidden": 3}}, {}, "names no family"),
        ({"x": {"family": "dpa3", "elements": ["H"]}}, {}, "gives no embedding"),
        ({"x": {**GRAPH, "targets": ["y"]}}, {}, "no targets of its own"),
        ({"x": GRAPH, "y": {**GRAPH, "hydrogens": True}}, {}, "want 'node_features' in different ways"),
        ({"x": {**GRAPH, "descriptors": "rdkit"}}, {"descriptors": "ecfp"}, "want 'descriptors' in different ways"),
    ],
)
def test_what_can_not_be_combined(members, options, message):
    with pytest.raises(ConfigError, match=message):
        CombinedNet(["a"], members, **options)


def test_family():
    assert family("combined") is CombinedNet
