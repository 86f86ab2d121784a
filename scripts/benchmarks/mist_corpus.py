"""Texts for the recipes recipes/mist/pretrain-*.yaml from files of SMILES and tables that nets will be tested on.

    python scripts/benchmarks/mist_corpus.py data --text ../shared/data/zinc_smiles/*.smi.gz --tables \
        ../shared/data/molnet/*.csv.gz ../shared/data/olfaction/*.csv.gz ../shared/data/qm9/*.csv.gz \
        ../shared/data/mixture_binary/*.csv.gz

writes data/zinc_smiles/train.smi and val.smi (2 % of the molecules, drawn with seed 0) and data/downstream.smi: the
canonical SMILES of every molecule of the tables, of all parts, and of the largest fragment of those that are salts or
solvates. The training leaves these out (`data.exclude`); the counts are printed.
"""

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np

from geomlib.data.molecules import canonical_smiles, parse_molecule
from geomlib.data.text_stream import LineStream
from geomlib.errors import DataError

SHARE, SEED = 0.02, 0


def molecules_of(path: Path) -> set[str]:
    """Canonical SMILES in the columns of a table that hold any: those whose names begin with `smi`."""
    found = set()
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            texts = {value for name, value in row.items() if name.lower().startswith("smi") and value}
            for text in texts | {max(text.split("."), key=len) for text in texts}:
                try:
                    found.add(canonical_smiles(parse_molecule(text)))
                except DataError:
                    continue  # a molecule that can't be read can't be tested on either
    return found


def main() -> None:
    """Write the texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help=".smi.gz files, one molecule a line")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help=".csv.gz files")
    options = parser.parse_args()
    lines = list(LineStream(options.text, shuffle=False).lines(0))
    held_out = np.random.default_rng(SEED).random(len(lines)) < SHARE
    texts = options.folder / "zinc_smiles"
    texts.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("train", False), ("val", True)):
        kept = [line for line, out in zip(lines, held_out, strict=True) if out == wanted]
        (texts / f"{name}.smi").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        print(f"{name}.smi: {len(kept)} molecules")
    excluded = set().union(*(molecules_of(path) for path in options.tables))
    (options.folder / "downstream.smi").write_text("".join(f"{line}\n" for line in sorted(excluded)), encoding="utf-8")
    print(f"downstream.smi: {len(excluded)} molecules")


if __name__ == "__main__":
    main()
