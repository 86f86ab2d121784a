"""The embedded data set cycle-counts: card, README, and counts against another way of counting. Budget: 5 s."""

import importlib.util
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from geomlib.data.cards import Card, CardSplit, CardStore, file_sha256
from geomlib.data.checks import check_card, summary
from geomlib.data.networks import to_networkx

FOLDER = Path(__file__).parents[3] / "datasets" / "cycle-counts"


@pytest.fixture(scope="module")
def store():
    return CardStore(str(FOLDER))


@pytest.fixture(scope="module")
def prepare():
    spec = importlib.util.spec_from_file_location("prepare_cycle_counts", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_card_fits_its_file(store):
    card = Card.read(FOLDER / "card.yaml")
    path = FOLDER / card.files[0].path
    assert path.stat().st_size == card.files[0].bytes < 300_000
    assert file_sha256(path) == card.files[0].sha256
    assert len(store) == card.graphs and list(check_card(card, False)) == []
    assert {name: len(part) for name, part in CardSplit(str(FOLDER)).indices(store).items()} == {
        "train": 2000,
        "val": 100,
        "test": 500,
    }
    assert summary(store)["atoms"] == 2600 * 16


def test_readme_shows_what_the_script_prints(prepare):
    assert prepare.statistics(FOLDER / "sample.npz") in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_counts_are_those_of_the_graphs(store, prepare):
    for index in range(0, 2600, 520):
        network = to_networkx(store[index])
        assert set(dict(network.degree).values()) == {4}
        lengths = [len(cycle) for cycle in nx.simple_cycles(network, length_bound=6)]
        assert store[index].target[0].tolist() == [lengths.count(length) for length in range(3, 7)]
        again = prepare.graph(index)
        assert np.array_equal(again.edge_index, store[index].edge_index)
    assert prepare.count_cycles(nx.complete_graph(5)) == [10, 15, 12, 0]
