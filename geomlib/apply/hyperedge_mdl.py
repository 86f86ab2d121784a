"""Bayesian reconstruction of hyperedges without a source: the hypergraph of least description length."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.undirected import UndirectedGraph
from geomlib.errors import ConfigError
from geomlib.graphs.cliques import maximal_cliques
from geomlib.graphs.covers import clique_cover

__all__ = ["bayesian_mdl", "description_length"]

Row = tuple[int, ...]


@dataclass(frozen=True)
class _Prior:
    """Description length of E_k hyperedges of each size k on a graph, in nats, and its differences."""

    log_sets: tuple[float, ...]
    mu: float

    @classmethod
    def of(cls, graph: UndirectedGraph, largest: int) -> "_Prior":
        n = graph.num_nodes
        sizes = range(max(largest, 2) + 1)
        log_sets = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) if k <= n else 0.0 for k in sizes]
        return cls(tuple(log_sets), max(len(graph.edges), 1) / (max(largest, 2) - 1))

    def whole(self, counts: Iterable[int]) -> float:
        """Of counts of the sizes 0, 1, 2, …; the first two don't count."""
        found = 0.0
        for k, count in enumerate(counts):
            if k >= 2:
                found += count * self.log_sets[k] - math.lgamma(count + 1)
                found += math.log(self.mu) + (count + 1) * math.log1p(1 / self.mu)
        return found

    def one_more(self, k: int, count: int) -> float:
        """What another hyperedge of size k costs where there are `count`."""
        return self.log_sets[k] + math.log1p(1 / self.mu) - math.log(count + 1)


def description_length(hypergraph: Hypergraph, graph: UndirectedGraph | None = None) -> float:
    """−log P(H) in nats of a hypergraph that projects to a graph; hyperedges of size 1 don't count.

    A set of size k is a hyperedge A times, with A from a Poisson distribution of rate λ_k, and λ_k from an
    exponential one of mean μ / N_k, N_k = binom(n, k). Integrated over λ_k, with E_k hyperedges of size k,
    −log P(H) = Σ_k [E_k log N_k − log E_k! + log μ + (E_k + 1) log(1 + 1/μ)] + Σ log A!, over the sizes from 2 to that
    of the largest clique. μ is the number of edges over the number of sizes.

    Args:
        hypergraph: H.
        graph: its projection; made if not given.

    Source: Young, Petri, Peixoto, Commun. Phys. 4, 135 (2021); the value of μ is our choice and hardly matters.
    """
    network = hypergraph.project() if graph is None else graph
    largest = max(int(maximal_cliques(network).sizes.max(initial=2)), int(hypergraph.sizes.max(initial=2)), 2)
    counts = [0] * (largest + 1)
    repeats = 0.0
    for size, times in zip(hypergraph.sizes.tolist(), hypergraph.multiplicity.tolist(), strict=True):
        counts[size] += times
        repeats += math.lgamma(times + 1) if size > 1 else 0.0
    return _Prior.of(network, largest).whole(counts) + repeats


@dataclass
class _State:
    """Sets that cover a graph, with what a move needs to know at once."""

    prior: _Prior
    near: list[set[int]]
    index: dict[tuple[int, int], int]
    rows: set[Row] = field(default_factory=set)
    holders: list[set[Row]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    energy: float = 0.0
    journal: list[tuple[bool, Row]] = field(default_factory=list)

    @classmethod
    def of(cls, graph: UndirectedGraph, prior: _Prior) -> "_State":
        ptr, flat = graph.adjacency.indptr.tolist(), graph.adjacency.indices.tolist()
        near = [set(flat[ptr[node] : ptr[node + 1]]) for node in range(graph.num_nodes)]
        index = {(u, v): position for position, (u, v) in enumerate(graph.edges.tolist())}
        state = cls(prior, near, index, counts=[0] * len(prior.log_sets))
        state.holders = [set() for _ in index]
        state.energy = prior.whole(state.counts)
        return state

    def edges(self, row: Row) -> list[int]:
        return [self.index[u, v] for i, u in enumerate(row) for v in row[i + 1 :]]

    def add(self, row: Row) -> None:
        self.rows.add(row)
        for edge in self.edges(row):
            self.holders[edge].add(row)
        self.energy += self.prior.one_more(len(row), self.counts[len(row)])
        self.counts[len(row)] += 1
        self.journal.append((True, row))

    def drop(self, row: Row) -> None:
        self.rows.remove(row)
        for edge in self.edges(row):
            self.holders[edge].remove(row)
        self.counts[len(row)] -= 1
        self.energy -= self.prior.one_more(len(row), self.counts[len(row)])
        self.journal.append((False, row))

    def undo(self) -> None:
        """Take back everything in the journal."""
        for added, row in reversed(self.journal[:]):
            (self.drop if added else self.add)(row)
        self.journal.clear()

    def superfluous(self, row: Row) -> bool:
        """Whether other sets hold all edges of a set."""
        return all(len(self.holders[edge]) > 1 for edge in self.edges(row))

    def open(self, u: int, v: int) -> bool:
        return not self.holders[self.index[(u, v) if u < v else (v, u)]]

    def around(self, row: Iterable[int]) -> list[Row]:
        """The sets that share an edge with a clique, in order."""
        return sorted({other for edge in self.edges(tuple(row)) for other in self.holders[edge]})


def _prune(state: _State, around: list[Row], rng: random.Random) -> None:
    """Drop superfluous sets, and superfluous nodes of sets, among some."""
    rng.shuffle(around)
    for row in around:
        if row not in state.rows:
            continue
        if state.superfluous(row):
            state.drop(row)
            continue
        for node in rng.sample(row, len(row)):
            rest = tuple(other for other in row if other != node)
            pairs = ((min(node, other), max(node, other)) for other in rest)
            if len(rest) < 2 or any(len(state.holders[state.index[pair]]) < 2 for pair in pairs):
                continue
            now, then = state.counts[len(row)] - 1, state.counts[len(rest)]
            if rest in state.rows or state.prior.one_more(len(rest), then) < state.prior.one_more(len(row), now):
                state.drop(row)
                if rest not in state.rows:
                    state.add(rest)
                break


def _grow(state: _State, edge: tuple[int, int], stop: float, rng: random.Random) -> Row:
    """A clique around an open edge that holds many open ones; growing ends early with some chance."""
    u, v = edge
    clique = [u, v]
    gain = {z: state.open(u, z) + state.open(v, z) for z in sorted(state.near[u] & state.near[v])}
    while gain and rng.random() >= stop:
        best = max(gain.values())
        if best == 0:
            break
        chosen = rng.choice([z for z, value in gain.items() if value == best])
        clique.append(chosen)
        gain = {z: value + state.open(chosen, z) for z, value in gain.items() if z in state.near[chosen]}
    return tuple(sorted(clique))


def _flip(state: _State, clique: Row, rng: random.Random) -> None:
    """The published move: add or drop a random subset of a maximal clique; what becomes superfluous goes."""
    size = rng.randint(2, len(clique))
    row = tuple(sorted(rng.sample(clique, size)))
    if row not in state.rows:
        state.add(row)
        _prune(state, [other for other in state.around(row) if other != row], rng)
    elif state.superfluous(row):
        state.drop(row)


def _rebuild(state: _State, clique: Row, rng: random.Random) -> None:
    """Take some sets around a maximal clique away and cover the edges that they leave open anew."""
    around = state.around(clique)
    taken = rng.sample(around, min(len(around), rng.randint(1, 4)))
    for row in taken:
        state.drop(row)
    names = sorted({(u, v) for row in taken for i, u in enumerate(row) for v in row[i + 1 :]})
    rng.shuffle(names)
    stop = rng.choice((0.0, 0.0, 0.2, 0.5))
    touched: set[Row] = set()
    for edge in names:
        if state.open(*edge):
            row = _grow(state, edge, stop, rng)
            state.add(row)
            touched.update(state.around(row))
    _prune(state, sorted(touched), rng)


def bayesian_mdl(graph: UndirectedGraph, sweeps: int = 200, seed: int = 0) -> Hypergraph:
    """The hypergraph of least `description_length` among those that project to a graph, as far as a search finds it.

    Annealing from the best of three states: the pruned maximal cliques, a greedy clique cover, the edges. A move adds
    or drops a random subset of a maximal clique, or takes up to four sets around one away and covers the edges left
    open anew; then sets, and nodes of sets, that have become superfluous go. It is accepted by Metropolis' rule at a
    falling temperature. The best state is returned; no multiplicities, which can only lengthen the description.

    Args:
        graph: simple and undirected.
        sweeps: rounds of as many moves as there are maximal cliques.
        seed: of the moves.

    Raises:
        ConfigError: fewer than 0 sweeps.

    Source: Young, Petri, Peixoto, Commun. Phys. 4, 135 (2021), whose posterior is sampled with the first move alone.
    """
    if sweeps < 0:
        raise ConfigError(f"sweeps {sweeps}: expected a number of rounds, at least 0")
    rng = random.Random(seed)
    whole = [row for row in maximal_cliques(graph) if len(row) > 1]
    prior = _Prior.of(graph, max((len(row) for row in whole), default=2))
    starts = []
    for rows in (whole, list(clique_cover(graph, seed=seed)), [tuple(row) for row in graph.edges.tolist()]):
        state = _State.of(graph, prior)
        for row in rows:
            state.add(row)
        _prune(state, sorted(state.rows), rng)
        starts.append(state)
    state = min(starts, key=lambda each: each.energy)
    least, best = state.energy, set(state.rows)
    for sweep in range(sweeps if whole else 0):
        temperature = 0.02 + 1.5 * (1.0 - (sweep + 1) / sweeps) ** 2
        for _ in whole:
            before = state.energy
            state.journal.clear()
            (_flip if rng.random() < 0.3 else _rebuild)(state, rng.choice(whole), rng)
            change = state.energy - before
            if change > 0 and rng.random() >= math.exp(-change / temperature):
                state.undo()
                state.energy = before
            elif state.energy < least - 1e-9:
                least, best = state.energy, set(state.rows)
    return Hypergraph.from_sets(sorted(best), graph.num_nodes, labels=graph.labels)
