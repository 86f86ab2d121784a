"""ρ against trying everything, sampler, features, and the net. Budget: 8 s."""

import os
import subprocess
import sys
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

import geomlib
from geomlib.data.graph import GraphData, collate
from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.cliques import maximal_cliques
from geomlib.graphs.covers import clique_cover, cover_frequency
from geomlib.models.shyre.calibration import jaccard_threshold, platt
from geomlib.models.shyre.motifs import motif_features
from geomlib.models.shyre.net import FEATURE_SETS, SHyRe, candidate_sets
from geomlib.models.shyre.sampler import CliqueSampler, RhoTable
from geomlib.models.shyre.statistics import standardised
from geomlib.models.shyre.structure import STRUCTURE_COLUMNS, structure_features


def random_hypergraph(seed, nodes=14, count=30):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 2, 2, 3, 3, 4, 5], count)
    return Hypergraph.from_sets([rng.choice(nodes, size, replace=False).tolist() for size in sizes], nodes)


@pytest.mark.parametrize("seed", range(8))
def test_rho_equals_trying_every_pair(seed):
    true = random_hypergraph(seed)
    cliques = maximal_cliques(true.project())
    table = RhoTable.of(true, cliques)
    for n in range(1, int(cliques.sizes.max()) + 2):
        own = [set(row) for row in cliques if len(row) == n]
        for k in range(1, n + 1):
            inside = [p for p, row in enumerate(true) if len(row) == k and any(set(row) <= big for big in own)]
            assert table.members.get((n, k), np.array([], dtype=int)).tolist() == inside
            assert table.rho(n, k) == (len(inside) / (len(own) * comb(n, k)) if own else 0.0)
    assert table.distance(table) == 0.0
    assert table.distance(RhoTable.of(random_hypergraph(seed + 50), maximal_cliques(true.project()))) > 0


@pytest.mark.parametrize("seed", range(8))
def test_sampler_equals_a_greedy_choice_written_out(seed):
    true = random_hypergraph(seed)
    table = RhoTable.of(true, maximal_cliques(true.project()))
    left, got, cells, expected = 60, set(), dict(table.members), []
    while left > 0 and cells:
        gain = {c: Fraction(len(set(e.tolist()) - got), table.draws(*c)) for c, e in cells.items()}
        best = max(cells, key=lambda cell: (gain[cell], cell[1], -cell[0]))
        if gain[best] == 0:
            break
        expected.append((*best, min(left, table.draws(*best)) / table.draws(*best)))
        left -= table.draws(*best)
        got |= set(cells.pop(best).tolist())
    assert [(cell.n, cell.k, cell.r) for cell in CliqueSampler.fit(table, len(true), 60).cells] == expected
    with pytest.raises(ConfigError, match="budget -1"):
        CliqueSampler.fit(table, len(true), -1)


@pytest.mark.parametrize("seed", range(4))
def test_candidates_are_the_subsets_with_their_parents(seed):
    cliques = maximal_cliques(random_hypergraph(seed).project())
    found = CliqueSampler.every(cliques, 3).candidates(cliques)
    wanted: dict = {}
    for row in cliques:
        for k in range(1, min(len(row) - 1, 3) + 1):
            for part in combinations(row, k):
                wanted[part] = wanted.get(part, 0) + 1
    assert set(found.sets) == set(cliques) | set(wanted)
    assert found.parents.tolist() == [wanted.get(row, 0) for row in found.sets]
    assert found.maximal.tolist() == [row in set(cliques) for row in found.sets]


def test_partial_cells_are_drawn_by_seed():
    true = random_hypergraph(1, nodes=30, count=120)
    cliques = maximal_cliques(true.project())
    sampler = CliqueSampler.fit(RhoTable.of(true, cliques), len(true), 150)
    assert sampler.cells[-1].r < 1
    first = list(sampler.candidates(cliques, seed=0).sets)
    assert first == list(sampler.candidates(cliques, seed=0).sets)
    assert first != list(sampler.candidates(cliques, seed=1).sets)


def test_motifs_of_dense_and_sparse_evaluation_agree(monkeypatch):
    true = random_hypergraph(3, nodes=20, count=60)
    graph, cliques = true.project(), maximal_cliques(true.project())
    dense = motif_features(graph, cliques, true)
    assert len(cliques) ** 2 < 4 * (cliques.degree**2).sum()
    monkeypatch.setattr("geomlib.models.shyre.motifs._DENSE_VALUES", 0)
    np.testing.assert_array_equal(motif_features(graph, cliques, true), dense)


def test_structure_features_by_hand():
    """A triangle 0-1-2 with a tail 2-3, and a lonely node."""
    true = Hypergraph.from_sets([[0, 1, 2], [2, 3], [4]], 5)
    graph, cliques = true.project(), maximal_cliques(true.project())
    sets = Hypergraph.from_sets([[0, 1], [0, 1, 2], [2], [4]], 5)
    row = dict(zip(STRUCTURE_COLUMNS, structure_features(graph, cliques, sets).T, strict=True))
    assert row["common_mean"].tolist() == [1, 1, 0, 0]
    assert row["degree_max"].tolist() == [2, 3, 3, 0]
    assert row["holders"].tolist() == [1, 1, 2, 1]
    assert row["extensions"].tolist() == [1, 0, 3, 0]
    assert row["outside_mean"].tolist() == pytest.approx([1, 1 / 3, 3, 0])
    assert row["largest_holder"].tolist() == [3, 3, 3, 1]
    assert row["core_min"].tolist() == [2, 2, 2, 0]
    assert row["cover_frequency"].tolist() == [0, 1, 0, 0]
    assert row["allocation_max"].tolist() == pytest.approx([1 / 3, 1 / 2, 0, 0])
    assert row["inside_share"].tolist() == pytest.approx([1 / 2, 6 / 7, 0, 0])


@pytest.mark.parametrize("seed", range(4))
def test_covers_hold_every_edge_once_at_least(seed):
    graph = random_hypergraph(seed).project()
    cover = clique_cover(graph, seed=seed)
    assert cover.project().edges.tolist() == graph.edges.tolist()
    assert maximal_cliques(graph).union(cover).num_nodes == graph.num_nodes
    assert cover_frequency(cover, [cover, clique_cover(graph, "smallest")]).min() >= 0.5
    with pytest.raises(ConfigError, match="order 'first'"):
        clique_cover(graph, "first")


def trained(features="all", **arguments):
    torch.manual_seed(0)
    net = SHyRe(features, budget=200, hidden=[8], members=2, covers=2, **arguments)
    net.fit_statistics([random_hypergraph(0, 40, 60).to_data()])
    return net.requires_grad_(False)


@pytest.mark.parametrize("features", FEATURE_SETS)
def test_net_answers_for_every_candidate(features, tmp_path):
    net = trained(features)
    true = random_hypergraph(5, 40, 60)
    graph = net.spec.build(true.to_data())
    found = net(graph)
    assert set(found) == set(net.outputs)
    chance = found["candidate_probability"]
    sets = candidate_sets(found["candidate_index"], len(chance), 40)
    assert list(sets.take(found["candidate_maximal"].numpy())) == list(maximal_cliques(true.project()))
    assert 0 < float(chance.min()) <= float(chance.max()) < 1
    again = geomlib.load(geomlib.save(net, tmp_path / "net.safetensors"))
    assert again.sampler == net.sampler
    torch.testing.assert_close(again(graph)["candidate_probability"], chance)


def test_batched_equals_one_by_one():
    net = trained()
    graphs = [net.spec.build(random_hypergraph(seed, 15, 40).to_data()) for seed in (5, 6)]
    both = net(collate(graphs))
    alone = [net(graph) for graph in graphs]
    torch.testing.assert_close(both["candidate_logit"], torch.cat([row["candidate_logit"] for row in alone]))
    assert len(both["candidate_index"][1].unique()) == sum(len(row["candidate_logit"]) for row in alone)


def test_relabelling_nodes_changes_nothing_but_the_names():
    """Whole cells and no covers: probabilities of a set don't depend on what its nodes are called."""
    net = trained("count")
    net.cells[:, 2] = net.cells[:, 2].ceil()
    true = random_hypergraph(5, 20, 60)
    order = np.random.default_rng(0).permutation(20)
    found, moved = (net(net.spec.build(each.to_data())) for each in (true, true.relabelled(order)))
    tables = []
    for row, names in ((found, order), (moved, np.arange(20))):
        sets = candidate_sets(row["candidate_index"], len(row["candidate_logit"]), 20)
        tables.append(
            {frozenset(names[list(s)].tolist()): float(p) for s, p in zip(sets, row["candidate_logit"], strict=True)}
        )
    assert tables[0].keys() == tables[1].keys()
    assert max(abs(tables[0][key] - tables[1][key]) for key in tables[0]) < 1e-5


def test_structure_features_do_not_depend_on_names():
    true = random_hypergraph(5, 20, 60)
    order = np.random.default_rng(0).permutation(20)
    named = np.array([not name.startswith("cover_") for name in STRUCTURE_COLUMNS])  # random covers go by names
    tables = []
    for hypergraph, names in ((true, order), (true.relabelled(order), np.arange(20))):
        graph = hypergraph.project()
        rows = structure_features(graph, maximal_cliques(graph), hypergraph)[:, named]
        tables.append({frozenset(names[list(each)].tolist()): row for each, row in zip(hypergraph, rows, strict=True)})
    assert tables[0].keys() == tables[1].keys()
    assert all(np.allclose(tables[0][key], tables[1][key], rtol=1e-12) for key in tables[0])


def test_published_system_selects_columns():
    net = SHyRe.published("motif", budget=200)
    assert (net.members, net.config["hidden"], net.direct) == (1, [100], None)
    net.fit_statistics([random_hypergraph(0, 20, 60).to_data()])
    assert net.columns.tolist()[:9] == list(range(9))
    assert len(set(net.columns.tolist())) == 19


def test_a_head_of_one_label_has_but_one_answer():
    """Disjoint hyperedges: every maximal clique is one."""
    true = Hypergraph.from_sets([[0, 1, 2], [3, 4], [5, 6, 7, 8]], 9)
    net = SHyRe("count", budget=0, hidden=[4], members=1)
    net.fit_statistics([true.to_data()])
    assert net.constant.tolist() == [1.0, 0.0]
    found = net(net.spec.build(true.to_data()))
    assert found["candidate_probability"].tolist() == [1.0, 1.0, 1.0]
    assert float(net.source_recall) == 1.0


@pytest.mark.parametrize(
    "graph",
    [
        Hypergraph.from_sets([], 0),
        Hypergraph.from_sets([[0]], 1),
        Hypergraph.from_sets([], 3),
        Hypergraph.from_sets([[0, 1], [2, 3]], 4),
    ],
    ids=["empty", "single node", "no edges", "disconnected"],
)
@pytest.mark.parametrize("features", ["all", "count"])
def test_graphs_without_much_in_them(graph, features):
    net = trained(features)
    found = net(net.spec.build(graph.to_data()))
    assert len(found["candidate_logit"]) >= graph.num_nodes - len(graph)
    assert bool(torch.isfinite(found["candidate_logit"]).all())


def test_wrong_arguments_and_data():
    for arguments in ({"features": "some"}, {"budget": -1}, {"members": 0}, {"dropout": 1.0}, {"hidden": []}):
        with pytest.raises(ConfigError):
            SHyRe(**arguments)
    with pytest.raises(ConfigError, match="with features 'motif' only"):
        SHyRe(select=True)
    with pytest.raises(DataError, match="no training graph"):
        SHyRe().fit_statistics([])
    ends = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(DataError, match="carries no hyperedges"):
        SHyRe().fit_statistics([GraphData(node_id=torch.arange(2), edge_index=ends)])


def test_threshold_and_standardisation():
    assert jaccard_threshold(0.5) == pytest.approx(1 / 3)
    values = standardised(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(values, [[-1, 0], [1, 0]], atol=1e-7)


def test_calibration_finds_scale_and_shift():
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 2, 20_000)
    label = rng.random(len(logit)) < 1 / (1 + np.exp(-(0.5 * logit + 0.7)))
    scale, shift = platt(1 / (1 + np.exp(-logit)), label)
    assert (scale, shift) == pytest.approx((0.5, 0.7), abs=0.05)
    assert platt(np.array([0.5]), np.array([True]), ridge=1e9) == pytest.approx((1.0, 0.0), abs=1e-6)
    net = trained("count")
    net.calibration[1] = torch.tensor([0.5, 0.7])
    found = net.calibrated(torch.tensor([0.3, 0.3, 1.0, 0.0]), torch.tensor([True, False, False, False]))
    wanted = 1 / (1 + np.exp(-(0.5 * np.log(0.3 / 0.7) + 0.7)))
    assert found.tolist() == pytest.approx([0.3, wanted, 1.0, 0.0], abs=1e-6)


_SCRIPT = """
import numpy as np, torch
from geomlib.data.hypergraphs import Hypergraph
from geomlib.models.shyre.net import SHyRe
rng = np.random.default_rng(0)
true = Hypergraph.from_sets([rng.choice(25, size, replace=False).tolist() for size in rng.choice([2, 3, 4], 70)], 25)
torch.manual_seed(0)
net = SHyRe(budget=150, hidden=[4], members=2, covers=2, cover_candidates=True)
net.fit_statistics([true.to_data()])
found = net(net.spec.build(true.to_data()))
logit = found["candidate_logit"]
print(found["candidate_index"].sum().item(), len(logit), logit.double().sum().item())
"""


def test_same_result_whatever_the_hash_seed():
    results = set()
    for seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        )
        results.add(done.stdout)
    assert len(results) == 1, results
