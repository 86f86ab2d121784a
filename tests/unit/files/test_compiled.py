"""Compiled files: read without running them, refused where they don't belong; equal to eager (slow: it compiles)."""

import json
import zipfile

import numpy as np
import pytest
import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

import geomlib
from geomlib.apply.ase import Calculator
from geomlib.cli import main
from geomlib.data.atoms import to_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, FileFormatError, NewerFile
from geomlib.files.compiled import _machine, export_compiled, load_model_inside, read_compiled_manifest
from geomlib.models import DPA3
from geomlib.nn.derivative import Derivatives

SMALL = {
    "layers": 2,
    "node_dim": 16,
    "edge_dim": 8,
    "angle_dim": 4,
    "fitting_layers": [16, 16],
    "cutoff": 4.5,
    "cutoff_smooth": 3.8,
    "angle_cutoff": 3.2,
    "angle_cutoff_smooth": 2.7,
    "precision": "float64",
}


def net() -> DPA3:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DPA3(["O", "H"], **SMALL)


def liquid(atoms: int, *, periodic: bool = True, seed: int = 0) -> GraphData:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*3 * [torch.arange(3.0, dtype=torch.float64)])[torch.randperm(27, generator=generator)]
    return GraphData(
        pos=grid[:atoms] * 5 / 3 + 0.3 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator),
        atomic_number=torch.tensor([8, 1])[torch.randint(0, 2, (atoms,), generator=generator)],
        cell=torch.eye(3, dtype=torch.float64).unsqueeze(0) * 5.0 * periodic,
        pbc=torch.full((1, 3), periodic),
    )


def archive(path, tmp_path, **changes):
    """A compiled file without code, as far as reading it goes."""
    model = geomlib.save(net(), tmp_path / "inside.safetensors")
    info = {
        "format": "geomlib-compiled",
        "schema": 1,
        **_machine("cpu"),
        "inputs": {"pos": "float64"},
        "outputs": ["energy"],
        **changes,
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/version", "1")
        file.writestr("model/geomlib/compiled.json", json.dumps(info))
        file.write(model, "model/geomlib/model.safetensors")
    return path


def test_the_manifest_and_the_model_are_read_without_the_code(tmp_path, capsys):
    file = archive(tmp_path / "a.pt2", tmp_path)
    manifest = read_compiled_manifest(file)
    assert manifest["family"] == "dpa3"
    assert manifest["compiled"]["torch"] == torch.__version__
    inside, original = load_model_inside(file), net()
    for name, value in original.state_dict().items():
        assert torch.equal(inside.net.state_dict()[name], value), name
    assert main(["model", "info", str(file)]) == 0
    assert "torch " + torch.__version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch": "2.1.0"}, "was compiled for torch 2.1.0, here is"),
        ({"cpu": "AVX9"}, "was compiled for processors with AVX9, here is"),
        ({"system": "Plan9 mips"}, "was compiled for the system Plan9 mips"),
        ({"inputs": 3}, "'inputs' is missing in its 'geomlib/compiled.json' or is no dict"),
        ({"format": "other"}, "is no compiled file of geomlib"),
    ],
)
def test_files_for_elsewhere_are_refused_before_their_code_is_touched(tmp_path, changes, message):
    file = archive(tmp_path / "a.pt2", tmp_path, **changes)
    with pytest.raises(FileFormatError, match=message) as caught:
        geomlib.load(file)
    assert "\n" not in str(caught.value)


def test_newer_and_damaged_files(tmp_path):
    with pytest.raises(NewerFile, match="schema 2"):
        geomlib.load(archive(tmp_path / "a.pt2", tmp_path, schema=2))
    with pytest.raises(FileFormatError, match="was compiled in float64, not float32"):
        geomlib.load(archive(tmp_path / "b.pt2", tmp_path), dtype="float32")
    with pytest.raises(FileFormatError, match="its code can't be loaded"):
        geomlib.load(archive(tmp_path / "c.pt2", tmp_path))
    text = tmp_path / "d.pt2"
    text.write_text("no zip")
    with pytest.raises(FileFormatError, match="no compiled file"):
        geomlib.load(text)
    with zipfile.ZipFile(tmp_path / "e.pt2", "w") as file:
        file.writestr("model/data.pkl", "x")
    with pytest.raises(FileFormatError, match=r"'geomlib/compiled.json' is in it 0 times"):
        read_compiled_manifest(tmp_path / "e.pt2")


def test_large_members_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("geomlib.files.compiled._MAX_INFO_BYTES", 10)
    with pytest.raises(FileFormatError, match="expected at most 10"):
        read_compiled_manifest(archive(tmp_path / "a.pt2", tmp_path))


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"ends in \.pt2"):
        export_compiled(net(), tmp_path / "a.pt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("no C++ compiler here: exporting needs one")
    folder = tmp_path_factory.mktemp("pt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))
        return export_compiled(net(), folder / "model.pt2")


@pytest.mark.slow
def test_code_is_equal_to_eager_for_all_sizes(exported):
    code, eager = geomlib.load(exported), Derivatives(net()).eval()
    parts = [
        [liquid(11)],
        [liquid(9, periodic=False, seed=5)],
        [liquid(12, seed=1), liquid(8, periodic=False, seed=2)],
        [liquid(6 + k, seed=k) for k in range(5)],
        [liquid(2, periodic=False)],
        [liquid(1, periodic=False)],
    ]
    for part in parts:
        batch = eager.spec.build(collate(part))
        found, expected = code(batch), eager(batch)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert torch.allclose(found[name], value, rtol=0, atol=1e-9), name


@pytest.mark.slow
def test_calculators_and_committees(exported, tmp_path):
    atoms = to_atoms(liquid(11))
    other = net()
    with torch.no_grad():
        other.fitting.layers[-1].weight *= 1.1
    path = geomlib.save(other, tmp_path / "other.safetensors")
    single, eager = Calculator(exported), Calculator(net())
    for name in ("energy", "forces", "stress"):
        assert np.abs(single.get_property(name, atoms) - eager.get_property(name, atoms)).max() < 1e-9
    both, reference = Calculator([exported, path]), Calculator([net(), other])
    assert abs(both.get_property("forces_std", atoms) - reference.get_property("forces_std", atoms)).max() < 1e-9
    assert both.results["energy_std"] > 0


@pytest.mark.slow
def test_it_is_for_what_it_was_made_for(exported, tmp_path, capsys):
    loaded = geomlib.load(exported)
    with pytest.raises(ConfigError, match="can't be moved"):
        loaded.float()
    with pytest.raises(ConfigError, match="can't be trained"):
        loaded.train()(loaded.spec.build(liquid(9)))
    again = geomlib.save(loaded.eval(), tmp_path / "again.safetensors")
    for name, value in net().state_dict().items():
        assert torch.equal(geomlib.load(again).net.state_dict()[name], value), name
    assert main(["model", "verify", str(exported)]) == 0
    assert "good" in capsys.readouterr().out


@pytest.mark.slow
def test_wrong_code_is_not_written(tmp_path, monkeypatch):
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("no C++ compiler here: exporting needs one")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    real = geomlib.files.compiled._Code.__call__

    def wrong(self, tensors):
        outputs = real(self, tensors)
        return {**outputs, "virial": outputs["virial"] + 1e-6}

    monkeypatch.setattr("geomlib.files.compiled._Code.__call__", wrong)
    with pytest.raises(geomlib.errors.CompileError, match="AOTInductor 'virial'"):
        export_compiled(net(), tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()
