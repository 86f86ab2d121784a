"""Does a committee know where it errs, and do the frames it asks for teach more than random ones?

    python scripts/benchmarks/active_learning.py [--repeats 3] [--json] [--keep FOLDER]     # needs geomlib[labels]
    python scripts/benchmarks/active_learning.py --pool alloy [--repeats 3]

First, a committee of four (recipe dpa3/quickstart with a smaller net and fewer steps) learns the embedded ethanol
frames at 500 K (split `ethanol`). On 200 held-out frames at 500 K and on 200 hot frames its model deviation is
compared with its true force error. The hot frames are made here, by Langevin dynamics with GFN2-xTB as in
datasets/gfn2-molecules.

Second, active learning against random selection. A committee starts from 20 of the frames at 500 K. The pool is what
dynamics at several temperatures leave: the other 740 training frames at 500 K and 180 hot ones, from another trajectory
than that of the test. Either the 20 frames of the pool about which the committee disagrees most (`active`), 20 chosen
for disagreement and difference (`diverse`), or 20 random ones are labelled; committees of two learn anew from all 40.

With `--pool alloy` the second measurement is made on another set, in which most of the pool is alike: 640 frames of
bulk copper near equilibrium (32 atoms, as a simulation at room temperature leaves them) and the 192 training frames
of the embedded emt-alloy (bulk and slabs of copper, silver and gold with vacancies). The committee starts from 20
random frames of that pool; the test set is that of emt-alloy. Labels are EMT's.
"""

import argparse
import importlib.util
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.io import write

from geomlib import Calculator
from geomlib.apply.calibration import ForceUncertainty, calibration
from geomlib.apply.committee import model_deviation
from geomlib.apply.pool import pick
from geomlib.apply.report.uncertainty import calibration_plot
from geomlib.cli import main as geomlib
from geomlib.data.atoms import from_atoms, to_atoms
from geomlib.data.cards import CardStore
from geomlib.data.flat import FlatStore
from geomlib.data.stores import MemoryStore
from geomlib.files.committee import write_committee

NET = {"layers": 2, "node_dim": 32, "edge_dim": 16, "angle_dim": 8, "fitting_layers": "[64, 64]"}
START, ADDED = 20, 20
STRATEGIES = ("random", "active", "diverse")
ALLOY = {"elements": "[Cu, Ag, Au]"}
COPPER, COPPER_STRAIN, COPPER_DISPLACEMENT = 640, 0.005, 0.06  # frames, and standard deviations (Å) of each


@dataclass(frozen=True)
class Design:
    """What is learned from what.

    Args:
        known: frames of which some are labelled at the start; the rest is in the pool.
        unseen: frames that are in the pool only.
        rare: whether each of `known` and `unseen` is of the kind that the known ones lack.
        tests: name → held-out frames.
        net: options of the net.
    """

    known: list[Atoms]
    unseen: list[Atoms]
    rare: np.ndarray
    tests: dict[str, list[Atoms]]
    net: dict[str, Any]


def preparation(dataset: str) -> ModuleType:
    """`datasets/<dataset>/prepare.py` as a module."""
    path = Path(__file__).parents[2] / "datasets" / dataset / "prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare"] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def hot_frames(temperature: float, count: int, seed: int) -> list[Atoms]:
    """Labelled frames of ethanol at `temperature` [K]."""
    prepare = preparation("gfn2-molecules")
    run = prepare.Run("hot", temperature, (count,), 0, seed)
    sampled = prepare.trajectory(molecule("CH3CH2OH"), run, np.random.default_rng(seed))
    return [prepare.label(frame) for frame, _ in sampled]


def copper_frames(count: int, seed: int) -> list[Atoms]:
    """Labelled frames of bulk copper near its equilibrium."""
    prepare = preparation("emt-alloy")
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        frame = prepare.fcc(prepare.LATTICE["Cu"], 2, 2, 2, cubic=True)
        noise = rng.normal(0.0, COPPER_STRAIN, (3, 3))
        frame.set_cell(frame.cell @ (np.eye(3) + 0.5 * (noise + noise.T)), scale_atoms=True)
        frame.positions += rng.normal(0.0, COPPER_DISPLACEMENT, frame.positions.shape)
        frames.append(prepare.label(frame))
    return frames


def ethanol_design(temperature: float) -> Design:
    """Ethanol at 500 K, and hot frames in the pool."""
    parts = {part: CardStore("gfn2-molecules", f"ethanol/{part}") for part in ("train", "test")}
    embedded = {part: [to_atoms(graph) for graph in store] for part, store in parts.items()}
    test, pool = hot_frames(temperature, 200, 1), hot_frames(temperature, 180, 2)
    rare = np.arange(len(embedded["train"]) + len(pool)) >= len(embedded["train"])
    return Design(embedded["train"], pool, rare, {"500 K": embedded["test"], f"{temperature:g} K": test}, {})


def alloy_design() -> Design:
    """Mostly copper; the rest is what the test set is like."""
    parts = {part: [to_atoms(graph) for graph in CardStore("emt-alloy", part)] for part in ("train", "test")}
    pool = copper_frames(COPPER, 0) + parts["train"]
    return Design(pool, [], np.arange(len(pool)) >= COPPER, {"alloys": parts["test"]}, ALLOY)


def fit(train: Sequence[Atoms], folder: Path, seeds: Sequence[int], steps: int, net: dict[str, Any]) -> Path:
    """A committee on `train`, in one process; its file."""
    folder.mkdir(parents=True)
    graphs = [from_atoms(frame, fields=("energy", "forces")) for frame in train]
    FlatStore.write(MemoryStore(graphs), folder / "train.npz")
    models = []
    for seed in seeds:
        words = ["-c", "dpa3/quickstart", "--folder", str(folder / f"{seed}"), "--trainer.max_steps", str(steps)]
        words += ["--seed_everything", str(seed), "--data.seed", str(seed), "--data.batch_size", "8"]
        store = {"class_path": "FlatStore", "init_args": {"path": str(folder / "train.npz")}}
        words += ["--data.store", json.dumps(store), "--data.split", "null", "--trainer.enable_progress_bar", "false"]
        words += [word for name, value in {**NET, **net}.items() for word in (f"--model.net.{name}", str(value))]
        if code := geomlib(["fit", *words]):
            raise SystemExit(code)
        models.append(folder / f"{seed}" / "model.safetensors")
    return write_committee(folder / "committee.json", models)


def predictions(committee: Path, frames: Sequence[Atoms]) -> ForceUncertainty:
    """Model deviation and error of each force."""
    results = Calculator(committee).evaluate(frames)
    deviation = np.concatenate([model_deviation(row).forces for row in results])
    errors = [row["forces"] - frame.get_forces() for row, frame in zip(results, frames, strict=True)]
    return ForceUncertainty(deviation, np.concatenate(errors), np.array([len(frame) for frame in frames]))


def knowing(sets: dict[str, list[Atoms]], folder: Path, members: int, steps: int) -> dict[str, Any]:
    """The first measurement."""
    words = ["-c", "dpa3/quickstart", "--members", str(members), "--folder", str(folder)]
    words += ["--trainer.max_steps", str(steps), "--trainer.enable_progress_bar", "false"]
    words += [word for name, value in NET.items() for word in (f"--model.net.{name}", str(value))]
    if code := geomlib(["fit", *words]):
        raise SystemExit(code)
    found = {}
    for name, frames in sets.items():
        forces = predictions(folder / "committee.json", frames)
        row = calibration(forces)
        found[name] = {
            "forces_mae_meV": 1e3 * float(np.abs(forces.error).mean()),
            "deviation_mean_meV": 1e3 * float(forces.deviation.mean()),
            "spearman_atoms": row.atoms.spearman,
            "pearson_atoms": row.atoms.pearson,
            "spearman_frames": row.frames.spearman,
            "pearson_frames": row.frames.pearson,
            "scale": row.scale,
            "coverage_68": row.coverage,
        }
    return found


def learning(repeat: int, design: Design, folder: Path, steps: int) -> dict[str, dict[str, float]]:
    """The second measurement, once: force errors by strategy."""
    rng = np.random.default_rng(repeat)
    order = rng.permutation(len(design.known))
    start = [design.known[k] for k in order[:START]]
    pool = [design.known[k] for k in order[START:]] + design.unseen
    rare = np.concatenate([design.rare[order[START:]], design.rare[len(order) :]])
    seeds = [100 * repeat + k for k in range(4)]
    committee = fit(start, folder / "start", seeds, steps, design.net)
    two = [folder / "start" / f"{seed}" / "model.safetensors" for seed in seeds[:2]]  # as large as those to come
    found = {"start": errors(write_committee(folder / "start" / "two.json", two), design.tests)}
    results = Calculator(committee).evaluate(pool)
    largest = np.array([model_deviation(row).forces.max() for row in results])
    chosen = {
        "random": rng.choice(len(pool), ADDED, replace=False),
        "active": pick(pool, largest, ADDED),
        "diverse": pick(pool, largest, ADDED, diverse=True),
    }
    for name in STRATEGIES:
        committee = fit(start + [pool[k] for k in chosen[name]], folder / name, seeds[:2], steps, design.net)
        found[name] = {**errors(committee, design.tests), "rare_chosen": float(rare[chosen[name]].sum())}
        print(f"repeat {repeat}, {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def errors(committee: Path, tests: dict[str, list[Atoms]]) -> dict[str, float]:
    """Force MAE [meV/Å] of the committee's mean on each test set."""
    return {name: 1e3 * float(np.abs(predictions(committee, frames).error).mean()) for name, frames in tests.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", choices=("ethanol", "alloy"), default="ethanol", help="set of the second measurement")
    parser.add_argument("--repeats", type=int, default=3, help="of the second measurement; 0 leaves it out")
    parser.add_argument("--first", type=int, default=0, help="number of the first repeat, which decides its seeds")
    parser.add_argument("--members", type=int, default=4, help="of the first one; 0 leaves it out")
    parser.add_argument("--steps", type=int, nargs=2, default=(600, 1200), help="optimizer steps of a fit in each")
    parser.add_argument("--temperature", type=float, default=1000.0, help="of the hot frames, K")
    parser.add_argument("--keep", type=Path, help="folder for the models and hot.extxyz; else they are thrown away")
    parser.add_argument("--figure", type=Path, help="write the calibration of the hot frames here (.svg)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(args, folder)
    print("\n".join(report(result)))
    if args.json:
        print(json.dumps(result))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both measurements."""
    began = time.time()
    result: dict[str, Any] = {"pool": args.pool, "temperature_K": args.temperature, "steps": list(args.steps)}
    if args.pool == "alloy":
        design = alloy_design()
    else:
        design = ethanol_design(args.temperature)
        hot = design.tests[f"{args.temperature:g} K"]
        write(folder / "hot.extxyz", hot)
        if args.members:
            result["committee"] = knowing(design.tests, folder / "committee", args.members, args.steps[0])
            if args.figure is not None:
                draw(predictions(folder / "committee" / "committee.json", hot), args.figure)
    repeats = range(args.first, args.first + args.repeats)
    rows = [learning(repeat, design, folder / f"repeat-{repeat}", args.steps[1]) for repeat in repeats]
    result["learning"] = rows
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result["cpu_s"], result["wall_s"] = sum(row.ru_utime + row.ru_stime for row in used), time.time() - began
    return result


def draw(forces: ForceUncertainty, file: Path) -> None:
    """The report's plot as a file of its own, with the colours that its page would give it."""
    colors = {"--ink": "#1b2027", "--muted": "#667080", "--line": "#e1e5ea"}
    colors |= {"--series-1": "#2f6fb4", "--series-2": "#d1622b"}
    text = calibration_plot(forces, calibration(forces), points=500)
    for name, color in colors.items():
        text = text.replace(f"var({name})", color)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="430"'
    style = "<style>text { font-family: sans-serif } rect.page { fill: white }</style>"
    head, _, rest = text.replace("<svg ", f"<svg {names} ", 1).partition(">")
    file.write_text(f'{head}>{style}<rect class="page" width="100%" height="100%"/>{rest}\n', encoding="utf-8")


def report(result: dict[str, Any]) -> list[str]:
    """What was found, as text."""
    lines: list[str] = []
    if "committee" in result:
        lines.append(
            f"{'frames':<10}{'force MAE':>11}{'deviation':>11}{'Spearman':>10}{'by frame':>10}{'scale':>7}{'68 %':>7}"
        )
        for name, row in result["committee"].items():
            lines.append(
                f"{name:<10}{row['forces_mae_meV']:>11.1f}{row['deviation_mean_meV']:>11.1f}{row['spearman_atoms']:>10.2f}"
                f"{row['spearman_frames']:>10.2f}{row['scale']:>7.2f}{100 * row['coverage_68']:>6.0f}%"
            )
        lines += [
            "MAE of components and mean deviation in meV/Å; Spearman of deviation and error, atoms and frames",
            "",
        ]
    if result["learning"]:
        sets = list(result["learning"][0]["start"])
        head = "".join(f"{f'force MAE, {name}':>24}" for name in sets)
        lines.append(f"{'labelled':<20}{head}{'rare frames':>12}")
        for strategy in ("start", *STRATEGIES):
            rows = [row[strategy] for row in result["learning"]]
            cells = ""
            for name in sets:
                values = np.array([row[name] for row in rows])
                cells += f"{f'{values.mean():.1f} ± {values.std():.1f}':>24}"
            chosen = np.mean([row.get("rare_chosen", np.nan) for row in rows])
            title = f"{START}" if strategy == "start" else f"{START} + {ADDED} {strategy}"
            lines.append(f"{title:<20}{cells}{'' if np.isnan(chosen) else f'{chosen:.1f}':>12}")
        lines.append(f"meV/Å, mean ± standard deviation of {len(result['learning'])} repeats")
    lines.append(f"{result['cpu_s']:.0f} s of CPU, {result['wall_s']:.0f} s")
    return lines


if __name__ == "__main__":
    main()
