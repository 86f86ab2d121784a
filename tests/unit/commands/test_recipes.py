"""`geomlib recipes` on a folder of its own."""

import json

import pytest

from geomlib.cli import main
from geomlib.commands import recipes
from geomlib.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in {
        "dpa3/quickstart.yaml": "# DPA3 on ethanol\n# Expected: 0.2 eV/Å\nmodel: 1\n",
        "dpa3/smoke.yaml": "model: 2\n",
        "_parts/cpu.yaml": "# one CPU\ntrainer: 1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(recipes, "recipe_folder", lambda: tmp_path)
    return tmp_path


def test_list(folder, capsys):
    assert main(["recipes", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "dpa3/quickstart  DPA3 on ethanol",
        "dpa3/smoke",
        "_parts/cpu       one CPU",
    ]


def test_list_json(folder, capsys):
    assert main(["recipes", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["dpa3/quickstart", "dpa3/smoke", "_parts/cpu"]
    assert rows[0]["path"] == str(folder / "dpa3" / "quickstart.yaml")


@pytest.mark.parametrize("name", ["dpa3/quickstart", "dpa3/quickstart.yaml"])
def test_show(folder, capsys, name):
    assert main(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == "# DPA3 on ethanol\n# Expected: 0.2 eV/Å\nmodel: 1\n"
    assert main(["recipes", "show", name, "--path"]) == 0
    assert capsys.readouterr().out == f"{folder / 'dpa3' / 'quickstart.yaml'}\n"
    assert main(["recipes", "show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].endswith("model: 1\n")


def test_header(folder):
    assert recipes.find_recipe("dpa3/quickstart").header() == "DPA3 on ethanol\nExpected: 0.2 eV/Å"


def test_unknown_name(folder, capsys):
    assert main(["recipes", "show", "dpa3/quikstart"]) == 1
    assert "no recipe is called 'dpa3/quikstart' (did you mean 'dpa3/quickstart'?)" in capsys.readouterr().err


def test_recipes_of_the_repository_are_found(monkeypatch):
    assert recipes.recipe_folder().name in {"recipes", "_recipes"}
    monkeypatch.setattr(recipes.geomlib, "__file__", "/nowhere/geomlib/__init__.py")
    with pytest.raises(ConfigError, match="install geomlib again"):
        recipes.recipe_folder()
