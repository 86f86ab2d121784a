"""The data set that nets of properties are tried out on."""

import importlib.util
from pathlib import Path

import torch

from geomlib.data.cards import CardSplit, CardStore
from geomlib.data.molecules import to_smiles
from geomlib.data.table_splits import find_leaks

FOLDER = Path(__file__).parents[3] / "datasets" / "calculated-properties"


def test_script_makes_the_same(tmp_path):
    spec = importlib.util.spec_from_file_location("prepare_calculated_properties", FOLDER / "prepare.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == (FOLDER / "table.csv").read_bytes()


def test_card_opens_the_table():
    store = CardStore("calculated-properties")
    assert len(store) == store.card.graphs and store.partial == ("target",)
    labels = torch.cat([graph.target for graph in store])
    missing = labels.isnan().double().mean(0)
    assert missing[0] == 0 and bool(((missing[1:] > 0.15) & (missing[1:] < 0.25)).all())
    assert to_smiles(store[2]) == ["O=[N+]([O-])c1ccccc1"]
    assert find_leaks(store, CardSplit("calculated-properties").indices(store)) == []
