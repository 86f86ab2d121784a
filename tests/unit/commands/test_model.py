"""Budget: 5 s."""

import json
import subprocess
import sys

import pytest
import torch

from geomlib.cli import main
from geomlib.files.manifest import manifest_of
from geomlib.files.modelfile import save
from geomlib.models import DPA3
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
