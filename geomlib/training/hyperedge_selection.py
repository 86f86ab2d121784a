"""Choose the settings of a SHyRe net on its source alone: learn from one half, reconstruct the other."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraphs import Hypergraph
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.models.shyre.calibration import HeldOut
from geomlib.models.shyre.consistency import chosen_sets
from geomlib.models.shyre.net import SHyRe, candidate_sets
from geomlib.training.hyperedge_settings import HyperedgeSettings, snapshots

__all__ = ["GRID", "Selection", "halves", "select_settings"]

log = logging.getLogger(__name__)

GRID: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 3e-3, 1e-2),
    "budget": (2.0, 5.0, 15.0, 50.0),
    "features": ("all", "count+structure", "count"),
    "dropout": (0.0, 0.1, 0.3),
    "hidden": ((64, 64), (100,)),
    "members": (10, 20),
    "cover_candidates": (False, True),
    "steps": (25, 50, 100),
    "calibrate": (True, False),
    "rule": ("expected", "half"),
    "cover": (False, True),
}
"""Setting → values to try, in the order in which they are settled; of equals the first one stays."""

_FREE = ("steps", "calibrate", "rule", "cover")
"""Settings whose values are all scored from one fit."""

Free = tuple[int, bool, Any, bool]


@dataclass(frozen=True)
class Trial:
    """Scores of one choice, over all splits and directions.

    Args:
        settings: the choice.
        scores: Jaccard index of each reconstruction.
    """

    settings: HyperedgeSettings
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean Jaccard index."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Selection:
    """What `select_settings` found.

    Args:
        settings: the choice.
        trials: everything that was tried on halves, best first.
        budgets: budgets tried on the whole source, with the Jaccard index that held-out members reach there.
    """

    settings: HyperedgeSettings
    trials: tuple[Trial, ...]
    budgets: tuple[tuple[float, float], ...]


def halves(source: Hypergraph, seed: int = 0) -> tuple[Hypergraph, Hypergraph]:
    """Two random halves of the hyperedges, each on the nodes that it holds; repeated hyperedges may be in both.

    Raises:
        DataError: fewer than two hyperedges.
    """
    which = np.repeat(np.arange(len(source)), source.multiplicity)
    if len(which) < 2:
        raise DataError("the source has fewer than two hyperedges: it can't be halved")
    order = np.random.default_rng(seed).permutation(len(which))
    parts = []
    for rows in (order[: len(order) // 2], order[len(order) // 2 :]):
        kept, times = np.unique(which[rows], return_counts=True)
        part = source.take(kept)
        parts.append(replace(part, multiplicity=times.astype(np.int64)).compacted())
    return parts[0], parts[1]


def _scores(
    net: SHyRe, seen: HeldOut, query: Hypergraph, values: Mapping[str, torch.Tensor], step: int, grid: Mapping[str, Any]
) -> dict[Free, float]:
    """Jaccard index of the reconstructions of a query that one net gives with all free settings."""
    graph, maximal = query.project(), values["candidate_maximal"]
    with torch.no_grad():
        raw = net.probability(values["candidate_features"], maximal)
    sets = candidate_sets(values["candidate_index"], len(maximal), graph.num_nodes)
    found = {}
    for calibrate, rule in product(grid["calibrate"], grid["rule"]):
        net.settle(seen, calibrate, rule)
        chance = net.calibrated(raw, maximal).double().numpy()
        for cover in grid["cover"]:
            chosen = chosen_sets(graph, sets, chance, float(net.threshold), cover)
            found[step, calibrate, rule, cover] = agreement(query, sets.take(chosen)).jaccard
    return found


class _Trials:
    """Runs fits, each once, and remembers their scores in a file."""

    def __init__(
        self, source: Hypergraph, grid: Mapping[str, Sequence[Any]], splits: int, seed: int, file: Path | None
    ) -> None:
        self.whole, self.grid, self.file = source, grid, file
        self.pairs = [pair for split in range(splits) for pair in _both_ways(halves(source, seed + split))]
        self.seed = seed
        digest = hashlib.sha256(source.ptr.tobytes() + source.nodes.tobytes() + source.multiplicity.tobytes())
        self.source = {"source": digest.hexdigest()[:16], "seed": seed}
        self.free: list[Free] = list(product(*(grid[name] for name in _FREE)))
        self.done: dict[str, dict[Free, float]] = {}
        if file is not None and file.exists():
            self._read(file)

    def _read(self, file: Path) -> None:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                scores = {(int(a), bool(b), str(c), bool(d)): float(e) for a, b, c, d, e in row["scores"]}
                self.done.setdefault(row["key"], {}).update(scores)
            except (ValueError, KeyError, TypeError) as error:
                raise FileFormatError(f"{file}:{number}: no line of a selection; remove it to start anew") from error

    def _fit(self, settings: HyperedgeSettings, pair: int) -> dict[Free, float]:
        trained = {name: value for name, value in settings.to_dict().items() if name not in _FREE}
        key = json.dumps({**self.source, **trained, "pair": pair}, sort_keys=True)
        if not set(self.free) <= set(self.done.get(key, {})):
            begin = time.process_time()
            known, query = self.pairs[pair]
            rows: dict[Free, float] = {}
            values: dict[str, torch.Tensor] | None = None
            for step, net, seen in snapshots(known, settings, self.grid["steps"], self.seed + pair):
                if values is None:
                    values = net.prepare(net.spec.build(query.to_data()))
                rows |= _scores(net, seen, query, values, step, self.grid)
            self._note(key, rows, begin)
        return self.done[key]

    def _note(self, key: str, rows: dict[Free, float], begin: float) -> None:
        self.done[key] = rows
        if self.file is not None:
            seconds = round(time.process_time() - begin, 2)
            line = {"key": key, "scores": [[*free, score] for free, score in rows.items()], "seconds": seconds}
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")

    def held_out(self, settings: HyperedgeSettings) -> float:
        """Jaccard index on the whole source, each candidate judged by members that were not trained on it."""
        free: Free = (settings.steps, settings.calibrate, settings.rule, settings.cover)
        key = json.dumps({**self.source, **settings.to_dict(), "pair": "whole"}, sort_keys=True)
        if key not in self.done:
            begin = time.process_time()
            ((_, net, seen),) = snapshots(self.whole, settings, [settings.steps], self.seed)
            net.settle(seen, settings.calibrate, settings.rule)
            chance = net.calibrated(seen.chance, seen.maximal).double().numpy()
            sets = net.candidates_of(net.spec.build(self.whole.to_data())).sets
            chosen = chosen_sets(self.whole.project(), sets, chance, float(net.threshold), settings.cover)
            self._note(key, {free: agreement(self.whole, sets.take(chosen)).jaccard}, begin)
        return self.done[key][free]

    def of(self, settings: HyperedgeSettings) -> list[Trial]:
        """Trials of one choice of the trained settings with all free ones."""
        rows = [self._fit(settings, pair) for pair in range(len(self.pairs))]
        trials = []
        for free in self.free:
            step, calibrate, rule, cover = free
            choice = replace(settings, steps=step, calibrate=calibrate, rule=rule, cover=cover)
            trials.append(Trial(choice, tuple(row[free] for row in rows)))
        return trials


def _both_ways(pair: tuple[Hypergraph, Hypergraph]) -> list[tuple[Hypergraph, Hypergraph]]:
    return [pair, pair[::-1]]


def select_settings(
    source: Hypergraph,
    grid: Mapping[str, Sequence[Any]] | None = None,
    splits: int = 2,
    seed: int = 0,
    file: str | Path | None = None,
) -> Selection:
    """Settings with the best mean Jaccard index when halves of the source reconstruct one another.

    The source's hyperedges are halved at random, `splits` times; a net learns from either half and reconstructs the
    projection of the other. Settings are settled one after another in the order of the grid, each with those before
    at their best and those after at the default of `HyperedgeSettings` (the first value where that is not in the
    grid); number of steps, calibration, threshold rule and cover are scored from the same fits and stay open to the
    end. A choice without errors ends the search.

    Halves are sparser than the source: their cliques are smaller and have fewer subsets, so that a budget which takes
    all of them there may miss many hyperedges of the whole. The budget is therefore settled once more, last of all, on
    the whole source, by the Jaccard index of members on candidates that they were not trained on.

    Nothing but the source is looked at.

    Args:
        source: hypergraph of the domain.
        grid: setting → values, for some of the settings; `GRID` for the rest.
        splits: times that the source is halved; each gives two fits a choice.
        seed: of halves and fits.
        file: where every fit is noted as a line of JSON; a selection that was cut off goes on from there.

    Raises:
        ConfigError: an unknown setting, or one without values.
        DataError: a source that can't be halved.
        FileFormatError: a file that is none of these.
    """
    values = {**GRID, **(grid or {})}
    if unknown := sorted(set(values) - set(GRID)):
        raise ConfigError(f"setting '{unknown[0]}': expected one of {', '.join(GRID)}")
    if empty := [name for name in GRID if not values[name]] or splits < 1:
        raise ConfigError(f"nothing to try for {empty} in {splits} splits: give at least one of each")
    trials = _Trials(source, values, splits, seed, None if file is None else Path(file))
    usual = HyperedgeSettings()
    begin = {name: getattr(usual, name) for name in GRID}
    current = HyperedgeSettings(
        **{name: begin[name] if begin[name] in values[name] else values[name][0] for name in GRID}
    )
    best: Trial | None = None
    seen: dict[HyperedgeSettings, Trial] = {}
    for name in GRID:
        if name in _FREE or (best is not None and best.mean == 1.0):  # nothing left to gain
            continue
        for value in values[name]:
            for trial in trials.of(replace(current, **{name: value})):
                seen.setdefault(trial.settings, trial)
                if best is None or trial.mean > best.mean:
                    best = trial
        assert best is not None
        current = best.settings
        log.info("%s: %s (Jaccard %.4f on the other half)", name, getattr(current, name), best.mean)
    budgets: list[tuple[float, float]] = []
    if best is not None and best.mean < 1.0:
        budgets = [(value, trials.held_out(replace(current, budget=value))) for value in values["budget"]]
        budget, score = max(budgets, key=lambda row: row[1])
        log.info("budget on the whole source: %s (Jaccard %.4f on held-out candidates)", budget, score)
        current = replace(current, budget=budget)
    ranked = sorted(seen.values(), key=lambda trial: -trial.mean)
    return Selection(current, tuple(ranked), tuple(budgets))
