"""Screening beside plain RDKit in a loop: cost of a row in CPU time or instructions, and peak memory.

Both read the same CSV file, parse, calculate six descriptors, apply Lipinski's and Veber's rules and write a CSV file
with the same columns. Each measurement runs in a process of its own; its cost is that of the process and all its
children, less that of the same command on 10 rows, for which all workers start. The ways take turns and the median of
the repeats counts.

CPU time means little where others compute on the same cores. `--instructions` counts what the processors would execute
instead (valgrind's cachegrind, some fifty times slower: take few rows), which does not depend on the load.

    python scripts/benchmarks/screen.py [--rows 50000] [--repeats 3] [--workers 1 2] [--instructions] [--json]

Without the data of `--data`, molecules of the data set `calculated-properties` are repeated.
"""

import argparse
import csv
import gzip
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LOOP = """
import csv, sys
from rdkit import Chem, RDLogger
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors as d

RDLogger.DisableLog("rdApp.*")
with open(sys.argv[1], newline="") as file, open(sys.argv[2], "w", newline="") as out:
    reader, writer = csv.reader(file), csv.writer(out)
    names = ["row", "MW", "logP", "TPSA", "HBD", "HBA", "rotatable_bonds", "status"]
    writer.writerow([*next(reader), *names])
    for number, row in enumerate(reader, start=1):
        molecule = Chem.MolFromSmiles(row[0])
        if molecule is None:
            writer.writerow([*row, number, "", "", "", "", "", "", "not a molecule"])
            continue
        values = [Descriptors.MolWt(molecule), Crippen.MolLogP(molecule), d.CalcTPSA(molecule)]
        values += [d.CalcNumHBD(molecule), d.CalcNumHBA(molecule), d.CalcNumRotatableBonds(molecule)]
        weight, logp, tpsa, donors, acceptors, bonds = values
        broken = (weight > 500) + (logp > 5) + (donors > 5) + (acceptors > 10)
        status = "rule: lipinski" if broken > 1 else "rule: veber" if tpsa > 140 or bonds > 10 else "ok"
        writer.writerow([*row, number, *(f"{value:.6g}" for value in values), status])
"""


def corpus(folder: Path) -> list[str]:
    """SMILES to repeat."""
    files = sorted(folder.glob("*.smi.gz"))
    if not files:
        table = Path(__file__).parents[2] / "datasets" / "calculated-properties" / "table.csv"
        with table.open(encoding="utf-8", newline="") as file:
            return [row["smiles"] for row in csv.DictReader(file)]
    return [line.split()[0] for path in files for line in gzip.open(path, "rt") if line.strip()]


def measure(words: list[str], folder: Path) -> dict[str, float]:
    """CPU and wall seconds of a command with its workers, and the largest memory of one of its processes [MiB]."""
    code = (
        "import json,resource,subprocess,sys,time;t=time.perf_counter();"
        "subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL,stderr=subprocess.DEVNULL);"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps([u.ru_utime+u.ru_stime,time.perf_counter()-t,u.ru_maxrss/1024]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    cpu, wall, memory = json.loads(done.stdout)
    return {"cost": cpu, "wall": wall, "memory": memory}


def count(words: list[str], folder: Path) -> dict[str, float]:
    """Instructions of a command with its workers."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes"]
    run = subprocess.run(
        [*valgrind, "--cachegrind-out-file=/dev/null", *words],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = re.findall(r"I +refs: +([0-9,]+)", run.stderr)
    return {"cost": float(sum(int(text.replace(",", "")) for text in found)), "wall": 0.0, "memory": 0.0}


def commands(workers: list[int], rows: int) -> dict[str, tuple[list[str], list[str]]]:
    """Way → its command on many rows, and on few."""
    words = [sys.executable, "-m", "geomlib", "screen"]
    ways = {
        "RDKit in a loop": ([sys.executable, "loop.py", "in.csv", "0.csv"], [sys.executable, "loop.py", "few.csv", "f"])
    }
    for n in workers:
        more = ["--preset", "lipinski", "veber", "--workers", str(n), "--chunk-rows"]
        size = min(2000, -(-rows // n))  # every worker has its share, however few rows there are
        ways[f"geomlib screen, {n} worker{'s' if n > 1 else ''}"] = (
            [*words, "in.csv", f"{n}.csv", *more, str(size)],
            [*words, "few.csv", "few-out.csv", *more, str(-(-10 // n))],
        )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/zinc_smiles"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--instructions", action="store_true", help="count instructions with valgrind; once")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    smiles = corpus(args.data)
    way_of_measuring, repeats = (count, 1) if args.instructions else (measure, args.repeats)
    seen: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, rows in (("in.csv", args.rows), ("few.csv", 10)):
            with (folder / file).open("w", encoding="utf-8", newline="") as stream:
                table = csv.writer(stream)
                table.writerow(["smiles", "id"])
                table.writerows([text, k] for k, text in enumerate(itertools.islice(itertools.cycle(smiles), rows)))
        (folder / "loop.py").write_text(LOOP)
        for _ in range(repeats):
            for way, (whole, few) in commands(args.workers, args.rows).items():
                pair = way_of_measuring(few, folder), way_of_measuring(whole, folder)
                seen.setdefault(way, []).append(pair)
                if not args.json:
                    print(way, *(f"{key} {pair[1][key] - pair[0][key]:,.6g}" for key in pair[0]), flush=True)
        outputs = {(folder / f"{workers}.csv").read_bytes() for workers in args.workers}
    found = {}
    for way, pairs in seen.items():
        each = statistics.median(whole["cost"] - few["cost"] for few, whole in pairs) / args.rows
        found[way] = {
            "cost_of_a_row": each,
            "rows_per_wall_second": args.rows / max(statistics.median(w["wall"] - f["wall"] for f, w in pairs), 1e-9),
            "start": statistics.median(few["cost"] for few, _ in pairs),
            "memory_mib": max(whole["memory"] for _, whole in pairs),
        }
    base = found["RDKit in a loop"]["cost_of_a_row"]
    for row in found.values():
        row["overhead_percent"] = 100 * (row["cost_of_a_row"] / base - 1)
    if args.json:
        print(json.dumps({"rows": args.rows, "repeats": repeats, "same_file": len(outputs) == 1, **found}))
        return
    unit, scale = ("kilo-instructions", 1e-3) if args.instructions else ("CPU µs", 1e6)
    print(f"\n{args.rows:,} rows; the files are {'the same' if len(outputs) == 1 else 'NOT the same'}")
    print(f"{'':<28}{unit + ' a row':>24}{'overhead':>11}{'rows/s':>10}{'memory':>12}")
    for way, row in found.items():
        rest = "" if args.instructions else f"{row['rows_per_wall_second']:>10,.0f}{row['memory_mib']:>8,.0f} MiB"
        print(f"{way:<28}{scale * row['cost_of_a_row']:>24,.0f}{row['overhead_percent']:>9.1f} %{rest}")


if __name__ == "__main__":
    main()
