"""Budget: 5 s."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geomlib.cli import main
from geomlib.files.deepmd import import_deepmd
from geomlib.files.header import read_manifest
from geomlib.files.manifest import manifest_of
from geomlib.files.modelfile import load, save
from geomlib.models import DPA3, MultiHeadDPA3
from geomlib.nn.derivative import Derivatives

WIDTHS = {"node_dim": 8, "edge_dim": 6, "angle_dim": 4, "layers": 1, "fitting_layers": [8]}


@pytest.fixture
def net():
    return DPA3(["C", "H", "O"], **WIDTHS)


@pytest.fixture
def file(net, tmp_path):
    return save(
        net,
        tmp_path / "model.safetensors",
        trained_on={"card": "ethanol", "sizes": {"train": 800}},
        metrics={"forces_mae": 0.15},
        licence="CC-BY-4.0",
    )


def test_info_tells_what_a_user_asks_first(file, capsys):
    assert main(["model", "info", str(file)]) == 0
    text = capsys.readouterr().out
    for part in (
        str(file),
        "dpa3 (version 1)",
        "C H O",
        "float32",
        "cutoff 6.0 Å, max neighbors 1200",
        "cutoff 4.0 Å",
        "forces [eV/Å per node]",
        "card ethanol",
        "forces_mae 0.15",
        "CC-BY-4.0",
    ):
        assert part in text


def test_info_as_json_is_the_manifest(file, net, capsys):
    assert main(["model", "info", str(file), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["config"] == net.config
    assert manifest["metrics"] == {"forces_mae": 0.15}


def test_info_reads_the_header_only(file):
    code = (
        f"import sys; from geomlib.cli import main; assert main(['model', 'info', {str(file)!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_info_and_verify_of_a_checkpoint(net, tmp_path, capsys):
    task = torch.nn.Module()
    task.net = Derivatives(net)
    torch.save({"state_dict": task.state_dict(), "geomlib": manifest_of(net)}, tmp_path / "last.ckpt")
    assert main(["model", "info", str(tmp_path / "last.ckpt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["elements"] == ["C", "H", "O"]
    assert main(["model", "verify", str(tmp_path / "last.ckpt")]) == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_angles": False},
        {"charge_spin_embedding": True},
        {"frame_parameters": 2, "atom_parameters": 1, "dataset_encoding": 3},
        {"elements": ["Cu"]},
    ],
    ids=str,
)
def test_verify_runs_every_kind_of_net(options, tmp_path, capsys):
    net = DPA3(**{"elements": ["C", "H", "O"], **WIDTHS, **options})
    file = save(net, tmp_path / "model.safetensors")
    assert main(["model", "verify", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert f"chain of {max(2, len(net.elements))} atoms" in report["checked"][-1]


def test_verify_finds_weights_that_are_not_numbers(net, tmp_path, capsys):
    with torch.no_grad():
        net.blocks[0].node_self.bias[3] = float("nan")
    file = save(net, tmp_path / "model.safetensors")
    assert main(["model", "verify", str(file)]) == 1
    assert "'net.blocks.0.node_self.bias' are not all finite" in capsys.readouterr().err


def test_verify_finds_predictions_that_are_not_numbers(net, tmp_path, capsys):
    with torch.no_grad():
        net.fitting.layers[0].bias.fill_(9.0)
        net.fitting.layers[1].weight.fill_(3e38)
    file = save(net, tmp_path / "model.safetensors")
    assert main(["model", "verify", str(file)]) == 1
    assert "of a small structure is not finite" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["info"], ["verify"], ["import", "out.safetensors"]], ids=str)
def test_missing_file_is_one_line(words, tmp_path, capsys):
    assert main(["model", words[0], str(tmp_path / "nothing.pt"), *words[1:]]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nothing.pt: no such file" in error


@pytest.mark.parametrize("words", [[], ["informations"], ["import", "only-one"], ["info"]], ids=str)
def test_wrong_usage(words, capsys):
    assert main(["model", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_light():
    code = "import sys; from geomlib.cli import main; main(['model', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


# ---------------------------------------------------------------- heads


@pytest.fixture
def joint(tmp_path):
    net = MultiHeadDPA3(["water", "alloy"], elements=["H", "O", "Cu"], fitting="shared", **WIDTHS)
    net.energy_bias.copy_(torch.arange(6.0).reshape(2, 3))
    return save(net, tmp_path / "joint.safetensors")


def test_info_lists_the_heads(joint, capsys):
    for name in (str(joint), f"{joint}#water"):
        assert main(["model", "info", name]) == 0
        assert "heads         alloy water" in capsys.readouterr().out
    assert main(["model", "info", str(joint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["heads"] == ["alloy", "water"]


def test_verify_runs_every_head_or_the_one_named(joint, capsys):
    assert main(["model", "verify", str(joint)]) == 0
    said = capsys.readouterr().out
    assert "finite outputs of head alloy" in said and "finite outputs of head water" in said
    assert main(["model", "verify", f"{joint}#water"]) == 0
    assert "of head" not in capsys.readouterr().out
    assert main(["model", "verify", f"{joint}#watr"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith("has no head 'watr' (did you mean 'water'?); it has alloy, water") and "\n" not in said


def test_a_head_is_named_behind_the_file_wherever_a_model_is_asked_for(joint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    water = "3\n\nO 0.0 0.0 0.0\nH 0.97 0.0 0.0\nH -0.2 0.95 0.0\n"
    (tmp_path / "water.xyz").write_text(water)
    assert main(["relax", f"{joint}#water", "water.xyz", "--steps", "1", "--json"]) in (0, 1)
    one = json.loads(capsys.readouterr().out)
    assert one
    assert main(["relax", str(joint), "water.xyz"]) == 1
    said = capsys.readouterr().err.strip()
    assert "holds several heads" in said and said.endswith("it has alloy, water") and "\n" not in said


def test_an_import_without_a_head_keeps_all(tmp_path, capsys):
    source = Path(__file__).parents[4] / "shared" / "data" / "dpa3_parity" / "p4_multitask.pt"
    if not source.is_file():
        pytest.skip("the real data are not beside the repository (../shared/data)")
    target = tmp_path / "all.safetensors"
    assert main(["model", "import", str(source), str(target)]) == 0
    assert "heads         Mol_wB97X Water_PBE0" in capsys.readouterr().out
    for head in ("Mol_wB97X", "Water_PBE0"):
        one = import_deepmd(source, head)
        assert all(torch.equal(v, load(target, head=head).net.state_dict()[k]) for k, v in one.state_dict().items())
    assert "head" not in read_manifest(target)["source"]
