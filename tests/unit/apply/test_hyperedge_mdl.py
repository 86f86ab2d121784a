"""Least description length: the formula by hand and by quadrature, the search beside all hypergraphs. Budget: 10 s."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import quad

from geomlib.apply.hyperedge_mdl import bayesian_mdl, description_length
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError
from geomlib.graphs.cliques import maximal_cliques
from geomlib.graphs.covers import clique_cover
from geomlib.testing.hypergraphs import coauthors


def test_description_length_is_the_integral_over_the_rates():
    true = Hypergraph.from_sets([[0, 1, 2], [2, 3, 4], [4, 5], [0]], 7, [1, 2, 3, 5])
    mu = 7 / 2
    expected = 0.0
    for k, times in ((2, [3]), (3, [1, 2])):
        sets = math.comb(7, k)
        mean = mu / sets

        def density(rate, sets=sets, times=times, mean=mean):
            found = math.exp(-rate * sets) / math.prod(math.factorial(a) for a in times)
            return found * rate ** sum(times) * math.exp(-rate / mean) / mean

        expected -= math.log(quad(density, 0, np.inf)[0])
    assert description_length(true) == pytest.approx(expected, rel=1e-6)
    assert description_length(true, true.project()) == description_length(true)


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_least_of_all_hypergraphs_on_a_few_nodes(seed):
    """Every family of sets that projects to a random graph on 5 nodes is written out."""
    rng = np.random.default_rng(seed)
    pairs = list(combinations(range(5), 2))
    kept = sorted(rng.permutation(10)[: rng.integers(5, 10)].tolist())
    graph = UndirectedGraph.from_edges([pairs[i] for i in kept], 5)
    edges = {tuple(row) for row in graph.edges.tolist()}
    cliques = [
        row
        for size in range(2, 6)
        for row in combinations(range(5), size)
        if all(pair in edges for pair in combinations(row, 2))
    ]
    covers = [{tuple(pair) for pair in combinations(row, 2)} for row in cliques]
    lengths = {}  # by the number of sets of each size, which is all that counts
    for count in range(1, min(len(edges), 6) + 1):  # a set more than edges is never shorter
        for chosen in combinations(range(len(cliques)), count):
            sizes = tuple(sorted(len(cliques[i]) for i in chosen))
            if sizes not in lengths and set().union(*(covers[i] for i in chosen)) == edges:
                found = Hypergraph.from_sets([cliques[i] for i in chosen], 5)
                lengths[sizes] = description_length(found, graph)
    least = min(lengths.values())
    assert description_length(bayesian_mdl(graph, sweeps=20, seed=seed), graph) == pytest.approx(least)


def test_finds_what_was_planted_and_beats_its_starts():
    """Teams of 4 on a grid of nodes, every two with at most one node in common, and lines between them."""
    rng = np.random.default_rng(0)
    rows: list[tuple[int, ...]] = []
    while len(rows) < 36:
        size = 4 if len(rows) < 30 else 5
        row = tuple(sorted(rng.choice(60, size, replace=False).tolist()))
        if all(len(set(row) & set(other)) < 2 for other in rows):
            rows.append(row)
    true = Hypergraph.from_sets(rows, 60)
    graph = true.project()
    assert len(maximal_cliques(graph)) > len(true)  # false cliques, each of edges of several teams
    found = bayesian_mdl(graph, sweeps=30)
    assert description_length(found, graph) == pytest.approx(description_length(true, graph))
    assert agreement(true, found).jaccard == 1.0
    for start in (maximal_cliques(graph), clique_cover(graph), Hypergraph.from_sets(graph.edges.tolist(), 60)):
        assert description_length(found, graph) < description_length(start, graph) - 1


def test_covers_every_edge_and_shortens_with_sweeps():
    rng = np.random.default_rng(1)
    true = Hypergraph.from_sets([rng.choice(30, size, replace=False) for size in rng.choice([2, 3, 4, 5], 80)], 30)
    graph = true.project()
    lengths = []
    for sweeps in (0, 10):
        found = bayesian_mdl(graph, sweeps)
        assert found.project().edges.tolist() == graph.edges.tolist()
        lengths.append(description_length(found, graph))
    assert lengths[1] < lengths[0] - 5
    with pytest.raises(ConfigError, match="sweeps -1"):
        bayesian_mdl(graph, -1)


def test_nested_sets_are_not_paid_for():
    """No hyperedge inside another, and none that the others cover: both only lengthen the description."""
    found = bayesian_mdl(coauthors(80, seed=5).project(), sweeps=10)
    rows = [set(row) for row in found]
    assert not any(a < b for a in rows for b in rows)
