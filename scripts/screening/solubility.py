"""Which molecules dissolve well and still look like drugs: a net of solubility, rules, alerts, a ranked list.

Without data of your own, log S of 800 molecules is calculated by Delaney's equation: it shows the way, not chemistry.

    python scripts/screening/solubility.py
    python scripts/screening/solubility.py --train esol.csv --target "measured log solubility" --candidates mine.csv
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

EMBEDDED = Path(__file__).parents[2] / "datasets" / "calculated-properties" / "table.csv"

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


def delaney(file: Path) -> Path:
    """Table of log S [log mol/L] by Delaney's equation, 10.1021/ci034243x."""
    from rdkit import Chem
    from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

    with EMBEDDED.open(encoding="utf-8", newline="") as source, file.open("w", encoding="utf-8", newline="") as target:
        table = csv.writer(target)
        table.writerow(["smiles", "log_solubility"])
        for row in csv.DictReader(source):
            molecule = Chem.MolFromSmiles(row["smiles"])
            aromatic = len(molecule.GetAromaticAtoms()) / molecule.GetNumAtoms()
            bonds = rdMolDescriptors.CalcNumRotatableBonds(molecule)
            value = 0.16 - 0.63 * Crippen.MolLogP(molecule) - 0.0062 * Descriptors.MolWt(molecule)
            table.writerow([row["smiles"], f"{value + 0.066 * bonds - 0.74 * aromatic:.4f}"])
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="CSV with SMILES and measured solubilities")
    parser.add_argument("--smiles", default="smiles", help="its column of SMILES")
    parser.add_argument("--target", default="log_solubility", help="its column of solubilities")
    parser.add_argument("--candidates", type=Path, default=EMBEDDED, help="file of molecules to screen")
    parser.add_argument("--folder", type=Path, default=Path("solubility"), help="where everything is written")
    parser.add_argument("--model", nargs="+", help="model files instead of training")
    parser.add_argument("--members", type=int, default=2, help="of the committee that is trained")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    table = args.train or delaney(args.folder / "delaney.csv")
    targets = [{"name": args.target, "unit": ""}]
    models = args.model or train(table, args.smiles, targets, args.folder, args.members, args.epochs)
    plan = ScreenPlan(
        standardize=("fragment", "uncharge"),
        presets=("lipinski", "veber"),
        alerts=("PAINS", "BRENK"),
        models=tuple((name,) for name in models),
        properties=("MW", "logP", "TPSA", "HBD", "HBA", "rotatable_bonds", "QED"),
        objectives=(Objective(args.target, "max"), Objective("QED", "max", 0.3, 0.9)),
        diverse=10,
        top=50,
    )
    candidates = args.candidates
    output = args.folder / "screened.csv"
    result = screen(candidates, output, plan, workers=args.workers, restart=True)
    page = write_screen_page(result, args.folder / "screening.html", "Solubility")
    print(f"{result.ok:,} of {result.rows:,} are ok; the best are in {result.best}, a summary in {page}")


if __name__ == "__main__":  # worker processes import this file
    main()
