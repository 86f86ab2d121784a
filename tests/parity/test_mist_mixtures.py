"""Mixtures, excess properties and conductivity beside stored numbers of the published equations. Budget: 5 s."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geomlib.data.graph import GraphData
from geomlib.files.huggingface import tensor_names
from geomlib.models.mist.excess import ExcessNet
from geomlib.models.mist.mixture import MixtureNet
from geomlib.nn.conductivity import ConductivityHead
from geomlib.nn.excess import ExcessHead, chebyshev_nodes, lagrange, redlich_kister

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mist_parity"
if not FOLDER.is_dir():
    pytest.skip(f"needs the reference numbers in {FOLDER}", allow_module_level=True)
CASES = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())}


def of_kind(*kinds):
    return [name for name, case in CASES.items() if case["kind"] in kinds]


def numbers(case):
    with np.load(FOLDER / case["data"], allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def weights(file):
    return {key: value.double() for key, value in load_file(FOLDER / file).items()}


def agree(found, stored, case, *names):
    for name in names:
        expected = stored[f"out/{name}"]
        assert found[name].shape == expected.shape, name
        error = (found[name] - expected).abs().max() / expected.abs().max().clamp_min(1.0)
        assert float(error.detach()) <= case["tol"], (name, float(error.detach()))


EXCESS_NAMES = {
    "pure": "component_properties",
    "shared": "pairwise_interaction.mlp_emb",
    "pair": "pairwise_interaction.mlp",
}


def excess_head(case, width):
    config = case["config"]
    head = (
        ExcessHead(
            width,
            config["num_targets"],
            config["interactions"],
            config["num_control"],
            config["temperature_dependence"] or "none",
            relative=config.get("relative_excess", False),
        )
        .double()
        .eval()
    )
    stored = weights(case["weights"])
    own = {}
    for name in head.state_dict():
        part, rest = name.split(".", 1)
        own[name] = stored.pop(f"{EXCESS_NAMES[part]}.{rest}")
    assert not stored
    head.load_state_dict(own)
    return head


def flat(composition):
    graphs, components = composition.shape
    return composition.flatten(), torch.arange(graphs).repeat_interleave(components), graphs


@pytest.mark.parametrize("name", of_kind("excess", "excess_arrhenius"))
def test_excess(name):
    case, stored = CASES[name], numbers(CASES[name])
    embeddings = stored["in/embeddings"]
    head = excess_head(case, embeddings.shape[-1])
    parts = head(embeddings.flatten(0, 1), *flat(stored["in/composition"]), stored["in/temperature"])
    pairs = stored["out/control_points"]
    found = {
        "linear_raw": parts.linear,
        "excess_raw": parts.curves,
        "control_points": parts.control.unflatten(0, pairs.shape[:2]),
    }
    agree(found, stored, case, *found)
    assert bool((parts.excess[0] == 0).all())
    if case["kind"] == "excess":
        mean, sd, excess_sd = (
            torch.tensor(case["config"][key], dtype=torch.float64) for key in ("mean", "sd", "excess_sd")
        )
        found = {"y_linear": sd * parts.linear + mean, "y_excess": excess_sd * parts.excess}
        found["y"] = found["y_linear"] + found["y_excess"]
        agree(found, stored, case, *found)


@pytest.mark.parametrize("name", of_kind("lagrange"))
def test_lagrange(name):
    case, stored = CASES[name], numbers(CASES[name])
    control, z = stored["in/control"], stored["in/z"]
    found = {
        "nodes": chebyshev_nodes(case["config"]["num_control"]),
        "y": lagrange(control, z.expand(control.shape[:-1])),
    }
    agree(found, stored, case, "nodes", "y")


@pytest.mark.parametrize("name", of_kind("redlich_kister"))
def test_redlich_kister(name):
    case, stored = CASES[name], numbers(CASES[name])
    agree({"y": redlich_kister(stored["in/a"], stored["in/x1"], 1 - stored["in/x1"])}, stored, case, "y")


@pytest.mark.parametrize("name", of_kind("ionic"))
def test_conductivity(name):
    case, stored = CASES[name], numbers(CASES[name])
    composition = stored["in/composition"]
    head = ConductivityHead(case["config"]["hidden"]).double().eval()
    theirs = dict(zip(("first", "second", "third", "last"), ("fc1", "fc2", "fc3", "final"), strict=True))
    given = weights(case["weights"])
    head.load_state_dict(
        {f"{own}.{end}": given[f"{name}.{end}"] for own, name in theirs.items() for end in ("weight", "bias")}
    )
    mixed = (composition.unsqueeze(-1) * stored["in/embeddings"]).sum(1)
    found = head(mixed, composition[:, -1], stored["in/temperature"])
    found["loss"] = (found["ln_k"] - stored["in/target"]).square().mean() + found["alpha"].abs().mean()
    agree(found, stored, case, "ln_k_dilute", "alpha", "beta", "lam", "ln_k", "loss")


def encoder_row(config):
    return {
        "family": "mist-property",
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "feedforward": config["intermediate_size"],
        "positions": config["max_position_embeddings"],
        "position_offset": config["pad_token_id"] + 1,
        "pool": "mean",
    }


def mixtures_of(stored):
    mask = stored["in/attention_mask"].bool().flatten(0, 1)
    there = mask.any(1)
    composition, owner, graphs = flat(stored["in/composition"])
    batch = GraphData(
        token_id=stored["in/input_ids"].flatten(0, 1)[mask],
        token_component=mask.nonzero()[:, 0],
        component_graph=owner,
        mole_fraction=composition,
        temperature=stored["in/temperature"],
    )
    batch.__dict__["_num_graphs"] = graphs
    assert bool(there.all())
    return batch


def load_encoder(net, case):
    names = tensor_names(case["config"]["encoder"]["num_hidden_layers"])
    given = weights(case["config"]["encoder_weights"])
    net.molecule.encoder.load_state_dict(
        {own.removeprefix("encoder."): given[theirs] for own, theirs in names.items() if own.startswith("encoder.")}
    )


def set_scales(net, config):
    net.normalizer.mean.copy_(torch.tensor(config["mean"], dtype=torch.float64))
    net.normalizer.deviation.copy_(torch.tensor(config["sd"], dtype=torch.float64))


@pytest.mark.parametrize("name", of_kind("mixture"))
def test_mixture(name):
    case, stored = CASES[name], numbers(CASES[name])
    config = case["config"]
    net = MixtureNet(["a", "b"], encoder_row(config["encoder"]), temperature=config["temperature_condition"] or "none")
    net = net.double().eval()
    load_encoder(net, case)
    given = weights(case["weights"])
    own = {"0.linear": "fc1", "1.linear": "fc2", "2": "final"}
    net.head.load_state_dict({f"{k}.{end}": given[f"{v}.{end}"] for k, v in own.items() for end in ("weight", "bias")})
    set_scales(net, config)
    batch = mixtures_of(stored)
    out = net(batch)
    found = {"embedding": net.embed(batch), "y_normalised": out["target_raw"], "y": out["target"]}
    agree(found, stored, case, *found)


@pytest.mark.parametrize("name", of_kind("excess_full"))
def test_excess_through_the_encoder(name):
    case, stored = CASES[name], numbers(CASES[name])
    config = case["config"]
    net = ExcessNet(
        ["a", "b"],
        encoder_row(config["encoder"]),
        interactions=config["interactions"],
        controls=config["num_control"],
        temperature="none",
    )
    net = net.double().eval()
    load_encoder(net, case)
    net.head.load_state_dict(excess_head(case, config["encoder"]["hidden_size"]).state_dict())
    set_scales(net, config)
    net.excess_deviation.copy_(torch.tensor(config["excess_sd"], dtype=torch.float64))
    batch = mixtures_of(stored)
    out = net(batch)
    expected = stored["out/embeddings"]
    found = {
        "embeddings": net.embeddings(batch).unflatten(0, expected.shape[:2]),
        "y": out["target"],
        "y_excess": out["target_excess"],
        "y_linear": out["target"] - out["target_excess"],
    }
    agree(found, stored, case, *found)
