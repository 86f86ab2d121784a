"""Heads, scales of targets and masked losses beside stored numbers of the published classes. Budget: 3 s."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geomlib.models.property import PropertyNet
from geomlib.nn.targets import Target, TargetNormalizer, masked_losses

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mist_parity"
if not FOLDER.is_dir():
    pytest.skip(f"needs the reference numbers in {FOLDER}", allow_module_level=True)
CASES = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())}


def stored(name):
    with np.load(FOLDER / CASES[name]["data"], allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def near(found, expected, tolerance):
    return float((found.detach() - expected).abs().max()) / max(1.0, float(expected.abs().max())) <= tolerance


class Given(PropertyNet):
    """Its embedding is given."""

    def __init__(self, width, targets, **options):
        super().__init__()
        self.set_head(width, targets, **options)
        self.double().eval()

    def embed(self, batch):
        return batch


def test_residual_head():
    case, data = CASES["head"], stored("head")
    net = Given(case["config"]["embed_dim"], ["a", "b", "c"], dropout=0.2)
    weights = [net.head[0].linear, net.head[1].linear]
    named = load_file(FOLDER / case["weights"])
    for layer, theirs in zip([*weights, net.head[2]], ("fc1", "fc2", "final"), strict=True):
        layer.load_state_dict({end: named[f"{theirs}.{end}"].double() for end in ("weight", "bias")})
    assert near(net(data["in/emb"])["target_raw"], data["out/y"], case["tol"])


def test_plain_head_is_that_of_the_demonstration():
    case, data = CASES["demo_head"], stored("demo_head")
    width, layers = case["config"]["hidden_size"], case["config"]["num_hidden_layers"]
    net = Given(width, ["a"], head="plain", head_layers=[width] * layers, activation="gelu")
    named = load_file(FOLDER / case["weights"])
    for position in range(layers + 1):
        ends = {end: named[f"task_head.{3 * position}.{end}"].double() for end in ("weight", "bias")}
        net.head[3 * position].load_state_dict(ends)
    raw = net(data["in/hidden"][:, 0])["target_raw"]
    assert near(raw, data["out/y"], case["tol"])
    sums, counts = masked_losses(raw, data["in/labels"].double().unsqueeze(1), (Target("a"),))
    assert near((sums / counts)[0], data["out/loss"], case["tol"])


@pytest.mark.parametrize("way", ["standardize", "log"])
def test_normalizers_leave_missing_labels_out(way):
    data = stored("normalizers")
    columns = [1] if way == "log" else [0, 1, 2]
    labels = torch.where(data["in/present"], data["in/target"], torch.nan)[:, columns]
    normalizer = TargetNormalizer([Target(str(k), normalizer=way) for k in columns]).double()
    normalizer.fit(labels)
    tolerance = CASES["normalizers"]["tol"]
    assert near(normalizer.mean, data[f"out/{way}_mean"], tolerance)
    assert near(normalizer.deviation, data[f"out/{way}_sd"], tolerance)
    assert near(normalizer.normalize(labels).nan_to_num(0.0), data[f"out/{way}_applied"], tolerance)


def test_power_transform():
    data, tolerance = stored("power_transform"), CASES["power_transform"]["tol"]
    normalizer = TargetNormalizer([Target(name, normalizer="power") for name in "abc"]).double()
    normalizer.exponent.copy_(data["in/lambdas"])
    transformed = normalizer.normalize(data["in/target"])
    assert near(transformed.mean(0), data["out/mean"], tolerance)
    assert near(transformed.std(0) + 1e-8, data["out/sd"], tolerance)
    normalizer.mean.copy_(data["out/mean"])
    normalizer.deviation.copy_(data["out/sd"])
    assert near(normalizer.normalize(data["in/target"]), data["out/applied"], tolerance)


@pytest.mark.parametrize(("kind", "name"), [("binary", "bce"), ("regression", "mse")])
def test_losses_are_means_over_what_is_there(kind, name):
    data = stored("masked_losses")
    labels = torch.where(data["in/present"], data["in/target"], torch.nan)
    targets = tuple(Target(letter, kind=kind) for letter in "abcd")
    sums, counts = masked_losses(data["in/pred"], labels, targets)
    assert counts.sum() == data["in/present"].sum()
    assert near(sums.sum() / counts.sum(), data[f"out/{name}"], CASES["masked_losses"]["tol"])
