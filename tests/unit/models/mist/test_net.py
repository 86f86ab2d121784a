"""MIST: what it returns, its head, its config."""

import json

import pytest
import torch
import torch.nn.functional as F

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.models import family
from geomlib.models.mist.net import MIST

SIZES = {"layers": 2, "width": 16, "heads": 2, "feedforward": 40, "positions": 32}
DESCRIPTORS = ["MolWt", "TPSA", "RingCount"]


def net_of(**arguments):
    torch.manual_seed(0)
    return MIST(**{**SIZES, **arguments}).double().eval()


def batch_of(lengths=(4, 7, 4), graphs=(0, 1, 1)):
    component = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    ids = torch.randint(1, 159, (len(component),), generator=torch.Generator().manual_seed(1))
    return GraphData(token_id=ids, token_component=component, component_graph=torch.tensor(graphs))


@pytest.mark.parametrize(("name", "whole"), [("28M", 26_619_045), ("1.8B", 1_794_894_501)])
def test_published_number_of_parameters(name, whole):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MIST.from_preset(name).parameters()) == whole


def test_outputs_are_fields():
    for net in (net_of(), net_of(descriptors=DESCRIPTORS)):
        out = net(batch_of())
        assert set(out) == set(net.outputs)
        assert out["token_state"].shape == (15, 16) and out["token_logit"].shape == (15, 165)
    assert out["descriptors"].shape == (3, 3)


def test_decoder_is_the_table_of_tokens():
    net, batch = net_of(), batch_of()
    with torch.no_grad():
        net.head.bias.normal_()
        hidden = net.encode(batch)
        expected = net.head.norm(F.gelu(net.head.dense(hidden))) @ net.encoder.embedding.token.weight.T + net.head.bias
        torch.testing.assert_close(net.logits(hidden), expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(net.logits(hidden[2:5]), net.logits(hidden)[2:5], rtol=0, atol=1e-13)
    assert not any("decoder" in name for name in net.state_dict())


def test_pool_and_descriptors_in_natural_units():
    batch = batch_of()
    for pool, rows in (("first", [0, 4, 11]), ("mean", None)):
        net = net_of(descriptors=DESCRIPTORS, pool=pool)
        net.normalizer.fit([torch.tensor([[100.0, 10.0, 1.0], [300.0, 30.0, 1.0]])])
        hidden = net.encode(batch)
        expected = hidden[rows] if rows else torch.stack([part.mean(0) for part in hidden.split([4, 7, 4])])
        torch.testing.assert_close(net.pooled(hidden, batch), expected)
        standard = net.described(hidden, batch)
        wanted = torch.stack([200 + 100 * standard[:, 0], 20 + 10 * standard[:, 1], torch.ones(3)], 1)
        torch.testing.assert_close(net(batch)["descriptors"], wanted.double(), rtol=1e-12, atol=0)
        torch.testing.assert_close(net.normalizer(wanted)[:, :2], standard[:, :2])


def test_surprise_is_the_cross_entropy_of_what_stands_there():
    net, batch = net_of(), batch_of()
    logits = net(batch)["token_logit"]
    expected = -logits.log_softmax(1).gather(1, batch.token_id.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(net.surprise(batch), expected)


def test_config_round_trip():
    net, batch = net_of(descriptors=DESCRIPTORS, pool="mean", position_offset=3), batch_of()
    again = MIST(**json.loads(json.dumps(net.config))).double().eval()
    again.load_state_dict(net.state_dict())
    assert again.config == net.config and again.spec == net.spec and family("mist") is MIST
    for name, value in net(batch).items():
        assert torch.equal(again(batch)[name], value)


def test_arguments_that_make_no_net():
    with pytest.raises(ConfigError, match="pool 'last'"):
        MIST(pool="last")
    with pytest.raises(ConfigError, match="predicts no descriptors"):
        net_of().described(torch.zeros(15, 16), batch_of())


def test_reads_smiles():
    net = MIST(**SIZES).double().eval()
    graph = net.spec.build(collate([from_smiles("c1ccccc1"), from_smiles("CC#N")]))
    assert graph.token_id.tolist() == [45, 11 + 1, 22, 45, 45, 22, 45, 45, 22, 45, 11 + 1, 45, 45, 1, 93]
    assert net(graph)["token_logit"].shape == (15, 165)
    with pytest.raises(DataError, match="has 33 tokens, more than the 32"):
        net.spec.build(from_smiles("C" * 33))
    cut = MIST(**SIZES, truncate=True, template=True, position_offset=2, form="as-is").spec.build(from_smiles("C" * 33))
    assert cut.token_id.tolist()[:2] == [163, 45] and len(cut.token_id) == 30
