"""Screening beside plain RDKit in a loop: rows per second of CPU time, and peak memory.

Both parse, calculate six descriptors and apply Lipinski's and Veber's rules; the loop writes a CSV file, too. Each
measurement runs in a process of its own. CPU time is that of the process and its workers, less that of the same command
on 10 rows in 10 chunks, for which all workers start; wall time is given beside it and means something on an idle
machine only.

    python scripts/benchmarks/screen.py [--rows 50000] [--data ../shared/data/zinc_smiles] [--workers 1 2] [--json]

Without the data, molecules of the data set `calculated-properties` are repeated.
"""

import argparse
import csv
import gzip
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOOP = """
import csv, sys
from rdkit import Chem, RDLogger
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors as d

RDLogger.DisableLog("rdApp.*")
with open(sys.argv[1]) as file, open(sys.argv[2], "w", newline="") as out:
    writer = csv.writer(out)
    for row in csv.reader(file):
        molecule = Chem.MolFromSmiles(row[0])
        if molecule is None:
            continue
        values = [Descriptors.MolWt(molecule), Crippen.MolLogP(molecule), d.CalcTPSA(molecule)]
        values += [d.CalcNumHBD(molecule), d.CalcNumHBA(molecule), d.CalcNumRotatableBonds(molecule)]
        weight, logp, tpsa, donors, acceptors, bonds = values
        broken = (weight > 500) + (logp > 5) + (donors > 5) + (acceptors > 10)
        writer.writerow([row[0], *(f"{value:.6g}" for value in values), broken < 2 and tpsa <= 140 and bonds <= 10])
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
    return {"cpu": cpu, "wall": wall, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/zinc_smiles"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    smiles = corpus(args.data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, rows in (("in.smi", args.rows), ("few.smi", 10)):
            with (folder / file).open("w", encoding="utf-8") as stream:
                stream.writelines(f"{text}\n" for text in itertools.islice(itertools.cycle(smiles), rows))
        (folder / "loop.py").write_text(LOOP)
        ways = {"RDKit in a loop": lambda file: [sys.executable, "loop.py", file, "loop.csv"]}
        for workers in args.workers:
            ways[f"geomlib screen, {workers} worker{'s' if workers > 1 else ''}"] = lambda file, n=workers: [
                *(sys.executable, "-m", "geomlib", "screen", file, f"{n}.csv", "--preset", "lipinski", "veber"),
                *("--workers", str(n)),
            ]
        found = {}
        for way, command in ways.items():
            one_each = ["--chunk-rows", "1"] if way.startswith("geomlib") else []
            start, whole = measure([*command("few.smi"), *one_each], folder), measure(command("in.smi"), folder)
            found[way] = {
                "rows_per_cpu_second": args.rows / (whole["cpu"] - start["cpu"]),
                "rows_per_wall_second": args.rows / max(whole["wall"] - start["wall"], 1e-9),
                "start_cpu_seconds": start["cpu"],
                "memory_mib": whole["memory"],
                "memory_of_10_rows_mib": start["memory"],
            }
            if not args.json:
                print(way, {key: round(value, 1) for key, value in found[way].items()}, flush=True)
        outputs = {(folder / f"{workers}.csv").read_bytes() for workers in args.workers}
    base = found["RDKit in a loop"]["rows_per_cpu_second"]
    for row in found.values():
        row["overhead_percent"] = 100 * (base / row["rows_per_cpu_second"] - 1)
    if args.json:
        print(json.dumps({"rows": args.rows, "same_file": len(outputs) == 1, **found}))
        return
    print(f"\n{args.rows:,} rows; the files are {'the same' if len(outputs) == 1 else 'NOT the same'}")
    print(f"{'':<28}{'rows/CPU s':>12}{'overhead':>10}{'rows/s':>10}{'memory':>12}{'10 rows':>12}")
    for way, row in found.items():
        print(
            f"{way:<28}{row['rows_per_cpu_second']:>12,.0f}{row['overhead_percent']:>8.1f} %"
            f"{row['rows_per_wall_second']:>10,.0f}{row['memory_mib']:>8,.0f} MiB"
            f"{row['memory_of_10_rows_mib']:>8,.0f} MiB"
        )


if __name__ == "__main__":
    main()
