r"""Choose the settings of a SHyRe model for a file of hyperedges, by that file alone, and write them as a recipe part.

    python scripts/select_hyperedges.py groups.txt chosen.yaml [--log FILE] [--splits 2]
    geomlib fit -c shyre/one-source -c chosen.yaml --data.store.init_args.path groups.txt \
        --data.val_store.init_args.path groups.txt

Halves of the hyperedges reconstruct one another; see `geomlib.training.hyperedge_selection`. With --log a run that was
cut off goes on where it stopped.
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import torch
import yaml

from geomlib.data.hypergraphs import read_hyperedges
from geomlib.training.hyperedge_selection import select_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="one hyperedge a line")
    parser.add_argument("out", type=Path, help="part of a recipe to write (.yaml)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where every fit is noted (.jsonl)")
    parser.add_argument("--splits", type=int, default=2, help="times that the source is halved (2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("geomlib.training").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    source = read_hyperedges(args.source)
    begin = time.process_time()
    found = select_settings(source, splits=args.splits, seed=args.seed, file=args.log)
    best = found.trials[0]
    recipe = yaml.safe_dump(found.settings.to_recipe(len(source)), sort_keys=False)
    scores = " ".join(f"{100 * score:.2f}" for score in best.scores)
    head = f"# Chosen by halves of {args.source.name} reconstructing one another: Jaccard x 100 {scores}.\n"
    if found.settings.cover:
        head += "# Reconstruct with --cover.\n"
    args.out.write_text(head + recipe)
    for trial in found.trials[:5]:
        print(f"{100 * trial.mean:6.2f}  {trial.settings}")
    print(f"{len(found.trials)} choices tried, {time.process_time() - begin:.0f} s CPU; wrote {args.out}")


if __name__ == "__main__":
    main()
