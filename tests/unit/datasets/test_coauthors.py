"""The embedded bibliographies, and what makes them. Budget: 4 s."""

import importlib.util
from pathlib import Path

import pytest

from geomlib.data.cards import Card, CardStore, file_sha256
from geomlib.data.checks import check_card
from geomlib.data.hypergraphs import Hypergraph
from geomlib.testing.hypergraphs import coauthors

FOLDER = Path(__file__).parents[3] / "datasets" / "coauthors"


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare_coauthors", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_card_fits_its_file():
    card = Card.read(FOLDER / "card.yaml")
    (entry,) = card.files
    path = FOLDER / entry.path
    assert (path.stat().st_size, file_sha256(path)) == (entry.bytes, entry.sha256)
    assert path.stat().st_size < 100_000
    assert list(check_card(card, False)) == []
    parts = card.parts(card.graphs)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 6, "val": 2, "test": 4}


def test_graphs_are_made_again(prepare):
    store = CardStore(str(FOLDER))
    made = prepare.graphs()
    assert len(store) == len(made)
    for position in (0, 11):
        a, b = Hypergraph.from_data(store[position]), Hypergraph.from_data(made[position])
        assert list(a) == list(b)
        assert a.multiplicity.tolist() == b.multiplicity.tolist()
        assert store[position].edge_weight.tolist() == made[position].edge_weight.tolist()


def test_readme_shows_what_the_script_prints(prepare, capsys):
    prepare.statistics(FOLDER / "sample.npz")
    assert capsys.readouterr().out in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_generator_keeps_its_promises():
    made = coauthors(3000, seed=7)
    assert list(made) == list(coauthors(3000, seed=7))
    assert made.multiplicity.sum() == 3000
    assert made.degree.min() >= 1
    assert 1.4 < made.num_nodes / 3000 < 1.8
    assert 3.2 < len(made.project().edges) / 3000 < 4.2
    assert list(made) != list(coauthors(3000, seed=8))
