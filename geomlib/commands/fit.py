"""`geomlib fit | validate | test | predict`: training from recipes."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geomlib.commands.members import fit_members, take_plan
from geomlib.commands.recipes import find_recipe
from geomlib.errors import ConfigError

__all__ = ["configure", "run"]

_EXAMPLES = """
A recipe (YAML) has the keys model, data, trainer and seed_everything. Several -c merge from left to right, and
options typed after them hold over them:

  geomlib fit -c dpa3/quickstart                         a recipe that comes along, see 'geomlib recipes list'
  geomlib fit -c my.yaml --model.optimizer.lr 3e-4       any value of the recipe as an option
  geomlib fit -c my.yaml --resume auto                   continue after an interruption
  geomlib fit -c my.yaml --members 4                     a committee, whose members tell how sure they are
  geomlib test runs/my/version_0                         errors of a run's best weights on its test set
  geomlib fit -c my.yaml --print_config                  the recipe with all defaults
  geomlib fit --model.help PotentialTask                 what a class takes
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs; Lightning's own parser takes the words themselves."""
    verb = parser.prog.rpartition(" ")[2]
    parser.usage = f"{parser.prog} {'' if verb == 'fit' else '[RUN] '}[-c RECIPE ...] [--KEY VALUE ...]"
    parser.epilog = _EXAMPLES
    if verb != "fit":
        parser.add_argument("RUN", nargs="?", help="run folder: its config.yaml and best checkpoint")
    parser.add_argument("-c", "--config", metavar="RECIPE", help="recipe file, or the name of one that comes along")
    parser.add_argument("--ckpt_path", metavar="PATH", help="checkpoint to take weights (and, in a fit, all else) from")
    if verb == "fit":
        parser.add_argument(
            "--resume", metavar="PATH|auto", help="continue a checkpoint; auto: the latest of this recipe"
        )
        parser.add_argument("--reset_optimizer", metavar="true", help="on resuming, drop the optimizer's moments")
        group = parser.add_argument_group("committees")
        group.add_argument("--members", metavar="N", help="fit N models that differ in their seeds, and test them")
        group.add_argument("--parallel-members", metavar="K", help="K of them at a time, as processes (1)")
        group.add_argument(
            "--bootstrap", action="store_true", help="each learns from training graphs drawn with replacement"
        )
    parser.add_argument("--name", help="name of the run; that of the recipe if not given")
    parser.add_argument("--runs", metavar="DIR", help="folder of all runs (runs)")
    parser.add_argument("--folder", metavar="DIR", help="exact run folder, instead of RUNS/NAME/version_N")
    parser.add_argument(
        "--print_config", action="store_true", help="print the merged recipe with all defaults, and stop"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out a verb of training."""
    if args.verb == "fit":
        plan, words = take_plan(args.rest)
        if plan.members:
            return fit_members(plan, _with_recipe_paths(words))
    from geomlib.training.cli import run_verb
    from geomlib.training.messages import UsageError

    verb = args.verb
    words = _with_recipe_paths(_with_run_folder(verb, args.rest))
    try:
        done = run_verb(verb, words, verbose=args.verbose)
    except UsageError as error:
        print(f"geomlib {verb}: error: {error} (see 'geomlib {verb} --help')", file=sys.stderr)
        return 2
    if not done.trainer.is_global_zero:
        return 0
    if verb == "fit" and done.model_file is not None and done.model_file.path is not None:
        print(f"model file: {_shown(done.model_file.path)} ({done.model_file.choice})")
        print(f"next: geomlib test {_shown(done.model_file.folder)}")
    elif verb == "validate":
        metrics = {name.partition("/")[2]: float(value) for name, value in done.trainer.callback_metrics.items()}
        print(_table("validation set", metrics, {}, lambda name: done.model.metric_unit(name)))
        if not any(name.endswith(tuple(f"_{kind}" for kind in _SCORES)) for name in metrics):  # of text, as below
            print(", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())))
    elif verb == "test" and done.predictions is not None:
        found = done.predictions.metrics
        title = f"test set, {found['graphs']} graphs"
        print(_table(title, found["metrics"], found["mean_predictor"], lambda name: done.model.metric_unit(name)))
        file = done.predictions.folder / "predictions.npz"
        if file.is_file():
            print(f"predictions: {_shown(file)}")
        elif found["metrics"]:  # of text, whose tokens are no predictions that one would keep
            print(", ".join(f"{name} {value:.4g}" for name, value in found["metrics"].items()))
        print(f"next: geomlib report {_shown(done.predictions.folder)}")
    elif verb == "predict" and done.predictions is not None:
        print(f"predictions: {_shown(done.predictions.folder / 'predict.npz')}")
    return 0


_SCORES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "spearman": "Spearman", "auc": "ROC-AUC", "ap": "AP"}
"""Ending of a metric → how it is called."""


def _table(title: str, metrics: Mapping[str, float], reference: Mapping[str, float], unit: Any) -> str:
    """Scores by field as text, those of the mean predictor beside them."""
    from geomlib.units import conversion_factor

    endings = tuple(f"_{kind}" for kind in _SCORES)
    fields = list(dict.fromkeys(name.rpartition("_")[0] for name in metrics if name.endswith(endings)))
    kinds = [kind for kind in _SCORES if any(f"{name}_{kind}" in metrics for name in fields)]
    columns = [_SCORES[kind] for kind in kinds]
    columns += ["MAE of mean predictor", "RMSE of mean predictor"] if reference else []
    rows = [[title, "unit", *columns]]
    for name in fields:
        text, scale = unit(name), 1.0
        if name.rpartition("/")[2] == "stress":
            text, scale = "GPa", conversion_factor(text, "GPa")
        elif text.startswith("eV"):
            text, scale = "m" + text, 1e3
        values = [(metrics.get(f"{name}_{kind}"), scale if kind in ("mae", "rmse") else 1.0) for kind in kinds]
        if reference:
            values += [(reference.get(f"{name}_{kind}"), scale) for kind in ("mae", "rmse")]
        rows.append([name, text, *("–" if value is None else f"{factor * value:.4g}" for value, factor in values)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        pairs = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in pairs))
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def _shown(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _with_run_folder(verb: str, words: Sequence[str]) -> list[str]:
    """Replace a leading run folder by its recipe and its best checkpoint."""
    if verb == "fit" or not words or words[0].startswith("-"):
        return list(words)
    folder = Path(words[0])
    recipe = folder / "config.yaml"
    if not recipe.is_file():
        raise ConfigError(f"{folder}: is not a run folder (it has no config.yaml)")
    typed = [word.partition("=")[0] for word in words]
    found = ["-c", str(recipe)]
    if "--ckpt_path" not in typed:
        kinds = [folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        file = next((path for path in kinds if path.is_file()), None)
        if file is None:
            raise ConfigError(f"{folder}: holds no checkpoint; the fit ended before its first epoch did")
        found += ["--ckpt_path", str(file)]
    return [*found, *words[1:]]


def _with_recipe_paths(words: Sequence[str]) -> list[str]:
    """Replace the names of recipes that come along by their paths."""
    out: list[str] = []
    for word in words:
        if out and out[-1] in ("-c", "--config"):
            out.append(word if Path(word).is_file() else str(find_recipe(word).path))
        elif word.startswith("--config="):
            value = word.partition("=")[2]
            out += ["-c", value if Path(value).is_file() else str(find_recipe(value).path)]
        else:
            out.append(word)
    return out
