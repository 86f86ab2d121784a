"""Which molecules smell of what: a net of several labels, volatile molecules only, a list by one note.

Without data of your own, notes are given to molecules by their functional groups: it shows the way, not perfumery.

    python scripts/screening/odour.py --note fruity
    python scripts/screening/odour.py --train leffingwell.csv --notes fruity green sulfurous --candidates mine.smi
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from geomlib.apply.screen import ScreenPlan, screen
from geomlib.apply.screen.page import write_screen_page
from geomlib.apply.screen.ranking import Objective

GROUPS = {"fruity": "[CX4][CX3](=O)O[CX4]", "green": "[CX4]C=CC", "sulfurous": "[SX2]", "floral": "c1ccccc1[CX4]"}
"""Note → SMARTS of the groups that stand for it in the made-up table."""
LEFT = [
    "C",
    "CC",
    "CCC",
    "CC(C)",
    "CCCC",
    "CCC(C)",
    "CC=CC",
    "C=CC",
    "c1ccccc1C",
    "c1ccccc1CC",
    "CSC",
    "CSCC",
    "CC(C)C",
]
RIGHT = ["O", "=O", "OC(=O)C", "OC(=O)CC", "C(=O)OC", "C(=O)OCC", "C(=O)C", "S", "SC", "CO", "CCO", "OC", "OCC", "C=CC"]
BETWEEN = ["", "C", "CC", "CCC", "C(C)"]

RECIPE = """\
seed_everything: {seed}
model:
  class_path: PropertyTask
  init_args:
    net:
      class_path: DMPNN
      init_args: {{targets: {targets}, hidden: 64, aggregation: sum, head_layers: [64]}}
    optimizer: {{class_path: AdamW, init_args: {{lr: 3.0e-3}}}}
    schedule: {{class_path: WSD, init_args: {{decay_ratio: 0.8, warmup_steps: 10}}}}
data:
  class_path: GraphDataModule
  init_args:
    store: {{class_path: TableStore, init_args: {{path: {table}, smiles: {smiles}, targets: {names}, errors: skip}}}}
    split: {{class_path: RandomSplit, init_args: {{train: 0.8, val: 0.1, test: 0.1}}}}
    batch_size: 32
trainer: {{max_epochs: {epochs}}}
"""


def train(table: Path, smiles: str, targets: list[dict], folder: Path, members: int, epochs: int) -> list[str]:
    """Train a committee, and return its model files; members that are there already are kept."""
    files = []
    for seed in range(members):
        run = folder / f"member-{seed}"
        files.append(str(run / "model.safetensors"))
        if Path(files[-1]).exists():
            continue
        names = json.dumps([target["name"] for target in targets])
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / f"member-{seed}.yaml"
        words = {"seed": seed, "targets": json.dumps(targets), "names": names, "epochs": epochs}
        words |= {"table": json.dumps(str(table)), "smiles": json.dumps(smiles)}
        recipe.write_text(RECIPE.format(**words), encoding="utf-8")
        words = [sys.executable, "-m", "geomlib", "fit", "-c", recipe, "--folder", run]
        if subprocess.run(words, check=False).returncode:
            sys.exit("training failed, see above")
    return files


def made_up(file: Path) -> Path:
    """Table of small molecules with notes by their groups; the last column is empty in a tenth of the rows."""
    from rdkit import Chem

    queries = {name: Chem.MolFromSmarts(text) for name, text in GROUPS.items()}
    texts = sorted({a + b + c for a in LEFT for b in BETWEEN for c in RIGHT})
    with file.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["smiles", *GROUPS])
        for number, text in enumerate(texts):
            molecule = Chem.MolFromSmiles(text)
            notes = [int(molecule.HasSubstructMatch(query)) for query in queries.values()]
            table.writerow([text, *notes[:-1], "" if number % 10 == 0 else notes[-1]])
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="CSV with SMILES and columns of 0 and 1")
    parser.add_argument("--smiles", default="smiles", help="its column of SMILES")
    parser.add_argument("--notes", nargs="+", default=list(GROUPS), help="its columns of notes")
    parser.add_argument("--note", help="what is wanted (the first one)")
    parser.add_argument("--candidates", type=Path, help="file of molecules to screen (those that were trained on)")
    parser.add_argument("--folder", type=Path, default=Path("odour"), help="where everything is written")
    parser.add_argument("--model", nargs="+", help="model files instead of training")
    parser.add_argument("--members", type=int, default=2, help="of the committee that is trained")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    table = args.train or made_up(args.folder / "made-up.csv")
    targets = [{"name": name, "kind": "binary"} for name in args.notes]
    models = args.model or train(table, args.smiles, targets, args.folder, args.members, args.epochs)
    wanted = args.note or args.notes[0]
    plan = ScreenPlan(
        keep=("30<=MW<=300", "charge=0", "elements in C,H,N,O,S", "fragments=1"),
        models=tuple((name,) for name in models),
        objectives=(Objective(wanted, "max", 0.0, 1.0), Objective("MW", "min", 100.0, 300.0, weight=0.3)),
        diverse=10,
        top=30,
    )
    candidates = args.candidates or table
    output = args.folder / "screened.csv"
    result = screen(candidates, output, plan, workers=args.workers, restart=True)
    page = write_screen_page(result, args.folder / "screening.html", "Odour")
    print(f"{result.ok:,} of {result.rows:,} are ok; the best are in {result.best}, a summary in {page}")


if __name__ == "__main__":  # worker processes import this file
    main()
