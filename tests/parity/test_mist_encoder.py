"""The molecular encoder beside stored numbers of transformers. Budget: 5 s."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from geomlib.files.huggingface import tensor_names
from geomlib.models.mist.encoder import Encoder, first_token, mean_token
from geomlib.models.mist.head import TokenHead

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "mist_parity"
if not FOLDER.is_dir():
    pytest.skip(f"needs the reference numbers in {FOLDER}", allow_module_level=True)
CASES = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text()) if case["kind"] == "encoder"}


class Both(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        pad = config["pad_token_id"]
        positions = {"position_offset": pad + 1} if config["positions"] == "hf" else {}
        self.encoder = Encoder(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            feedforward=config["intermediate_size"],
            positions=config["max_position_embeddings"],
            **({"compat_pad_token_id": 1} if pad == 1 else positions),
        )
        self.head = TokenHead(config["hidden_size"], config["vocab_size"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rounding", [1, None])
def test_every_number_of_the_case(name, rounding):
    case = CASES[name]
    net = Both(case["config"]).double().eval()
    net.encoder.rounding = rounding
    weights = load_file(FOLDER / case["weights"])
    names = tensor_names(case["config"]["num_hidden_layers"])
    assert set(names) == set(net.state_dict()) and set(names.values()) == set(weights)
    net.load_state_dict({own: weights[theirs].double() for own, theirs in names.items()})
    with np.load(FOLDER / case["data"], allow_pickle=False) as data:
        stored = {key: torch.from_numpy(data[key]) for key in data.files}
    mask = stored["in/attention_mask"].bool()
    component = mask.nonzero()[:, 0]
    states = net.encoder.states(stored["in/input_ids"][mask], component, len(mask))
    logits = net.head(states[-1], net.encoder.embedding.token.weight)
    labels = stored["in/labels"][mask]
    found = {
        "embeddings": states[0],
        "layers": torch.stack(states[1:-1]),
        "last_hidden_state": states[-1],
        "logits": logits,
        "mlm_loss": F.cross_entropy(logits, labels),
        "pool_first": first_token(states[-1], component, len(mask)),
        "pool_mean": mean_token(states[-1], component, len(mask)),
    }
    assert {f"out/{key}" for key in found} == {key for key in stored if key.startswith("out/")}
    for key, value in found.items():
        expected = stored[f"out/{key}"]
        if key in ("embeddings", "last_hidden_state", "logits"):
            expected = expected[mask]
        elif key == "layers":
            expected = expected[:, mask]
        error = (value - expected).abs().max() / expected.abs().max().clamp_min(1.0)
        assert float(error.detach()) <= case["tol"], key
