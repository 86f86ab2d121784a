"""ρ(n, k) of a source hypergraph, the cells of (n, k) that pay, and the candidates that they give on any graph."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Self

import numpy as np
from numpy.typing import NDArray

from geomlib.data.hypergraphs import Hypergraph, ragged
from geomlib.data.undirected import Ints
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.cliques import inclusions
from geomlib.memory import require_memory

__all__ = ["Candidates", "Cell", "CliqueSampler", "RhoTable"]


@dataclass(frozen=True)
class RhoTable:
    """ρ(n, k) = |E(n, k)| / Q(n, k): the chance that a random k-subset of a random maximal n-clique is a new hyperedge.

    E(n, k) are the distinct hyperedges of size k inside at least one maximal clique of size n, and
    Q(n, k) = |C_n| · binom(n, k) counts the subsets, repeated ones too. Cells without hyperedges are absent.

    Args:
        members: (n, k) → positions in the hypergraph of E(n, k), ascending.
        cliques: n → |C_n|.

    Source: Wang, Kleinberg, arXiv 2401.08519, §3.
    """

    members: dict[tuple[int, int], Ints]
    cliques: dict[int, int]

    @classmethod
    def of(cls, hypergraph: Hypergraph, cliques: Hypergraph) -> Self:
        """Table of a hypergraph and the maximal cliques of its projection."""
        edge, clique = inclusions(hypergraph, cliques)
        largest = int(cliques.sizes.max(initial=0)) + 1
        keys = np.unique(edge * largest + cliques.sizes[clique])  # each hyperedge once per clique size
        edge, size = keys // largest, keys % largest
        order = np.lexsort((edge, hypergraph.sizes[edge], size))
        cells = np.stack([size, hypergraph.sizes[edge]], axis=1)[order]
        found, first = np.unique(cells, axis=0, return_index=True)
        parts = np.split(edge[order], first[1:]) if len(found) else []
        members = {(int(n), int(k)): part for (n, k), part in zip(found.tolist(), parts, strict=True)}
        sizes, counts = np.unique(cliques.sizes, return_counts=True)
        return cls(members, dict(zip(sizes.tolist(), counts.tolist(), strict=True)))

    def draws(self, n: int, k: int) -> int:
        """Q(n, k)."""
        return self.cliques.get(n, 0) * comb(n, k)

    def rho(self, n: int, k: int) -> float:
        """ρ(n, k)."""
        found = self.members.get((n, k))
        return 0.0 if found is None else len(found) / self.draws(n, k)

    @property
    def rows(self) -> list[tuple[int, int, int, int]]:
        """n, k, |E(n, k)|, Q(n, k) of every cell that is not empty."""
        return [(n, k, len(found), self.draws(n, k)) for (n, k), found in sorted(self.members.items())]

    def distance(self, other: "RhoTable") -> float:
        """Mean squared difference over all cells with k ≤ n ≤ N, each table divided by its largest entry.

        Small between graphs of one domain, which is what the sampler relies on.
        """
        largest = max([*self.cliques, *other.cliques], default=0)
        tables = []
        for table in (self, other):
            values = np.array([table.rho(n, k) for n in range(1, largest + 1) for k in range(1, n + 1)])
            tables.append(values / max(values.max(initial=0.0), 1e-300))
        return float(np.mean((tables[0] - tables[1]) ** 2)) if largest else 0.0


@dataclass(frozen=True)
class Cell:
    """All k-subsets of a share `r` of the maximal cliques of size n.

    Args:
        n: size of the cliques.
        k: size of the subsets.
        r: share, in (0, 1]; below 1 only for the last cell that a budget allows.
    """

    n: int
    k: int
    r: float


@dataclass(frozen=True)
class Candidates:
    """What a classifier has to decide on.

    Args:
        sets: all maximal cliques and the sampled subsets, in lexicographic order.
        maximal: `[candidates]`, whether it is a maximal clique.
        parents: `[candidates]`, in how many drawn cliques the sampler met it; 0 if it met it in none.
    """

    sets: Hypergraph
    maximal: NDArray[np.bool_]
    parents: Ints

    def __len__(self) -> int:
        return len(self.maximal)


@dataclass(frozen=True)
class CliqueSampler:
    """Which subsets of which maximal cliques become candidates; found on a source, used on any graph.

    Args:
        cells: in the order in which they were chosen.
    """

    cells: tuple[Cell, ...] = ()

    @classmethod
    def fit(cls, table: RhoTable, hyperedges: int, budget: int, max_cells: int | None = None) -> Self:
        """Greedy choice of cells: always the one with most new hyperedges per drawn subset, until the budget is spent.

        Gains are compared as fractions, so ties are ties: the larger k wins, then the smaller n.

        Args:
            table: of the source.
            hyperedges: number of hyperedges of the source.
            budget: β, number of subsets to draw on the source.
            max_cells: stop after this many.

        Raises:
            ConfigError: a negative budget.
        """
        if budget < 0:
            raise ConfigError(f"budget {budget}: expected a number of subsets to draw, at least 0")
        collected = np.zeros(hyperedges, dtype=bool)
        open_cells = sorted(table.members, key=lambda cell: (-cell[1], cell[0]))
        fresh = {cell: len(table.members[cell]) for cell in open_cells}
        cells: list[Cell] = []
        left = budget
        while left > 0 and open_cells and (max_cells is None or len(cells) < max_cells):
            best = max(open_cells, key=lambda cell: Fraction(fresh[cell], table.draws(*cell)))  # first of equals
            if fresh[best] == 0:
                break
            draws = table.draws(*best)
            cells.append(Cell(*best, min(left, draws) / draws))
            collected[table.members[best]] = True
            left -= draws
            open_cells.remove(best)
            for cell in open_cells:
                if cell[1] == best[1]:
                    fresh[cell] = int((~collected[table.members[cell]]).sum())
        return cls(tuple(cells))

    @classmethod
    def every(cls, cliques: Hypergraph, largest: int) -> Self:
        """A sampler that takes all subsets of up to `largest` nodes of cliques as large as these."""
        sizes = np.unique(cliques.sizes).tolist()
        return cls(tuple(Cell(n, k, 1.0) for n in sizes for k in range(1, min(n - 1, largest) + 1)))

    def draws(self, cliques: Hypergraph) -> int:
        """Number of subsets that `candidates` draws, repeated ones counted."""
        count = np.bincount(cliques.sizes, minlength=1)
        sizes = [int(count[cell.n]) if cell.n < len(count) else 0 for cell in self.cells]
        return sum(int(n * cell.r) * comb(cell.n, cell.k) for n, cell in zip(sizes, self.cells, strict=True))

    def candidates(self, cliques: Hypergraph, seed: int | None = 0) -> Candidates:
        """Maximal cliques and sampled subsets of a graph.

        Args:
            cliques: its maximal cliques.
            seed: decides which cliques a cell with r < 1 takes; None takes the first ones in order.

        Raises:
            DataError: the subsets don't fit into memory.
        """
        count = self.draws(cliques)
        widest = max((cell.k for cell in self.cells), default=0)
        require_memory(8 * (2 * widest + 4) * count, f"{count:,} sampled cliques")
        by_size: dict[int, list[Ints]] = {}
        sizes = cliques.sizes
        for cell in self.cells:
            where = np.flatnonzero(sizes == cell.n)
            count = int(len(where) * cell.r)
            if count < len(where) and seed is not None:
                generator = np.random.default_rng([seed, cell.n, cell.k])
                where = np.sort(generator.choice(where, size=count, replace=False))
            where = where[:count]
            if len(where) == 0:
                continue
            rows = cliques.nodes[ragged(cliques.ptr[where], sizes[where])].reshape(-1, cell.n)
            by_size.setdefault(cell.k, []).append(_subsets(rows, cell.k))
        empty = Hypergraph.from_sets([], cliques.num_nodes, labels=cliques.labels)
        drawn = empty.union(*(_family(np.concatenate(parts), cliques.num_nodes) for parts in by_size.values()))
        sets = cliques.simple().union(drawn)
        maximal = cliques.contains(sets)
        met = drawn.positions(sets)
        parents = np.where(met >= 0, drawn.multiplicity[met] if len(drawn) else 0, 0)
        return Candidates(sets.simple(), maximal, parents)


def _subsets(rows: Ints, k: int) -> Ints:
    """All k-subsets of each row, `[rows · binom(n, k), k]`."""
    n = rows.shape[1]
    if comb(n, k) * len(rows) > 500_000_000:
        raise DataError(f"{len(rows):,} cliques of {n} nodes have too many subsets of {k}: lower the budget")
    chosen = np.fromiter((i for row in combinations(range(n), k) for i in row), dtype=np.int64).reshape(-1, k)
    return rows[:, chosen].reshape(-1, k)


def _family(rows: Ints, num_nodes: int) -> Hypergraph:
    """Distinct rows of equal size with the number of times that each occurs."""
    count, k = rows.shape
    bits = max(num_nodes - 1, 1).bit_length()
    ptr = np.arange(0, (count + 1) * k, k)
    if bits * k > 63:
        return Hypergraph.from_rows(ptr, rows.reshape(-1), num_nodes)
    keys = np.zeros(count, dtype=np.int64)
    for column in range(k):
        keys = (keys << bits) | rows[:, column]
    _, first, times = np.unique(keys, return_index=True, return_counts=True)
    kept = rows[first]
    ptr = np.arange(0, (len(kept) + 1) * k, k)
    return Hypergraph(num_nodes, ptr, kept.reshape(-1), times.astype(np.int64))
