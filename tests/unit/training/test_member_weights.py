"""Members of a combined net that start from files."""

from types import SimpleNamespace

import pytest
import torch

from geomlib import save
from geomlib.errors import ConfigError
from geomlib.models.combined import CombinedNet
from geomlib.models.dmpnn import DMPNN
from geomlib.tasks.property import PropertyTask
from geomlib.training.member_weights import MemberWeights

SMALL = {"hidden": 4, "head_layers": [3]}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(1)
    net = DMPNN(["x"], **SMALL)
    return net, str(save(net, tmp_path / "alone.safetensors"))


def test_a_member_has_the_weights_of_its_file(file):
    net, path = file
    combined = CombinedNet(["a"], {"graph": {"family": "dmpnn", **SMALL}}, descriptors=["TPSA"])
    MemberWeights({"graph": path}).on_fit_start(SimpleNamespace(ckpt_path=None), PropertyTask(combined))
    for name, value in net.encoder.state_dict().items():
        assert torch.equal(combined.members["graph"].encoder.state_dict()[name], value)


def test_a_run_that_goes_on_keeps_what_it_had(file):
    combined = CombinedNet(["a"], {"graph": {"family": "dmpnn", **SMALL}})
    before = combined.members["graph"].encoder.input.weight.clone()
    MemberWeights({"graph": file[1]}).on_fit_start(SimpleNamespace(ckpt_path="last.ckpt"), PropertyTask(combined))
    assert torch.equal(combined.members["graph"].encoder.input.weight, before)


def test_another_net_is_refused(file):
    task = PropertyTask(DMPNN(["a"], **SMALL))
    with pytest.raises(ConfigError, match="but the net is a DMPNN"):
        MemberWeights({"graph": file[1]}).on_fit_start(SimpleNamespace(ckpt_path=None), task)
