"""Hypergraph reconstruction on hypergraphs that are split into a source and a query half, beside all baselines.

    OMP_NUM_THREADS=1 python scripts/benchmarks/hypergraphs.py FOLDER --select [--log DIRECTORY]
    OMP_NUM_THREADS=1 python scripts/benchmarks/hypergraphs.py FOLDER [--sets enron crime] [--methods SHyRe ...]
    OMP_NUM_THREADS=1 python scripts/benchmarks/hypergraphs.py FOLDER --transfer
    OMP_NUM_THREADS=1 python scripts/benchmarks/hypergraphs.py FOLDER --calibration [--figure FILE.svg]

FOLDER/<name>/{train,test}.txt hold one hyperedge a line. --select chooses the settings of SHyRe for each set by halves
of train.txt that reconstruct one another and writes them to hypergraph_settings.json beside this script; it reads no
other file, and goes on where it was cut off if it has a log. The other commands fit to the whole of train.txt with the
settings found there and compare with test.txt. `published` is the published system: its own budgets, p > 0.5, one
perceptron a head. `coauthors` is made up (`geomlib.testing.hypergraphs`), the only set with many repeated hyperedges.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import lightning
import numpy as np
import torch

from geomlib.apply.hyperedge_baselines import cfinder_fitted, clique_cover, demon, max_cliques
from geomlib.apply.hyperedge_mdl import bayesian_mdl, description_length
from geomlib.apply.marioh import fit_scorer, reconstruct_weighted
from geomlib.apply.reconstruct import reconstruct
from geomlib.data.hypergraph_metrics import Agreement, agreement
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.module import GraphDataModule
from geomlib.data.stores import MemoryStore
from geomlib.graphs.cliques import maximal_cliques
from geomlib.models.shyre.calibration import HeldOut, Reliability, reliability
from geomlib.models.shyre.net import SHyRe
from geomlib.models.shyre.sampler import RhoTable
from geomlib.tasks.hyperedges import HyperedgeTask
from geomlib.testing.hypergraphs import coauthors
from geomlib.training.hyperedge_selection import select_settings
from geomlib.training.hyperedge_settings import HyperedgeSettings, fit_known, fit_source, snapshots

SETTINGS = Path(__file__).with_name("hypergraph_settings.json")
SETS = ("enron", "crime", "directors", "school2")
SPLITS = {"crime": 4, "school2": 1}
"""How often the source is halved; 2 if not named."""

PUBLISHED = {"enron": 1_000, "crime": 1_000, "directors": 800, "school2": 60_000}
"""Budgets of the published runs."""


class Domain:
    """Source and query of one set, and the nets fitted to the source.

    Args:
        name: of the folder, or `coauthors`.
        folder: of the sets.
        settings: of SHyRe.
    """

    def __init__(self, name: str, folder: Path, settings: HyperedgeSettings) -> None:
        self.name, self.folder, self.settings = name, folder, settings
        self.source, self.query = self._half("train"), self._half("test")
        self.graph = self.query.project()
        self.learned = cache(self._learn)

    def _half(self, half: str) -> Hypergraph:
        if self.name == "coauthors":
            return coauthors(1500, seed=1 + (half == "test"))
        return read_hyperedges(self.folder / self.name / f"{half}.txt")

    def _learn(self, seed: int) -> tuple[SHyRe, HeldOut]:
        """A net and what it says of held-out candidates of the source."""
        ((_, net, seen),) = snapshots(self.source, self.settings, [self.settings.steps], seed)
        return net, seen

    def fitted(self, seed: int, calibrate: bool | None = None) -> SHyRe:
        """A net, calibrated as the settings say or as told."""
        net, seen = self.learned(seed)
        net.settle(seen, self.settings.calibrate if calibrate is None else calibrate, self.settings.rule)
        return net

    def shyre(self, seed: int, graph: object = None, **options: object) -> Hypergraph:
        """The reconstruction of SHyRe, as its settings say."""
        options = {"cover": self.settings.cover, **options}
        return reconstruct(self.fitted(seed), self.graph if graph is None else graph, **options).hypergraph

    def relabelled(self, seed: int) -> Hypergraph:
        """SHyRe on the query with its nodes renumbered at random."""
        order = np.random.default_rng(100 + seed).permutation(self.query.num_nodes)
        found = self.shyre(seed, self.query.relabelled(order).project())
        return found.relabelled(np.argsort(order))

    def few(self, share: float) -> Callable[[int], Hypergraph]:
        """Trained on a share of the source."""

        def run(seed: int) -> Hypergraph:
            net = fit_source(self.source.sample(share, seed), self.settings, seed)
            return reconstruct(net, self.graph, cover=self.settings.cover).hypergraph

        return run

    def known(self, share: float) -> Callable[[int], Hypergraph]:
        """Trained on a share of the query's own hyperedges, which are part of the result; no source."""

        def run(seed: int) -> Hypergraph:
            rows = np.sort(np.random.default_rng(seed).permutation(len(self.query))[: round(share * len(self.query))])
            known = self.query.take(rows).simple()
            net = fit_known(self.graph, known, self.settings, share, seed)
            return reconstruct(net, self.graph, cover=self.settings.cover, known=known).hypergraph

        return run

    def published(self, kind: str) -> Callable[[int], Hypergraph]:
        """The published system with count or motif features."""

        def run(seed: int) -> Hypergraph:
            lightning.seed_everything(seed, verbose=False)
            net = SHyRe.published(kind, PUBLISHED.get(self.name, 4 * len(self.source)))
            task = HyperedgeTask(
                net,
                optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-4),
                folds=1,
                rule="half",
                batch_candidates=200,
                seed=seed,
            )
            data = GraphDataModule(MemoryStore([self.source.to_data()], "source"), batch_size=1)
            trainer = lightning.Trainer(
                max_epochs=1500,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                accelerator="cpu",
                use_distributed_sampler=False,
            )
            trainer.fit(task, data)
            return reconstruct(net.eval().requires_grad_(False), self.graph).hypergraph

        return run

    def weighted(self, seed: int) -> Hypergraph:
        """From the weighted projection, in the manner of MARIOH."""
        scorer = fit_scorer(self.source, seed=seed)
        return reconstruct_weighted(scorer, self.query.project(weighted=True), seed=seed)

    def proven(self, seed: int) -> Hypergraph:
        """SHyRe, and the pairs that the weights prove."""
        return self.shyre(seed, self.query.project(weighted=True), weighted="peel")

    def methods(self) -> dict[str, tuple[Callable[[int], Hypergraph], bool]]:
        """Name → reconstruction with a seed, and whether the seed matters."""
        graph = self.graph
        return {
            "max cliques": (lambda seed: max_cliques(graph), False),
            "clique cover": (lambda seed: clique_cover(graph, seed=seed), True),
            "CFinder": (lambda seed: cfinder_fitted(self.source, graph), False),
            "Demon": (lambda seed: demon(graph, seed=seed), True),
            "Bayesian-MDL": (lambda seed: bayesian_mdl(graph, 50, seed), True),
            "published count": (self.published("count"), True),
            "published motif": (self.published("motif"), True),
            "SHyRe": (self.shyre, True),
            "SHyRe, relabelled": (self.relabelled, True),
            "SHyRe, other cover": (lambda seed: self.shyre(seed, cover=not self.settings.cover), True),
            "20 % of the source": (self.few(0.2), True),
            "10 % of the source": (self.few(0.1), True),
            "20 % of the query": (self.known(0.2), True),
            "10 % of the query": (self.known(0.1), True),
            "SHyRe, proven pairs": (self.proven, True),
            "with multiplicities": (self.weighted, True),
        }


def select(folder: Path, names: list[str], log: Path | None, chosen: dict[str, dict]) -> None:
    """Choose the settings of each set on its source, and write them down."""
    for name in names:
        source = read_hyperedges(folder / name / "train.txt")
        file = None if log is None else log / f"{name}.jsonl"
        begin = time.process_time()
        found = select_settings(source, splits=SPLITS.get(name, 2), file=file)
        best = found.trials[0]
        scores = [round(100 * score, 2) for score in best.scores]
        budgets = {str(budget): round(100 * score, 2) for budget, score in found.budgets}
        print(f"{name:<10} {100 * best.mean:6.2f}  {scores}  {time.process_time() - begin:.0f} s CPU  {found.settings}")
        print(f"{'':<10} budgets on the whole source: {budgets}", flush=True)
        chosen[name] = {"settings": found.settings.to_dict(), "halves": scores, "whole": budgets}
        SETTINGS.write_text(json.dumps(chosen, indent=1) + "\n")


def table(domains: dict[str, Domain], seeds: list[int], wanted: list[str] | None) -> dict[str, dict[str, list[dict]]]:
    """Print a line for every set and method."""
    rows: dict[str, dict[str, list[dict]]] = {}
    for name, domain in domains.items():
        methods = domain.methods()
        for method in wanted or methods:
            run, random = methods[method]
            begin = time.process_time()
            found = [run(seed) for seed in (seeds if random else seeds[:1])]
            seconds = time.process_time() - begin
            scores: list[Agreement] = [agreement(domain.query, each) for each in found]
            rows.setdefault(method, {})[name] = [score.to_dict() for score in scores]
            values = [100 * score.jaccard for score in scores]
            line = (
                f"{name:<10} {method:<20} {np.mean(values):6.2f}  ({' '.join(f'{value:.2f}' for value in values)})  "
                f"multi-Jaccard {100 * np.mean([score.multi_jaccard for score in scores]):6.2f}  "
                f"precision {np.mean([score.precision for score in scores]):.3f} "
                f"recall {np.mean([score.recall for score in scores]):.3f}  {seconds:6.1f} s CPU"
            )
            if method in ("clique cover", "Bayesian-MDL"):
                lengths = [description_length(each, domain.graph) for each in (found[0], domain.query.simple())]
                line += f"  description length {lengths[0]:.0f} nats, of the truth {lengths[1]:.0f}"
            print(line, flush=True)
    return rows


def transfer(domains: dict[str, Domain], seeds: list[int]) -> None:
    """Nets of every source on every query, and how far the ρ of the sources are apart."""
    tables = {name: RhoTable.of(d.source, maximal_cliques(d.source.project())) for name, d in domains.items()}
    for name, domain in domains.items():
        for other, target in domains.items():
            scores = [100 * agreement(target.query, domain.shyre(seed, target.graph)).jaccard for seed in seeds]
            apart = tables[name].distance(tables[other])
            shown = " ".join(f"{score:.2f}" for score in scores)
            print(
                f"{name:<10} -> {other:<10} {np.mean(scores):6.2f}  ({shown})  distance of rho {apart:.4f}", flush=True
            )


def calibration(domains: dict[str, Domain], seeds: list[int], figure: Path | None) -> None:
    """Calibration error of the candidates' probabilities on the queries, as chosen and the other way round."""
    curves: dict[str, tuple[Reliability, Reliability]] = {}
    for name, domain in domains.items():
        errors = np.zeros((len(seeds), 2))
        for row, seed in enumerate(seeds):
            pair = []
            for column, calibrate in enumerate((False, True)):
                found = reconstruct(domain.fitted(seed, calibrate), domain.graph)
                pair.append(reliability(found.candidate_probability, domain.query.contains(found.candidates)))
                errors[row, column] = pair[-1].error
            if row == 0:
                curves[name] = (pair[0], pair[1])
        plain, fitted = errors.mean(axis=0)
        print(f"{name:<10} ECE {plain:.4f} without, {fitted:.4f} with calibration; chosen: {domain.settings.calibrate}")
        for label, curve in zip(("without", "with"), curves[name], strict=True):
            bins = zip(curve.chance, curve.frequency, curve.count, strict=True)
            print(f"  {label:<8}" + " ".join(f"{p:.2f}/{f:.2f} ({n})" for p, f, n in bins if n), flush=True)
    if figure is not None:
        draw(curves, figure)


def draw(curves: dict[str, tuple[Reliability, Reliability]], file: Path) -> None:
    """Reliability of each set: frequency over probability, with and without calibration."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(curves), figsize=(2.9 * len(curves), 3.1), sharey=True, squeeze=False)
    for ax, (name, pair) in zip(axes[0], curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="0.75", linewidth=1)
        for curve, label, color in zip(pair, ("as they are", "calibrated"), ("tab:blue", "tab:orange"), strict=True):
            filled = curve.count >= 10
            ax.plot(curve.chance[filled], curve.frequency[filled], "o-", markersize=4, color=color, label=label)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", title=name, aspect="equal")
    axes[0][0].set_ylabel("share that are hyperedges")
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    fig.tight_layout()
    fig.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="rows to show; all if not given")
    parser.add_argument("--select", action="store_true", help="choose the settings on the sources")
    parser.add_argument("--log", type=Path, metavar="DIRECTORY", help="where the selection notes its fits")
    parser.add_argument("--transfer", action="store_true", help="every source on every query")
    parser.add_argument("--calibration", action="store_true", help="calibration error of the probabilities")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the calibration")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    chosen = json.loads(SETTINGS.read_text()) if SETTINGS.exists() else {}
    if args.select:
        select(args.folder, args.sets, args.log, chosen)
        return
    domains = {}
    for name in args.sets:
        values = chosen.get(name, {}).get("settings", {})
        settings = HyperedgeSettings(**{**values, "hidden": tuple(values.get("hidden", (64, 64)))})
        domains[name] = Domain(name, args.folder, settings)
    if args.transfer:
        transfer(domains, args.seeds)
    if args.calibration:
        calibration(domains, args.seeds, args.figure)
    if args.methods or not (args.transfer or args.calibration):
        rows = table(domains, args.seeds, args.methods)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
