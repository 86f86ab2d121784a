"""Does training on two data sets at once cost accuracy, and does it help with a third one that has few labels?

    python scripts/benchmarks/multitask.py [--steps 600] [--lr 0.016] [--seeds 1] [--frames 50] [--json]

Recipe dpa3/water-and-clusters: liquid water (periodic) and reactive clusters (no cell), L2 64/32/16. Each set is
learned alone (a plain DPA3), and both at once with separate fitting nets, with a shared one, and with a shared one in
which each set has biases of its own, every set with the same number of steps and the same batches of it. Then a few
frames of a third set, 3BPA (H, C, N, O: nitrogen is a new element), are learned from scratch and from the joint
models, with the same number of steps. Errors are those of the last weights on frames that no training has seen. CPU
seconds are those of the fit, on one thread.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "dpa3" / "water-and-clusters.yaml"
SHARED = Path("../shared/data")
ELEMENTS = ["H", "C", "N", "O"]
WAYS = {
    "separate": {"fitting": "separate"},
    "shared": {"fitting": "shared"},
    "own biases": {"fitting": "shared", "dataset_biases": True},
}


def configuration(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The recipe with the data where they are and the number of steps asked for."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    data = recipe["data"]["init_args"]
    water = [str(args.shared / "water_dpmd" / f"data_{k}") for k in range(4)]
    data["sets"]["water"]["init_args"]["store"]["init_args"]["systems"] = water[:3]
    data["sets"]["water"]["init_args"]["test_store"]["init_args"]["systems"] = water[3:]
    clusters = str(args.shared / "water_dpmd" / "nopbc" / "C1H4O2")
    data["sets"]["clusters"]["init_args"]["store"]["init_args"]["systems"] = clusters
    recipe["trainer"] |= {"max_steps": 2 * args.steps, "enable_progress_bar": False, "accelerator": "cpu"}
    recipe["model"]["init_args"]["optimizer"]["init_args"]["lr"] = args.lr
    recipe["seed_everything"] = data["seed"] = seed
    return recipe


def alone(recipe: dict[str, Any], head: str) -> dict[str, Any]:
    """The same for one data set and a net without heads."""
    recipe = copy.deepcopy(recipe)
    model, data = recipe["model"]["init_args"], recipe["data"]["init_args"]
    model["net"]["class_path"] = "DPA3"
    for key in ("heads", "fitting"):
        del model["net"]["init_args"][key]
    model["terms"] = model.pop("head_terms").get(head, model["terms"])
    recipe["data"] = data["sets"][head]
    recipe["data"]["init_args"]["seed"] = data["seed"]
    recipe["trainer"]["max_steps"] //= 2
    return recipe


def third(recipe: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """A few frames of the third set, from scratch."""
    recipe = alone(recipe, "water")
    model = recipe["model"]["init_args"]
    model["net"]["init_args"]["elements"] = ELEMENTS
    path = str(args.shared / "mlip_extxyz" / "3bpa_train_300K.extxyz")
    stride = 400 // args.frames
    recipe["data"]["init_args"] = {
        "store": {"class_path": "ExtxyzStore", "init_args": {"path": path}},
        "split": {"class_path": "RangeSplit", "init_args": {"train": f"0:400:{stride}", "test": "400:500"}},
        "batch_size": 5,
        "seed": recipe["seed_everything"],
    }
    recipe["trainer"]["max_steps"] = args.tuning_steps
    return recipe


def run(recipe: dict[str, Any], folder: Path) -> dict[str, float]:
    """Fit and test; errors on the test frames and the CPU seconds of the fit."""
    from geomlib.cli import main as geomlib

    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    started = time.process_time()
    if code := geomlib(["fit", "-c", str(file), "--folder", str(folder)]):
        raise SystemExit(code)
    seconds = time.process_time() - started
    last = str(folder / "checkpoints" / "last.ckpt")
    if code := geomlib(["test", str(folder), "--ckpt_path", last]):
        raise SystemExit(code)
    metrics = json.loads((folder / "test_metrics.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name.endswith(("mae", "rmse"))} | {"cpu_s": seconds}


def measure(args: argparse.Namespace, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """All runs with one seed."""
    recipe = configuration(args, seed)
    rows = {}
    if "joint" in args.parts:
        for head in ("water", "clusters"):
            rows[f"{head} alone"] = run(alone(recipe, head), folder / f"{head}-{seed}")
    for fitting in args.ways:
        joint = copy.deepcopy(recipe)
        joint["model"]["init_args"]["net"]["init_args"] |= WAYS[fitting]
        rows[f"both, {fitting}"] = run(joint, folder / f"{fitting}-{seed}")
    few = third(recipe, args)
    rows["third from scratch"] = run(few, folder / f"scratch-{seed}")
    for fitting in args.ways:
        for head in ("water", "clusters"):
            tuned = copy.deepcopy(few)
            tuned["model"]["init_args"] |= {
                "weights": str(folder / f"{fitting}-{seed}" / "model.safetensors"),
                "head": head,
            }
            rows[f"third from {fitting}, {head}"] = run(tuned, folder / f"tuned-{fitting}-{head}-{seed}")
    return rows


def show(rows: dict[str, dict[str, float]]) -> list[str]:
    """A table; errors in meV/Å and meV/atom, ratios to the runs that they are compared with."""
    lines = [f"{'run':<31}{'set':<10}{'force RMSE':>11}{'MAE':>9}{'energy RMSE':>13}{'ratio':>8}{'CPU s':>8}"]
    scratch = rows["third from scratch"]["forces_rmse"]
    for name, row in rows.items():
        heads = [head for head in ("water", "clusters") if f"{head}/forces_rmse" in row] or [""]
        for head in heads:
            prefix = f"{head}/" if head else ""
            force = row[f"{prefix}forces_rmse"]
            ratio = ""
            if head and f"{head} alone" in rows:
                ratio = f"{force / rows[f'{head} alone']['forces_rmse']:.3f}"
            elif name.startswith("third") and force != scratch:
                ratio = f"{scratch / force:.2f}"
            lines.append(
                f"{name:<31}{head or name.split()[0]:<10}{1e3 * force:>11.1f}{1e3 * row[f'{prefix}forces_mae']:>9.1f}"
                f"{1e3 * row[f'{prefix}energy_rmse']:>13.2f}{ratio:>8}{row['cpu_s']:>8.0f}"
            )
    return lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with water_dpmd and mlip_extxyz")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each set")
    parser.add_argument("--lr", type=float, default=1.6e-2, help="learning rate of all runs at their start")
    parser.add_argument("--frames", type=int, default=50, help="labelled frames of the third set")
    parser.add_argument("--tuning-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=["joint"], help="leave 'joint' out to skip the single-task runs")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="kinds of fitting")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()

    from geomlib.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = [measure(args, seed, folder) for seed in range(args.seeds)]
    for seed, rows in enumerate(results):
        print(f"\nseed {seed}, {args.steps} steps of each set, {args.frames} frames of the third set")
        print("\n".join(show(rows)))
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
