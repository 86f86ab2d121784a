"""MISTProperty: encoder of a pretrained net, pooling, mixtures."""

import json

import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models import family
from geomlib.models.mist.net import MIST
from geomlib.models.mist.property import MISTProperty

SIZES = {"layers": 2, "width": 16, "heads": 2, "feedforward": 40, "positions": 32}


def batch_of(order=(0, 1, 2), fractions=(0.3, 0.7, 1.0), graphs=(0, 0, 1)):
    lengths = [4, 7, 5]
    generator = torch.Generator().manual_seed(1)
    molecules = [torch.randint(1, 159, (length,), generator=generator) for length in lengths]
    component = torch.repeat_interleave(torch.arange(3), torch.tensor([lengths[k] for k in order]))
    batch = GraphData(
        token_id=torch.cat([molecules[k] for k in order]),
        token_component=component,
        component_graph=torch.tensor(graphs),
        mole_fraction=torch.tensor([fractions[k] for k in order], dtype=torch.float64),
    )
    batch.__dict__["_num_graphs"] = 2
    return batch


def net_of(**arguments):
    torch.manual_seed(0)
    return MISTProperty(["a", "b"], **{**SIZES, **arguments}).double().eval()


def test_head_sees_the_weighed_mean_of_pooled_states():
    for pool, rows in (("mean", None), ("first", [0, 4, 11])):
        net, batch = net_of(pool=pool), batch_of()
        hidden = net.encoder(batch.token_id, batch.token_component, 3)
        pooled = hidden[rows] if rows else torch.stack([part.mean(0) for part in hidden.split([4, 7, 5])])
        expected = torch.stack([0.3 * pooled[0] + 0.7 * pooled[1], pooled[2]])
        torch.testing.assert_close(net.embed(batch), expected)
        torch.testing.assert_close(net(batch)["target_raw"], net.head(expected))


def test_order_of_the_components_does_not_matter():
    net = net_of()
    torch.testing.assert_close(net.embed(batch_of()), net.embed(batch_of(order=(1, 0, 2))), rtol=0, atol=1e-12)


def test_starts_from_a_pretrained_net():
    pretrained = MIST(**SIZES, pool="mean", descriptors=["MolWt"], dropout=0.2, compat_pad_token_id=1).double().eval()
    net = MISTProperty.from_mist(pretrained, ["a"], head="plain").double().eval()
    batch = batch_of()
    torch.testing.assert_close(
        net.encoder(batch.token_id, batch.token_component, 3), pretrained.encode(batch), rtol=0, atol=0
    )
    assert (net.config["pool"], net.config["encoder_dropout"], net.config["head"]) == ("mean", 0.2, "plain")
    assert {name for name in net.state_dict() if name.startswith("encoder.")} <= set(pretrained.state_dict())
    assert net.spec == pretrained.spec


def test_config_round_trip():
    net = net_of(pool="first", dropout=0.3)
    again = MISTProperty(**json.loads(json.dumps(net.config))).double().eval()
    again.load_state_dict(net.state_dict())
    assert again.config == net.config and family("mist-property") is MISTProperty
    assert torch.equal(again(batch_of())["target"], net(batch_of())["target"])
    with pytest.raises(ConfigError, match="pool 'last'"):
        net_of(pool="last")


def test_every_parameter_is_thawed_once():
    net = net_of()
    stages = net.thaw_stages()
    assert stages[0] == ["head"] and stages[2] == ["encoder.norm", "encoder.blocks.1"] and len(stages) == 4
    for name, _ in net.named_parameters():
        assert sum(name.startswith(part + ".") for stage in stages for part in stage) == 1, name
