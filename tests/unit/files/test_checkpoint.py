"""Budget: 10 s."""

import random
import sys
import zipfile

import pytest
import torch

import geomlib
from geomlib.cli import main
from geomlib.errors import FileFormatError, NewerFile
from geomlib.files.checkpoint import read_checkpoint
from geomlib.files.deepmd import import_deepmd
from geomlib.files.manifest import manifest_of
from geomlib.nn.derivative import Derivatives

OPENERS = {"load": geomlib.load, "read_checkpoint": read_checkpoint, "import_deepmd": import_deepmd}


@pytest.fixture
def write_ckpt(tmp_path):
    def write(net, name="last.ckpt", wrapped=True, **block):
        task = torch.nn.Module()
        task.net = Derivatives(net) if wrapped else net
        task.register_buffer("scale_of_the_task", torch.ones(2))
        content = {
            "pytorch-lightning_version": "2.6.6",
            "epoch": 3,
            "state_dict": task.state_dict(),
            "geomlib": {**manifest_of(net), **block},
        }
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("wrapped", [True, False])
def test_net_of_a_checkpoint(tiny, cluster, write_ckpt, wrapped):
    net = tiny()
    loaded = geomlib.load(write_ckpt(net, wrapped=wrapped), dtype="float64")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    batch = cluster(net)
    expected = Derivatives(net).eval()(batch)
    assert torch.equal(loaded(batch)["energy"], expected["energy"])
    assert torch.equal(loaded(batch)["forces"], expected["forces"])


def test_checkpoint_of_a_newer_geomlib(tiny, write_ckpt):
    with pytest.raises(NewerFile, match="made by a newer geomlib"):
        geomlib.load(write_ckpt(tiny(), family_version=99))


def test_checkpoints_without_what_is_needed(tmp_path):
    for content, message in (
        ({"state_dict": {}}, "without a geomlib block, made by another program"),
        ({"geomlib": {}}, "without a state_dict"),
        ([1, 2], "holds a list, expected a checkpoint"),
        ({"state_dict": {}, "geomlib": {"family": 3}}, "its manifest says format 'None'"),
    ):
        torch.save(content, tmp_path / "some.ckpt")
        with pytest.raises(FileFormatError, match=message):
            geomlib.load(tmp_path / "some.ckpt")


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".safetensors", ".dp", ".yaml"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "0", "2", "4"])
def test_payload_of_a_poisoned_pickle_never_runs(poison, opener, ending, kind):
    file, target = poison(f"model{ending}", kind)
    with pytest.raises(FileFormatError) as caught:
        OPENERS[opener](file)
    assert not target.exists()
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize("words", [["info"], ["verify"], ["import", "DST"]], ids=str)
def test_poisoned_pickle_on_the_command_line(poison, capsys, ending, words):
    file, target = poison(f"model{ending}")
    rest = [str(file.parent / "out.safetensors")] if len(words) > 1 else []
    assert main(["model", words[0], str(file), *rest]) == 1
    assert not target.exists()
    error = capsys.readouterr().err
    assert error.startswith("geomlib: error: ")
    assert error.count("\n") == 1
    assert "not opened" in error


def test_refusal_names_what_the_pickle_asks_for(poison):
    with pytest.raises(
        FileFormatError, match=r"is a pickle that asks to load or call '(_io|io)\.open' and is not opened"
    ):
        read_checkpoint(poison("model.ckpt")[0])


def test_environment_variable_does_not_open_the_door(poison, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file, target = poison("model.ckpt")
    with pytest.raises(FileFormatError, match="not opened"):
        geomlib.load(file)
    assert not target.exists()


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        for name in ("constants.pkl", "code/__torch__.py", "data.pkl"):
            archive.writestr(f"model/{name}", b"\x80\x02}.")
        archive.writestr("model/version", b"3\n")
    with pytest.raises(FileFormatError, match="TorchScript archive, which holds code"):
        read_checkpoint(tmp_path / "model.ckpt")


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path, new_format):
    whole, file = tmp_path / "whole.ckpt", tmp_path / "damaged.ckpt"
    content = {"state_dict": {"a": torch.ones(3)}, "epoch": 2}
    torch.save(content, whole, _use_new_zipfile_serialization=new_format)
    data = whole.read_bytes()
    generator = random.Random(1)
    damaged = [data[: generator.randrange(len(data))] for _ in range(60)]
    for _ in range(200):
        flipped = bytearray(data)
        for _ in range(3):
            flipped[generator.randrange(len(data))] = generator.randrange(256)
        damaged.append(bytes(flipped))
    refused = 0
    for attempt in damaged:
        file.write_bytes(attempt)
        try:
            read_checkpoint(file)
        except FileFormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused >= 60


def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        geomlib.load(tmp_path / "nothing.ckpt")


def test_reading_warns_about_nothing_and_keeps_the_filters(tmp_path, recwarn):
    torch.save({"a": 1}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.ckpt") == {"a": 1}
    assert not list(recwarn)
    assert "geomlib.files.checkpoint" in sys.modules
