"""Made-up hypergraphs of co-authors, small or as large as a bibliography, for tests, benchmarks and a data set."""

import numpy as np

from geomlib.data.hypergraphs import Hypergraph

__all__ = ["SIZES", "coauthors"]

SIZES = (0.16, 0.30, 0.26, 0.145, 0.07, 0.032, 0.015, 0.008, 0.004, 0.002, 0.001, 0.001, 0.001, 0.0005, 0.0005)
"""Shares of papers with 1, 2, … authors."""


def coauthors(papers: int, seed: int = 0, newcomers: float = 0.49, again: float = 0.4) -> Hypergraph:
    """Papers of groups whose members come and go, as a hypergraph of authors.

    There is a group for every 6 papers, with weights from a log-normal distribution. A paper picks a group and a
    number of authors (`SIZES`). With chance `again` it starts from a random part of the team of an earlier paper of
    the group, so that papers nest. Every further author is a newcomer with chance `newcomers`, else one of the group,
    in proportion to the papers that they have (Simon's model); 3 in 100 of those are guests from any group. 200,000
    papers give about 320,000 authors and 720,000 pairs of co-authors, much like DBLP of one year.

    Args:
        papers: number of papers; equal teams become one hyperedge with a multiplicity.
        seed: of everything.
        newcomers: see above.
        again: see above.
    """
    rng = np.random.default_rng(seed)
    groups = max(1, papers // 6)
    weight = rng.lognormal(0.0, 1.0, groups)
    group_of = rng.choice(groups, papers, p=weight / weight.sum()).tolist()
    size_of = (1 + rng.choice(len(SIZES), papers, p=np.array(SIZES) / sum(SIZES))).tolist()
    repeats = (rng.random(papers) < again).tolist()
    draws = rng.random((papers, 8 + 2 * len(SIZES)))
    members: list[list[int]] = [[] for _ in range(groups)]
    teams: list[list[list[int]]] = [[] for _ in range(groups)]
    everyone: list[int] = []
    found: list[list[int]] = []
    authors = 0
    for paper in range(papers):
        group, size, chance = group_of[paper], size_of[paper], draws[paper].tolist()
        team: list[int] = []
        if repeats[paper] and teams[group]:
            earlier = teams[group][int(chance[0] * len(teams[group]))]
            kept = min(size, 1 + int(chance[1] * len(earlier)))
            begin = int(chance[2] * len(earlier))
            team = [earlier[(begin + k) % len(earlier)] for k in range(kept)]
        for k in range(len(team), size):
            new, which = chance[3 + 2 * k], chance[4 + 2 * k]
            pool = everyone if chance[3] < 0.03 and everyone else members[group]
            author = pool[int(which * len(pool))] if pool and new >= newcomers else -1
            if author < 0 or author in team:
                author = authors
                authors += 1
            team.append(author)
        members[group] += team
        everyone += team
        teams[group].append(team)
        found.append(team)
    return Hypergraph.from_sets(found, authors)
