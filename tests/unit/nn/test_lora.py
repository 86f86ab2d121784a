"""Low-rank adaptation: what learns, what stays, and the sum of both."""

import copy

import pytest
import torch
from torch import nn

from geomlib.errors import ConfigError
from geomlib.nn.lora import LowRankLinear, adapt, is_adapted, merge


def net():
    torch.manual_seed(0)
    return nn.ModuleDict({"query": nn.Linear(6, 5), "key": nn.Linear(6, 5), "deep": nn.Sequential(nn.Linear(5, 2))})


def test_starts_where_it_stood_and_merges_into_the_same():
    module = net()
    x = torch.randn(4, 6)
    before = module["query"](x)
    assert adapt(module, ["query"], rank=2, dropout=0.3) == ["query"]
    assert torch.equal(module.eval()["query"](x), before)
    with torch.no_grad():
        module["query"].lora_up.normal_()
    adapted = module["query"](x)
    assert not torch.allclose(adapted, before)
    factors = module["query"].lora_up @ module["query"].lora_down
    torch.testing.assert_close(adapted, before + 8.0 * x @ factors.T)
    merge(module)
    assert type(module["query"]) is nn.Linear and not any(map(is_adapted, module.state_dict()))
    torch.testing.assert_close(module["query"](x), adapted)


def test_only_factors_learn_and_dropout_is_before_them():
    module = net()
    adapt(module, ["query"], rank=2, dropout=0.5)
    assert [name for name, value in module.named_parameters() if value.requires_grad] == [
        "query.lora_down",
        "query.lora_up",
    ]
    other = copy.deepcopy(module).train()
    x = torch.ones(1, 6)
    assert torch.equal(other["query"](x), module["query"](x))  # nothing to drop while up is zero
    assert set(net().state_dict()) == {name for name in module.state_dict() if not is_adapted(name)}


def test_what_is_refused():
    with pytest.raises(ConfigError, match="no linear map is called 'value'; there are 0, key, query"):
        adapt(net(), ["value"])
    with pytest.raises(ConfigError, match="rank 0"):
        LowRankLinear(nn.Linear(2, 2), rank=0)
