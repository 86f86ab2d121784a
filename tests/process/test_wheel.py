"""What an installed geomlib holds: built as a wheel, unpacked elsewhere, used from there.

Budget: 10 s.
"""

import json
import os
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(folder, *argv):
    """Run the command from the unpacked wheel, in a folder from which the repository is not seen."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "geomlib", *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_every_source_file_is_in_it(names):
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "geomlib").rglob("*.py")}
    assert files <= names
    assert "geomlib/apply/report.css" in names


def test_recipes_and_data_sets_come_along(names):
    recipes = {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {f"geomlib/_recipes/{name}" for name in recipes} <= names
    for card in (ROOT / "datasets").glob("*/card.yaml"):
        assert f"geomlib/_datasets/{card.parent.name}/card.yaml" in names
    assert "geomlib/_datasets/gfn2-molecules/sample.npz" in names


def test_nothing_else_is_in_it(names, wheel):
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "geomlib" in tops
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".ckpt", ".safetensors"))]
    assert wheel.stat().st_size < 3_000_000


def test_metadata(wheel, names):
    (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_string(archive.read(f"{folder}/METADATA").decode())
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert "torch<2.14,>=2.6" in required
    (lightning,) = [line for line in required if line.startswith("lightning")]
    assert "!=2.6.2" in lightning
    assert "!=2.6.3" in lightning
    assert "geomlib = geomlib.cli:main" in entry_points
    assert any(name.startswith(f"{folder}/licenses/") for name in names)


def test_command_finds_what_came_along(unpacked):
    where = json.loads(run(unpacked, "recipes", "show", "dpa3/smoke", "--json"))["path"]
    assert where == str(unpacked / "geomlib" / "_recipes" / "dpa3" / "smoke.yaml")
    cards = run(unpacked, "data", "list")
    assert "gfn2-molecules" in cards
    assert json.loads(run(unpacked, "data", "check", "gfn2-molecules", "--json")) == {"ok": True, "findings": []}
