"""Budget: 10 s."""

import json
import struct
import tracemalloc

import pytest
import safetensors.torch
import torch

import geomlib
from geomlib.data.graph import collate
from geomlib.errors import ConfigError, FileFormatError, NewerFile
from geomlib.files import migrations
from geomlib.files.header import read_header, read_manifest
from geomlib.files.manifest import manifest_of, manifest_text
from geomlib.files.modelfile import load, save, weights_checksum
from geomlib.models import DPA3
from geomlib.nn.derivative import Derivatives


def rewrite(path, change_manifest=lambda manifest: None, change_tensors=lambda tensors: None):
    """Write a model file again, changed, with a checksum that fits."""
    manifest, tensors = read_manifest(path), safetensors.torch.load_file(path)
    change_manifest(manifest)
    change_tensors(tensors)
    manifest["weights_sha256"] = weights_checksum(tensors)
    safetensors.torch.save_file(tensors, path, {"geomlib": json.dumps(manifest)})
    return path


@pytest.fixture
def saved(tiny, tmp_path):
    return save(tiny(), tmp_path / "model.safetensors")


def test_round_trip_is_bit_exact(tiny, cluster, tmp_path):
    net = tiny(fitting_precision="float32", excluded_pairs=[["O", "H"]], excluded_elements=["H"])
    loaded = geomlib.load(geomlib.save(net, tmp_path / "model.safetensors"))
    assert isinstance(loaded, Derivatives)
    assert isinstance(loaded.net, DPA3)
    assert loaded.net.config == net.config
    state = loaded.net.state_dict()
    assert list(state) == list(net.state_dict())
    for name, value in net.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value), name
    batch = cluster(net)
    expected, found = Derivatives(net).eval()(batch), loaded(batch)
    assert all(torch.equal(found[name], expected[name]) for name in ("energy", "forces", "virial"))


@pytest.mark.parametrize("length", [0x10280, 0x10580])
def test_header_length_that_looks_like_a_pickle(tiny, tmp_path, length):
    """The first bytes of a model file are a length, and some lengths begin as pickles do."""
    path = save(tiny(), tmp_path / "model.safetensors", citation="x")
    (short,) = struct.unpack("<Q", path.read_bytes()[:8])
    save(tiny(), path, citation="x" * (length - short + 1))  # one more than there is: headers are padded to 8 bytes
    assert path.read_bytes()[:2] == length.to_bytes(8, "little")[:2]
    assert read_manifest(path)["family"] == "dpa3"


def test_loaded_net_is_frozen_and_in_evaluation_mode(saved):
    net = load(saved)
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_metadata_round_trips_to_the_letter(tiny, tmp_path):
    net = tiny()
    provenance = {
        "trained_on": {"card": "wasser-é", "sha256": "0" * 64, "split": "block", "sizes": {"train": 3}},
        "metrics": {"forces_mae": 0.1 + 0.2, "diverged": float("nan")},
        "licence": "CC-BY-4.0",
        "citation": "A “quoted” line\nand another",
        "recipe_sha256": "1" * 64,
        "created": "2026-01-01T00:00:00+00:00",
    }
    file = save(net, tmp_path / "model.safetensors", **provenance)
    header = read_header(file)
    assert header.text == manifest_text(header.manifest)
    assert header.manifest["metrics"] == {"forces_mae": 0.1 + 0.2, "diverged": None}
    for key in ("trained_on", "licence", "citation", "recipe_sha256", "created"):
        assert header.manifest[key] == provenance[key]
    again = save(Derivatives(net), tmp_path / "again.safetensors", **provenance)
    assert again.read_bytes() == file.read_bytes(), "the same net gives the same bytes, wrapped or not"


def test_manifest_says_what_the_net_gives(saved, tiny):
    manifest = read_manifest(saved)
    assert manifest["family"] == "dpa3"
    assert manifest["elements"] == ["O", "H"]
    assert manifest["dtype"] == "float64"
    assert manifest["parameters"] == sum(parameter.numel() for parameter in tiny().parameters())
    assert manifest["wrappers"] == ["derivatives"]
    assert manifest["outputs"]["forces"] == {"unit": "eV/Å", "level": "node"}
    assert set(manifest["outputs"]) == {"energy", "atom_energy", "forces", "virial", "stress"}
    assert set(manifest["versions"]) == {"geomlib", "torch", "e3nn", "torch_geometric"}


def test_energy_bias_keeps_float64(tiny, tmp_path):
    net = tiny()
    net.energy_bias.copy_(torch.tensor([-2043.123456789012, -13.6]))
    file = save(net, tmp_path / "model.safetensors")
    for dtype in ("float32", torch.float32):
        loaded = load(file, dtype=dtype).net
        assert loaded.energy_bias.dtype == torch.float64
        assert torch.equal(loaded.energy_bias, net.energy_bias)
        assert loaded.blocks[0].node_self.weight.dtype == torch.float32
    assert (
        load(save(load(file, dtype="float32"), file), dtype="float64").net.edge_embedding.weight.dtype == torch.float64
    )


def test_a_net_in_another_precision_than_its_config_stays_so(tiny, cluster, tmp_path):
    net = tiny(precision="float32").double()
    loaded = load(save(net, tmp_path / "model.safetensors"))
    assert loaded.net.edge_embedding.weight.dtype == torch.float64
    assert torch.equal(loaded(cluster(net))["energy"], net(cluster(net))["energy"])


@pytest.mark.parametrize(("dtype", "hint"), [("float23", "did you mean 'float"), ("int64", "not a floating dtype")])
def test_unknown_dtype(saved, dtype, hint):
    with pytest.raises(ConfigError, match=hint):
        load(saved, dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:77"])
def test_unknown_device(saved, device):
    with pytest.raises(ConfigError, match=f"device '{device}' can't be used"):
        load(saved, device=device)


def test_process_state_is_untouched(saved, tiny, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    load(saved, dtype="float32")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(0).device.type == "cpu"


def test_loaded_net_is_independent_of_the_file(saved, cluster):
    net = load(saved)
    batch = cluster(net)
    before = net(batch)["energy"]
    with saved.open("r+b") as stream:
        stream.write(b"\0" * saved.stat().st_size)
    assert torch.equal(net(batch)["energy"], before)


def test_batched_prediction_works_after_loading(saved, cluster):
    net = load(saved)
    parts = [cluster(net), cluster(net, (1, 8, 8, 1))]
    looped = torch.cat([net(part)["energy"] for part in parts])
    torch.testing.assert_close(net(collate(parts))["energy"], looped, rtol=0, atol=1e-12)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, tiny, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tiny(), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_save_refuses_what_it_can_not_write(tiny, tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(FileFormatError, match=r"ends in \.safetensors"):
        save(tiny(), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match="not a geomlib net"):
        save(torch.nn.Linear(2, 2), file)
    with pytest.raises(ConfigError, match=r"no 'license' \(did you mean 'licence'"):
        save(tiny(), file, license="MIT")
    with pytest.raises(ConfigError, match="text, finite numbers"):
        save(tiny(), file, metrics={"mae": torch.tensor(1.0)})
    assert not file.exists()


def test_shared_and_sliced_tensors_are_saved_whole(tiny, tmp_path):
    net = tiny()
    net.blocks[1].node_self.weight = net.blocks[0].node_self.weight
    net.energy_bias = torch.arange(10, dtype=torch.float64)[::5]
    net.environment_mean, net.environment_stddev = torch.rand(2, 2, 4, dtype=torch.float64)
    loaded = load(save(net, tmp_path / "model.safetensors")).net
    assert torch.equal(loaded.blocks[1].node_self.weight, net.blocks[0].node_self.weight)
    assert loaded.energy_bias.tolist() == [0.0, 5.0]
    assert torch.equal(loaded.environment_mean, net.environment_mean)
    assert torch.equal(loaded.environment_stddev, net.environment_stddev)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "dpa4"}, r"model family 'dpa4' is unknown \(did you mean 'dpa3'"),
        ({"family": "os:system"}, "model family 'os:system' is unknown"),
        ({"wrappers": ["derivative"]}, r"wrapper 'derivative', which is unknown \(did you mean 'derivatives'"),
        ({"spec": {"builders": []}}, "is not that of the net it describes"),
        ({"family_version": 0}, "version 0 is too old: no migration to version 1"),
    ],
    ids=str,
)
def test_manifest_that_does_not_fit(saved, change, message):
    rewrite(saved, lambda manifest: manifest.update(change))
    with pytest.raises(FileFormatError, match=message):
        load(saved)


def test_newer_family_version(saved):
    rewrite(
        saved, lambda manifest: manifest.update(family_version=DPA3.family_version + 1, versions={"geomlib": "7.0"})
    )
    with pytest.raises(NewerFile, match=r"made by a newer geomlib \(7\.0\).*upgrade geomlib"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutof": 5.0}, r"DPA3 has no argument 'cutof' \(did you mean 'cutoff'"),
        ({"cutoff": "6"}, "its config makes no DPA3"),
        ({"cutoff": -1.0}, "its config makes no DPA3: DPA3 cutoff=-1.0"),
        ({"activation": "swisch"}, "its config makes no DPA3: activation 'swisch'"),
        ({"edge_dim": 8}, r"tensor '.*' has shape \[.*\], its config asks for"),
        ({"layers": 3}, r"lacks the tensor 'blocks\.2.*' and \d+ more"),
        ({"layers": 1}, r"holds the tensor 'blocks\.1.*' and \d+ more, which the net lacks"),
    ],
    ids=str,
)
def test_config_that_does_not_fit(saved, change, message):
    rewrite(saved, lambda manifest: manifest["config"].update(change))
    with pytest.raises(FileFormatError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [("edge_dim", 10**5, "has shape"), ("edge_dim", 10**9, "sensible"), ("layers", 10**9, "sensible")],
)
def test_absurd_sizes_in_a_config_cost_no_memory(saved, name, size, message):
    rewrite(saved, lambda manifest: manifest["config"].update({name: size}))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match=message):
        load(saved)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_tensors_that_do_not_fit(saved, tiny):
    content = saved.read_bytes()

    def rename(tensors):
        tensors["energy_bais"] = tensors.pop("energy_bias")

    rewrite(saved, change_tensors=rename)
    with pytest.raises(FileFormatError, match=r"lacks the tensor 'energy_bias' \(did you mean 'energy_bais'"):
        load(saved)
    saved.write_bytes(content)
    rewrite(saved, change_tensors=lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(FileFormatError, match="holds the tensor 'extra', which the net lacks"):
        load(saved)
    saved.write_bytes(content)
    rewrite(saved, change_tensors=lambda tensors: tensors.update(energy_bias=torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(FileFormatError, match=r"'energy_bias' is torch\.int64, expected torch\.float64"):
        load(saved)


def test_a_flipped_bit_in_the_weights_is_found(saved):
    content = bytearray(saved.read_bytes())
    content[-5] ^= 1
    saved.write_bytes(content)
    with pytest.raises(FileFormatError, match="checksum of its weights"):
        load(saved)


def test_truncated_model_file(saved):
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for keep in (0, 4, 8, length // 2, length + 8, len(content) - 1):
        saved.write_bytes(content[:keep])
        with pytest.raises(FileFormatError, match="truncated"):
            load(saved)


def test_migrations_run_one_version_at_a_time(saved, tiny, cluster, monkeypatch):
    net = tiny()
    expected = net(cluster(net))["energy"]

    def from_0(manifest, tensors):
        assert manifest["family_version"] == 0
        config = {("angle_dim" if key == "bend_dim" else key): value for key, value in manifest["config"].items()}
        return {**manifest, "config": config}, tensors

    def from_minus_1(manifest, tensors):
        renamed = {name.replace("old_bias", "energy_bias"): value for name, value in tensors.items()}
        return manifest, renamed

    def make_old(manifest):
        manifest["family_version"] = -1
        manifest["config"]["bend_dim"] = manifest["config"].pop("angle_dim")

    rewrite(saved, make_old, lambda tensors: tensors.update(old_bias=tensors.pop("energy_bias")))
    monkeypatch.setattr(migrations, "MIGRATIONS", {"dpa3": {0: from_0, -1: from_minus_1}})
    assert torch.equal(load(saved)(cluster(net))["energy"], expected)
    monkeypatch.setattr(migrations, "MIGRATIONS", {"dpa3": {-1: from_minus_1}})
    with pytest.raises(FileFormatError, match="dpa3 version 0 is too old"):
        load(saved)


def test_block_of_a_checkpoint_is_plain(tiny):
    manifest = manifest_of(Derivatives(tiny()))
    assert json.loads(json.dumps(manifest)) == manifest
    assert "weights_sha256" not in manifest
