"""Multiplicity-aware reconstruction, and baselines without learning. Budget: 5 s."""

import numpy as np
import pytest

from geomlib.apply.hyperedge_baselines import cfinder, cfinder_fitted, demon, max_cliques
from geomlib.apply.hyperedge_mdl import bayesian_mdl
from geomlib.apply.marioh import clique_features, fit_scorer, reconstruct_weighted
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError, DataError
from geomlib.models.shyre.multiplicity import peel
from geomlib.testing.hypergraphs import coauthors


def test_weights_are_used_up_and_help():
    source, query = coauthors(120, seed=1), coauthors(120, seed=2)
    graph = query.project(weighted=True)
    found = reconstruct_weighted(fit_scorer(source, steps=100), graph)
    again = found.project(weighted=True)
    assert again.edges.tolist() == graph.edges.tolist()
    assert again.weight.tolist() == graph.weight.tolist()
    pairs = query.take(query.sizes > 1)
    plain = agreement(pairs, max_cliques(graph)).multi_jaccard
    assert agreement(pairs, found).multi_jaccard > plain + 0.1


def test_peeling_is_idempotent():
    graph = coauthors(100, seed=4).project(weighted=True)
    proven, left = peel(graph)
    assert len(proven)
    assert len(peel(left)[0]) == 0
    assert (proven.project(weighted=True).weight > 0).all()


def test_features_by_hand():
    true = Hypergraph.from_sets([[0, 1], [0, 1, 2], [0, 1]], 3)
    rows = np.expm1(clique_features(true.project(weighted=True), Hypergraph.from_sets([[0, 1]], 3), np.array([False])))
    assert rows[0, :5].tolist() == pytest.approx([8, 4, 4, 4, 0])
    assert rows[0, 5:10].tolist() == pytest.approx([3, 3, 3, 3, 0])
    assert rows[0, 20:].tolist() == pytest.approx([2, 3 / 5, 0])
    with pytest.raises(DataError, match="no multiplicities"):
        clique_features(true.project(), true, np.ones(2, dtype=bool))


def test_two_cliques_that_share_a_node():
    """Every method reads two far cliques as they are."""
    true = Hypergraph.from_sets([[0, 1, 2, 3], [3, 4, 5, 6]], 7)
    graph = true.project()
    for found in (cfinder(graph, 3), bayesian_mdl(graph, sweeps=20), max_cliques(graph)):
        assert list(found) == list(true)
    assert list(demon(graph)) == list(true)
    assert list(cfinder_fitted(Hypergraph.from_sets([[0, 1], [2, 3], [0, 1, 2, 3]]), graph)) == list(true)
    with pytest.raises(ConfigError, match="at least 2"):
        cfinder(graph, 1)


@pytest.mark.parametrize("method", [lambda graph, seed: bayesian_mdl(graph, 10, seed), demon], ids=["mdl", "demon"])
def test_seeds(method):
    graph = coauthors(60, seed=3).project()
    assert list(method(graph, seed=1)) == list(method(graph, seed=1))


def test_empty_graphs():
    graph = UndirectedGraph.from_edges([], 3)
    assert len(demon(graph)) == len(bayesian_mdl(graph, sweeps=2)) == len(cfinder(graph, 2)) == 0
    assert len(max_cliques(graph)) == 3
