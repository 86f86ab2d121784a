"""Every recipe parses and says what it is; the smoke recipe learns."""

import csv
from pathlib import Path

import pytest
import yaml

from geomlib.cli import main
from geomlib.commands.recipes import recipes
from geomlib.training.cli import RECIPE_KEYS

RECIPES = [recipe for recipe in recipes() if not recipe.name.startswith("_parts")]
PARTS = [recipe for recipe in recipes() if recipe.name.startswith("_parts")]
SMOKE = [recipe for recipe in RECIPES if recipe.name.endswith("smoke")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_parses_to_the_four_keys(recipe, capfd):
    text = Path(recipe.path).read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) <= set(RECIPE_KEYS)
    assert "/home/" not in text and "devices" not in text
    assert main(["fit", "-c", recipe.name, "--print_config"]) == 0
    merged = yaml.safe_load(capfd.readouterr().out)
    assert merged["model"]["init_args"]["net"] and merged["trainer"]["inference_mode"] is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_says_what_it_learns_and_what_to_expect(recipe):
    assert recipe.title
    assert "Expected:" in recipe.header()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_goes_on_top_of_a_recipe(part, capfd):
    assert main(["fit", "-c", "dpa3/smoke", "-c", part.name, "--print_config"]) == 0
    merged = yaml.safe_load(capfd.readouterr().out)
    changed = yaml.safe_load(Path(part.path).read_text(encoding="utf-8"))
    for section, values in changed.items():
        assert set(values) <= set(merged[section])
    assert part.title


@pytest.mark.parametrize("recipe", SMOKE, ids=lambda recipe: recipe.name)
def test_smoke_learns(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "-c", recipe.name, "--folder", "out"]) == 0
    with Path("out/metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert losses[-1] < 0.5 * losses[0], losses
    assert main(["test", "out"]) == 0
