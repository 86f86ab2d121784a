"""Choosing settings of SHyRe on its source. Budget: 15 s."""

import inspect
import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from geomlib.apply.hyperedge_baselines import clique_cover, max_cliques
from geomlib.apply.reconstruct import reconstruct
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.models.shyre.net import SHyRe
from geomlib.tasks.hyperedges import HyperedgeTask
from geomlib.testing.hypergraphs import coauthors
from geomlib.training import hyperedge_selection
from geomlib.training.hyperedge_selection import GRID, halves, select_settings
from geomlib.training.hyperedge_settings import HyperedgeSettings, fit_known, fit_source, snapshots

SMALL = {
    "lr": (1e-5, 1e-2),
    "budget": (5.0,),
    "features": ("count",),
    "dropout": (0.1,),
    "hidden": ((8,),),
    "members": (5,),
    "cover_candidates": (False,),
    "steps": (5, 30),
}
"""Five perceptrons of 8 units; the smaller rate learns nothing."""


@pytest.fixture(scope="module")
def source():
    return coauthors(150, seed=3)


def crowd(seed: int, count: int, nodes: int) -> Hypergraph:
    """Pairs and teams of 4, so dense that most maximal cliques are accidents."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([2, 4], count, p=[0.6, 0.4])
    return Hypergraph.from_sets([rng.choice(nodes, size, replace=False) for size in sizes], nodes).simple()


def test_halves_hold_every_hyperedge_once():
    whole = Hypergraph.from_sets([[0, 1], [1, 2, 3], [4], [5, 9]], 11, [1, 3, 1, 1])
    for seed in range(5):
        found: dict[tuple[int, ...], int] = {}
        for part in halves(whole, seed):
            assert part.num_nodes == len(np.unique(part.nodes))
            assert part.labels is not None
            for row, times in zip(part, part.multiplicity.tolist(), strict=True):
                name = tuple(part.labels[list(row)].tolist())
                found[name] = found.get(name, 0) + times
        assert found == dict(zip(whole, whole.multiplicity.tolist(), strict=True))
        assert [int(part.multiplicity.sum()) for part in halves(whole, seed)] == [3, 3]
    assert len({tuple(halves(whole, seed)[0]) for seed in range(5)}) > 1
    with pytest.raises(DataError, match="fewer than two"):
        halves(Hypergraph.from_sets([[0, 1]], 2))


def test_chooses_the_settings_that_reconstruct_the_other_half_best(source):
    found = select_settings(source, SMALL, splits=1)
    assert found.settings == found.trials[0].settings
    assert found.settings.lr == 1e-2
    assert len(found.trials) == 2 * 2 * 2 * 2 * 2
    means = [trial.mean for trial in found.trials]
    assert means == sorted(means, reverse=True)
    # scores are what reconstruct gives with nets of those settings
    tried = {trial.settings: trial.scores for trial in found.trials}
    first, second = halves(source, 0)
    for seed, (known, query) in enumerate(((first, second), (second, first))):
        for step, net, seen in snapshots(known, found.settings, SMALL["steps"], seed):
            for calibrate, rule, cover in product((True, False), ("expected", "half"), (False, True)):
                net.settle(seen, calibrate, rule)
                again = reconstruct(net, query.project(), cover=cover).hypergraph
                choice = replace(found.settings, steps=step, calibrate=calibrate, rule=rule, cover=cover)
                assert agreement(query, again).jaccard == pytest.approx(tried[choice][seed]), choice
    assert len({scores for settings, scores in tried.items() if settings.lr == 1e-2}) > 4
    net = fit_source(first, found.settings)
    again = reconstruct(net, second.project(), cover=found.settings.cover).hypergraph
    assert agreement(second, again).jaccard == pytest.approx(found.trials[0].scores[0])


def test_goes_on_where_it_was_cut_off(source, tmp_path, monkeypatch):
    file = tmp_path / "fits.jsonl"
    whole = select_settings(source, SMALL, splits=1, file=file)
    lines = file.read_text().splitlines()
    assert len(lines) == 5  # two rates, both ways, and the budget on the whole source
    file.write_text("\n".join(lines[:3]) + "\n")
    fits = []

    def counted(*arguments):
        fits.append(arguments)
        return snapshots(*arguments)

    monkeypatch.setattr(hyperedge_selection, "snapshots", counted)
    again = select_settings(source, SMALL, splits=1, file=file)
    assert len(fits) == 2
    assert again.budgets == whole.budgets
    assert [(trial.settings, trial.scores) for trial in again.trials] == [
        (trial.settings, trial.scores) for trial in whole.trials
    ]
    other = coauthors(150, seed=4)  # another source has fits of its own
    select_settings(other, {**SMALL, "lr": (1e-2,)}, splits=1, file=file)
    assert len(fits) == 5
    file.write_text(lines[0] + "\nnothing\n")
    with pytest.raises(FileFormatError, match=r"fits\.jsonl:2"):
        select_settings(source, SMALL, splits=1, file=file)


def test_ends_where_nothing_is_left_to_gain():
    rows = [[4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3] for k in range(12)]
    found = select_settings(Hypergraph.from_sets(rows), {"steps": (2,)}, splits=1)
    assert found.trials[0].mean == 1.0
    assert {trial.settings.budget for trial in found.trials} == {HyperedgeSettings().budget}
    assert found.budgets == ()


def test_the_budget_is_settled_on_the_whole_source():
    """By members on what they were not trained on; scores and choice are those of a fit by hand."""
    source = crowd(4, 240, 40)
    grid = {**SMALL, "lr": (1e-2,), "budget": (0.0, 1.0, 30.0), "steps": (30,), "cover": (False,)}
    found = select_settings(source, grid, splits=1)
    budgets = dict(found.budgets)
    assert list(budgets) == [0.0, 1.0, 30.0]
    assert budgets[found.settings.budget] == max(budgets.values())
    assert len(set(budgets.values())) == 3
    assert found.settings == replace(found.trials[0].settings, budget=found.settings.budget)
    ((_, net, seen),) = snapshots(source, found.settings, [30])
    net.settle(seen, found.settings.calibrate, found.settings.rule)
    chosen = net.calibrated(seen.chance, seen.maximal).double() > net.threshold
    hits = int((chosen & seen.label).sum())
    union = len(source) + int(chosen.sum()) - hits
    assert budgets[found.settings.budget] == pytest.approx(hits / union)


def test_what_is_refused(source):
    with pytest.raises(ConfigError, match="setting 'depth'"):
        select_settings(source, {"depth": (1,)})
    with pytest.raises(ConfigError, match="nothing to try for \\['lr'\\]"):
        select_settings(source, {"lr": ()})
    with pytest.raises(ConfigError, match="steps \\[0\\]"):
        list(snapshots(source, HyperedgeSettings(), [0]))


def test_recipe_names_arguments_that_exist():
    recipe = HyperedgeSettings(budget=2.5, steps=7).to_recipe(101)
    task = recipe["model"]["init_args"]
    assert set(task) <= set(inspect.signature(HyperedgeTask).parameters)
    net = SHyRe(**task["net"]["init_args"])
    assert (net.budget, net.members) == (253, 10)
    assert recipe["trainer"] == {"max_epochs": 7, "check_val_every_n_epoch": 7}
    assert json.loads(json.dumps(recipe)) == recipe
    assert set(GRID) <= set(HyperedgeSettings().to_dict())


def test_a_fit_does_not_depend_on_where_it_is_looked_at(source):
    settings = HyperedgeSettings(hidden=(8,), members=5, features="count", steps=20)
    alone = fit_source(source, settings)
    among = {step: net for step, net, _ in snapshots(source, settings, [4, 10, 20])}
    assert sorted(among) == [4, 10, 20]
    for name, value in alone.named_parameters():
        assert torch.equal(value, dict(among[20].named_parameters())[name]), name
    assert not torch.equal(among[4].weights[0], among[10].weights[0])


def test_relabelling_moves_the_score_by_less_than_a_point():
    """All that depends on names is what is drawn at random: covers, cliques of a cell that is taken in part."""
    query = crowd(2, 400, 70)
    net = fit_source(crowd(1, 400, 70), HyperedgeSettings(hidden=(16,), members=5, steps=60))
    scores = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(query.num_nodes)
        moved = query if seed == 0 else query.relabelled(order)
        scores.append(100 * agreement(moved, reconstruct(net, moved.project()).hypergraph).jaccard)
    assert max(scores) - min(scores) <= 1.0, scores
    assert min(scores) > 100 * agreement(query, max_cliques(query.project())).jaccard + 5


def test_some_known_hyperedges_find_the_others():
    """A third of them is known."""
    true = crowd(3, 160, 45)
    graph = true.project()
    rows = np.sort(np.random.default_rng(0).permutation(len(true))[: len(true) // 3])
    known, rest = true.take(rows), true.take(~np.isin(np.arange(len(true)), rows))
    settings = HyperedgeSettings(hidden=(16,), members=5, steps=60, calibrate=False)
    net = fit_known(graph, known, settings, labelled=1 / 3)
    assert 0 < float(net.threshold) < 1 / 6
    assert net.budget == 15 * len(known) * 3
    found = reconstruct(net, graph, known=known).hypergraph
    assert found.contains(known).all()
    scores = [
        agreement(rest, each.take(~known.contains(each))).jaccard
        for each in (found, max_cliques(graph), clique_cover(graph))
    ]
    assert scores[0] > max(scores[1:]) + 0.05, scores
    with pytest.raises(ConfigError, match="labelled 0"):
        fit_known(graph, known, settings, labelled=0)
    with pytest.raises(DataError, match="nodes, the graph has"):
        fit_known(graph, known.compacted(), settings, labelled=0.5)
