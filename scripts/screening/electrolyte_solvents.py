"""Candidates for solvents of electrolytes: fragments of known solvents put together anew, several objectives.

Known solvents are cut at the bonds that chemistry makes (BRICS) and their pieces recombined; a committee that was
trained on solvents says boiling point and donor number; what boils high, donates well and is light comes first. The
table below has 24 solvents: enough to try it out. Give your own data for anything else.

    python scripts/screening/electrolyte_solvents.py
    python scripts/screening/electrolyte_solvents.py --train mine.csv --candidates library.smi.gz --workers 8
"""

import argparse
import csv
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

from geomlib.apply.screen import ScreenPlan, screen
from geomlib.apply.screen.page import write_screen_page
from geomlib.apply.screen.ranking import Objective

SOLVENTS = """\
smiles,boiling_point,donor_number
COC(=O)OC,90,17.2
CCOC(=O)OCC,126,16.0
CCOC(=O)OC,107,
O=C1OCCO1,248,16.4
CC1COC(=O)O1,242,15.1
O=C1CCCO1,204,
CC#N,82,14.1
N#Cc1ccccc1,191,11.9
C1CCOC1,66,20.0
CC1CCCO1,80,
C1COCCO1,101,14.8
CCOCC,35,19.2
COCCOC,85,20.0
COCCOCCOC,162,
CC(C)=O,56,17.0
COC(C)=O,57,16.5
CCOC(C)=O,77,17.1
CN(C)C=O,153,26.6
CC(=O)N(C)C,165,27.8
CN1CCCC1=O,202,27.3
CS(C)=O,189,29.8
O=S1(=O)CCCC1,285,14.8
C[N+](=O)[O-],101,2.7
c1ccncc1,115,33.1
"""
"""Boiling points [°C], rounded, and donor numbers [kcal/mol]: there to try the script out, not to be believed.

Entered by hand. Seen again on pages of the web, themselves second hand: the donor numbers of dimethyl and diethyl
carbonate, diethyl ether, ethyl acetate and dimethyl sulfoxide on stenutz.eu/chem/gutmann.php, which names Gutmann, The
donor-acceptor approach to molecular interactions, Plenum 1978; those of acetonitrile, tetrahydrofuran, acetone,
dimethylformamide and pyridine in copies of Wikipedia's article "Donor number"; the boiling points of dimethyl (90 °C),
diethyl (125.8 °C), ethyl methyl (107.5 °C) and ethylene carbonate (248 °C, elsewhere 243 °C) on pages about them. All
others are unchecked.
"""
PARENTS = ["COCCOCCOC", "CCOC(=O)OCC", "CCOC(C)=O", "CC(=O)N(C)C", "CN1CCCC1=O", "COCCC#N", "CCN(CC)C(=O)OC"]
PARENTS += ["CCS(=O)(=O)CC", "COCC1COC(=O)O1", "COCC1CCCO1", "FC(F)(F)COCCOC", "CCOCC(F)F", "COCCN1CCOCC1"]

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


def recombine(file: Path, count: int, seed: int = 0) -> Path:
    """File of molecules from the BRICS fragments of known solvents.

    Source: Degen et al., 10.1002/cmdc.200800178.
    """
    from rdkit import Chem
    from rdkit.Chem import BRICS

    fragments = sorted(set().union(*(BRICS.BRICSDecompose(Chem.MolFromSmiles(text)) for text in PARENTS)))
    pieces = [Chem.MolFromSmiles(text) for text in fragments]
    random.seed(seed)  # BRICSBuild shuffles with the generator of Python
    built = BRICS.BRICSBuild(pieces, maxDepth=2, scrambleReagents=True)
    found: dict[str, None] = {}
    for molecule in itertools.islice(built, 20 * count):
        molecule.UpdatePropertyCache()
        found[Chem.MolToSmiles(molecule)] = None
        if len(found) == count:
            break
    file.write_text("".join(f"{text} candidate-{number}\n" for number, text in enumerate(found)), encoding="utf-8")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, help="CSV with columns smiles, boiling_point, donor_number")
    parser.add_argument("--candidates", type=Path, help="file of molecules (made of fragments)")
    parser.add_argument("--count", type=int, default=2000, help="how many to make")
    parser.add_argument("--folder", type=Path, default=Path("electrolyte-solvents"), help="where everything is written")
    parser.add_argument("--model", nargs="+", help="model files instead of training")
    parser.add_argument("--members", type=int, default=2, help="of the committee that is trained")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    table = args.train or args.folder / "solvents.csv"
    if not args.train:
        table.write_text(SOLVENTS, encoding="utf-8")
    targets = [{"name": "boiling_point", "unit": "°C"}, {"name": "donor_number", "unit": "kcal/mol"}]
    models = args.model or train(table, "smiles", targets, args.folder, args.members, args.epochs)
    candidates = args.candidates or recombine(args.folder / "candidates.smi", args.count)
    with table.open(encoding="utf-8", newline="") as file:
        known = tuple(row["smiles"] for row in csv.DictReader(file))
    plan = ScreenPlan(
        properties=("MW", "logP", "TPSA", "rotatable_bonds", "HBD"),
        keep=("MW<=250", "HBD=0", "charge=0", "elements in C,H,N,O,F,S", "60<boiling_point", "similarity<1"),
        exclude=("[OX2][OX2]", "[NX3][NX3]", "[NX3][OX2]", "[CX3H1]=O"),
        references=known,
        models=tuple((name,) for name in models),
        objectives=(
            Objective("boiling_point", "max", 60.0, 250.0),
            Objective("donor_number", "max", 10.0, 30.0),
            Objective("MW", "min", 80.0, 250.0),
        ),
        diverse=10,
        top=50,
    )
    output = args.folder / "screened.csv"
    result = screen(candidates, output, plan, workers=args.workers, restart=True)
    page = write_screen_page(result, args.folder / "screening.html", "Solvents of electrolytes")
    print(f"{result.ok:,} of {result.rows:,} are ok; the best are in {result.best}, a summary in {page}")


if __name__ == "__main__":  # worker processes import this file
    main()
