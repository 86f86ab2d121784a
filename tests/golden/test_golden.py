"""Every model file of the past loads, migrates and predicts the same. Budget: 10 s.

If a test here fails after a change to a net: raise `family_version`, add the step to `geomlib/files/migrations.py` and
run `scripts/maintenance/make_golden.py`, which writes files of the new version. The old ones are never changed.
"""

import hashlib
import inspect
import json
from pathlib import Path

import pytest
import torch

from geomlib.data.fields import field
from geomlib.data.graph import GraphData
from geomlib.files.header import read_manifest
from geomlib.files.manifest import bare_net, manifest_of
from geomlib.files.modelfile import load
from geomlib.models import FAMILIES, family

FOLDER = Path(__file__).parent
INDEX = json.loads((FOLDER / "index.json").read_text())
CURRENT = [stem for stem, row in INDEX.items() if row["family_version"] == family(row["family"]).family_version]


def tensors(values):
    return {name: torch.tensor(value, dtype=field(name).torch_dtype()) for name, value in values.items()}


@pytest.mark.parametrize("stem", INDEX)
def test_predictions_are_those_of_the_past(stem):
    net = load(FOLDER / f"{stem}.safetensors", dtype="float64", head="*")
    cases = json.loads((FOLDER / f"{stem}.json").read_text())
    assert cases
    for case in cases:
        found = net(net.spec.build(GraphData(**tensors(case["inputs"]))))
        assert set(found) == set(case["outputs"])
        for name, stored in tensors(case["outputs"]).items():
            torch.testing.assert_close(
                found[name], stored, rtol=0, atol=1e-10, msg=lambda text, at=name: f"{at}: {text}"
            )


@pytest.mark.parametrize("stem", INDEX)
def test_golden_files_are_never_changed(stem):
    for suffix, expected in INDEX[stem]["sha256"].items():
        content = (FOLDER / f"{stem}{suffix}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == expected
        assert len(content) <= 60_000
    manifest = read_manifest(FOLDER / f"{stem}.safetensors")
    assert (manifest["family"], manifest["family_version"]) == (INDEX[stem]["family"], INDEX[stem]["family_version"])


def test_no_golden_file_is_forgotten():
    present = {path.stem for path in FOLDER.iterdir() if path.suffix in (".safetensors", ".json")} - {"index"}
    assert present == set(INDEX)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_version_of_every_family_has_one(name):
    versions = {row["family_version"] for row in INDEX.values() if row["family"] == name}
    assert versions == set(range(1, family(name).family_version + 1))


@pytest.mark.parametrize("stem", CURRENT)
def test_content_changes_only_with_the_version(stem):
    row = INDEX[stem]
    net, _ = bare_net(load(FOLDER / f"{stem}.safetensors", head="*"))
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == row["state"]
    parameters = inspect.signature(type(net)).parameters
    for name, default in row["defaults"].items():
        assert name in parameters, f"argument '{name}' is gone or renamed"
        assert parameters[name].default == default, f"the default of '{name}' has changed"
    new = set(net.config) - set(read_manifest(FOLDER / f"{stem}.safetensors")["config"])
    assert all(parameters[name].default is not inspect.Parameter.empty for name in new)
    assert manifest_of(net)["outputs"] == row["outputs"]


def test_there_are_current_ones():
    assert CURRENT
