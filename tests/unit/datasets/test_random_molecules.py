"""The text that the smoke recipe of the pretraining reads."""

import importlib.util
from pathlib import Path

from rdkit import Chem

FOLDER = Path(__file__).parents[3] / "datasets" / "random-molecules"


def script():
    spec = importlib.util.spec_from_file_location("prepare_random_molecules", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_shows_what_the_script_prints(capsys):
    script().statistics(FOLDER / "text")
    assert capsys.readouterr().out in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_all_are_distinct_molecules_in_canonical_form():
    rows = [line for name in script().PARTS for line in (FOLDER / "text" / name).read_text().splitlines()]
    assert len(rows) == len(set(rows)) == sum(script().PARTS.values())
    for smiles in rows[::20]:
        assert Chem.MolToSmiles(Chem.MolFromSmiles(smiles)) == smiles


def test_script_makes_the_same(tmp_path):
    script().write(tmp_path / "new")
    for name in script().PARTS:
        assert (tmp_path / "new" / name).read_bytes() == (FOLDER / "text" / name).read_bytes()
