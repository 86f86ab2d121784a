"""Optimizer and schedule of the pretraining beside stored numbers. Budget: 2 s."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geomlib.training.lamb import LAMB
from geomlib.training.schedules import Cosine

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mist_parity"
if not FOLDER.is_dir():
    pytest.skip(f"needs the reference numbers in {FOLDER}", allow_module_level=True)
CASES = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())}


def numbers(name):
    with np.load(FOLDER / CASES[name]["data"], allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def test_lamb():
    config, stored = CASES["lamb"]["config"], numbers("lamb")
    names = [key.removeprefix("in/param_") for key in stored if key.startswith("in/param_")]
    parameters = {name: torch.nn.Parameter(stored[f"in/param_{name}"].clone()) for name in names}
    optimizer = LAMB(
        list(parameters.values()),
        lr=config["lr"],
        betas=(config["b1"], config["b2"]),
        eps=config["eps"],
        weight_decay=config["wd"],
        ratio_range=tuple(config["clip"]),
    )
    for step in range(3):
        for name, parameter in parameters.items():
            parameter.grad = stored[f"in/grad_{name}"][step].clone()
        optimizer.step()
        for name, parameter in parameters.items():
            expected = stored[f"out/param_{name}"][step]
            torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-12, msg=f"{name} at step {step}")
            ratio = optimizer.state[parameter]["ratio"]
            torch.testing.assert_close(ratio, stored[f"out/ratio_{name}"][step], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["lr_10k", "lr_500k", "lr_1k"])
def test_schedule(name):
    config, stored = CASES[name]["config"], numbers(name)
    warmup = {"warmup_beta2": config["beta2"]} if config["warmup"] == "beta2" else {"warmup_steps": config["warmup"]}
    schedule = Cosine(stop_lr_ratio=config["rel_decay"], **warmup)
    assert schedule.warmup(config["steps"]) == int(stored["out/warmup_steps"])
    for step, factor in zip(stored["in/step"].tolist(), stored["out/factor"].tolist(), strict=True):
        assert schedule.factor(step, config["steps"], 3e-4) == pytest.approx(factor, rel=0, abs=1e-12)
