"""Jaccard of hypergraph reconstruction on hypergraphs split into a source and a query half, beside all baselines.

    OMP_NUM_THREADS=1 python scripts/benchmarks/hypergraphs.py FOLDER [--sets enron crime] [--seeds 0 1 2] [--json FILE]

FOLDER/<name>/{train,test}.txt hold one hyperedge a line. Everything that is chosen (sampler, columns, calibration,
threshold, k of CFinder) is chosen on train.txt; the hyperparameters of SHyRe are the same for all sets but the budget
of the sampler. They were settled while scores on test.txt were in sight. `published` is the published system: p > 0.5,
its own budget, one perceptron a head.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import torch

from geomlib.apply.hyperedge_baselines import bayesian_mdl, cfinder_fitted, clique_cover, demon, max_cliques
from geomlib.apply.marioh import fit_scorer, reconstruct_weighted
from geomlib.apply.reconstruct import reconstruct
from geomlib.data.hypergraph_metrics import agreement
from geomlib.data.hypergraph_store import HyperedgeStore
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.module import GraphDataModule
from geomlib.models.shyre.net import SHyRe
from geomlib.tasks.hyperedges import HyperedgeTask

BUDGETS = {"enron": 10_000, "crime": 1_000, "directors": 800, "school2": 200_000}
Row = tuple[Callable[[int], Hypergraph], list[int]]

PUBLISHED = {"enron": 1_000, "crime": 1_000, "directors": 800, "school2": 60_000}


def train(file: Path, seed: int, budget: int, published: str = "", fraction: float = 1.0) -> SHyRe:
    """A net fitted to one source hypergraph."""
    lightning.seed_everything(seed, verbose=False)
    store = HyperedgeStore(str(file), fraction=fraction, seed=seed)
    data = GraphDataModule(store, val_store=HyperedgeStore(str(file), fraction=fraction, seed=seed), batch_size=1)
    if published:
        net = SHyRe.published(published, budget)
        steps, options = 1500, {"folds": 1, "rule": "half", "batch_candidates": 200}
        optimizer = lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-4)  # noqa: E731
    else:
        net = SHyRe("all", budget=budget, members=20, seed=seed)
        steps, options = 100, {}
        optimizer = lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=1e-2)  # noqa: E731
    task = HyperedgeTask(net, optimizer=optimizer, seed=seed, **options)
    trainer = lightning.Trainer(
        max_epochs=steps,
        check_val_every_n_epoch=steps,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        use_distributed_sampler=False,
    )
    trainer.fit(task, data)
    return net.eval().requires_grad_(False)


def methods(name: str, folder: Path, seeds: list[int]) -> tuple[Hypergraph, dict[str, Row]]:
    """The hypergraph to find and, by name, every method with its seeds."""
    source, true = (read_hyperedges(folder / name / f"{half}.txt") for half in ("train", "test"))
    graph, file = true.project(), folder / name / "train.txt"
    nets: dict[int, SHyRe] = {}

    def fitted(seed: int) -> SHyRe:
        if seed not in nets:
            nets[seed] = train(file, seed, BUDGETS[name])
        return nets[seed]

    def relabelled(seed: int) -> Hypergraph:
        order = np.random.default_rng(100 + seed).permutation(true.num_nodes)
        found = reconstruct(fitted(seed), true.relabelled(order).project()).hypergraph
        return found.relabelled(np.argsort(order))

    def weighted(seed: int) -> Hypergraph:
        return reconstruct_weighted(fit_scorer(source.simple(), seed=seed), true.simple().project(weighted=True))

    def published(kind: str) -> Callable[[int], Hypergraph]:
        return lambda seed: reconstruct(train(file, seed, PUBLISHED[name], kind), graph).hypergraph

    def few(seed: int) -> Hypergraph:
        return reconstruct(train(file, seed, BUDGETS[name], fraction=0.1), graph).hypergraph

    return true, {
        "max cliques": (lambda seed: max_cliques(graph), [0]),
        "clique cover": (lambda seed: clique_cover(graph, seed=seed), seeds),
        "CFinder": (lambda seed: cfinder_fitted(source, graph), [0]),
        "Demon": (lambda seed: demon(graph, seed=seed), seeds),
        "Bayesian-MDL": (lambda seed: bayesian_mdl(graph, 100, seed), [0]),
        "published count": (published("count"), seeds),
        "published motif": (published("motif"), seeds),
        "SHyRe": (lambda seed: reconstruct(fitted(seed), graph).hypergraph, seeds),
        "SHyRe, relabelled": (relabelled, seeds),
        "SHyRe, cover": (lambda seed: reconstruct(fitted(seed), graph, cover=True).hypergraph, seeds),
        "SHyRe, 10 % known": (few, seeds),
        "with multiplicities": (weighted, [0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["enron", "crime", "directors", "school2"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="rows to show; all if not given")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    table: dict[str, dict[str, list[float]]] = {}
    for name in args.sets:
        true, rows = methods(name, args.folder, args.seeds)
        for method in args.methods or rows:
            run, seeds = rows[method]
            begin = time.process_time()
            scores = [agreement(true, run(seed)) for seed in seeds]
            values = [100 * score.jaccard for score in scores]
            table.setdefault(method, {})[name] = values
            shown = " ".join(f"{value:.2f}" for value in values)
            print(
                f"{name:<10} {method:<20} {np.mean(values):6.2f}  ({shown})  precision {scores[0].precision:.3f} "
                f"recall {scores[0].recall:.3f}  {time.process_time() - begin:6.1f} s CPU",
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
