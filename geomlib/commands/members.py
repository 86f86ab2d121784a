"""`geomlib fit --members N`: a committee, each member a fit of its own."""

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from geomlib.errors import ConfigError

__all__ = ["Plan", "fit_members", "take_plan"]


class Plan(argparse.Namespace):
    """What the options about members say.

    Attributes:
        members: how many; 0 for an ordinary fit.
        parallel_members: how many at a time.
        bootstrap: whether each trains on a resampled training set.
        resume: run folder, or `auto`.
    """

    members: int
    parallel_members: int
    bootstrap: bool
    resume: str | None


def take_plan(words: Sequence[str]) -> tuple[Plan, list[str]]:
    """Take the options about members out of the words after `fit`; `--resume` only where there are members.

    Raises:
        ConfigError: one is no sensible number.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--members", type=int, default=0)
    parser.add_argument("--parallel-members", "--parallel_members", type=int, default=1)
    parser.add_argument("--bootstrap", action="store_true")
    try:
        plan, rest = parser.parse_known_args(words, Plan(resume=None))
        if plan.members:
            parser.add_argument("--resume")
            plan, rest = parser.parse_known_args(words, Plan())
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; expected a number, e.g. --members 4") from None
    if not plan.members and "--members" in " ".join(words):
        raise ConfigError("--members 0: a committee has at least two members")
    if plan.members and plan.members < 2:
        raise ConfigError(f"--members {plan.members}: a committee has at least two members")
    if not plan.members and len(rest) < len(words):
        raise ConfigError("--parallel-members and --bootstrap need --members, the size of the committee")
    if plan.parallel_members < 1:
        raise ConfigError(f"--parallel-members {plan.parallel_members}: expected at least 1")
    return plan, rest


def fit_members(plan: Plan, words: Sequence[str]) -> int:
    """Fit all members, test them, and write `committee.json`; an exit code, 128 + n if signal n ended it.

    Each member is a fit in a process of its own, in `member_k` below the committee's folder: the recipe is the same,
    and so are the parts of the data; `seed_everything` and `data.seed` (the order of the batches) are larger by k. A
    member that was interrupted goes on in `member_k-resumed_1` and so on, as every resumed fit has a new folder.
    """
    import yaml

    from geomlib.training.cli import run_name

    words = list(words)
    begun = None
    if plan.resume is not None and plan.resume != "auto":
        begun = Path(plan.resume)
        if not (begun / "recipe.yaml").is_file():
            raise ConfigError(f"--resume {begun}: is no folder of a committee (it has no recipe.yaml), nor 'auto'")
        if not any(word.partition("=")[0] in ("-c", "--config") for word in words):
            words = ["-c", str(begun / "recipe.yaml"), *words]
    recipe = _merged(words)
    if recipe.get("ckpt_path") is not None or recipe.get("resume") is not None:
        raise ConfigError("members of a committee start on their own; --model.weights gives all of them the same start")
    files = [words[k + 1] for k, word in enumerate(words[:-1]) if word in ("-c", "--config")]
    files += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named = Path(recipe["runs"]) / (recipe["name"] or run_name(files))
    folder = begun or _folder(named, recipe["folder"], resume=plan.resume == "auto")
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: recipe[key] for key in ("seed_everything", "model", "data", "trainer")}
    _keep_recipe(folder / "recipe.yaml", yaml.safe_dump(kept, sort_keys=False))
    print(f"committee of {plan.members} in {folder}", file=sys.stderr)
    team = _Team([_Member(folder, k, kept, plan) for k in range(plan.members)], plan.parallel_members)
    code = team.run()
    if code:
        print(f"go on with: geomlib fit --members {plan.members} --resume {folder}", file=sys.stderr)
        return code
    return _conclude(folder, [member.finished for member in team.members if member.finished is not None])


def _merged(words: Sequence[str]) -> dict[str, Any]:
    """The recipe with all defaults and what was typed, and the options of a fit beside it."""
    import yaml

    from geomlib.training.cli import run_verb

    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):  # the parser prints and leaves
        run_verb("fit", [*words, "--print_config"])
    recipe: dict[str, Any] = yaml.safe_load(text.getvalue())
    return recipe


def _folder(named: Path, folder: str | None, *, resume: bool) -> Path:
    """Folder of the committee: the exact one, the latest that is a committee's, or the next version."""
    if folder is not None:
        if not resume and (Path(folder) / "recipe.yaml").exists():
            raise ConfigError(f"--folder {folder}: already holds a committee; --resume {folder} goes on with it")
        return Path(folder)
    versions = {
        int(path.name.removeprefix("version_")): path for path in named.glob("version_*") if path.name[8:].isdigit()
    }
    committees = [version for version, path in versions.items() if (path / "recipe.yaml").is_file()]
    if resume and committees:
        return versions[max(committees)]
    return named / f"version_{max(versions, default=-1) + 1}"


def _keep_recipe(file: Path, text: str) -> None:
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        print(f"geomlib: {file} changes; members that have finished stay as they are", file=sys.stderr)
    file.write_text(text, encoding="utf-8")


class _Member:
    """One fit and its test.

    Args:
        folder: of the committee, with `recipe.yaml`.
        number: k.
        recipe: what that file holds.
        plan: of the committee.
    """

    def __init__(self, folder: Path, number: int, recipe: dict[str, Any], plan: Plan) -> None:
        self.number, self._folder = number, folder
        seed = recipe["seed_everything"]
        self._options = ["--seed_everything", str((seed if type(seed) is int else 0) + number)]
        data = recipe["data"]["init_args"]
        if "seed" in data:
            self._options += ["--data.seed", str(data["seed"] + number)]
        if plan.bootstrap:
            resampled = {"split": data.get("split"), "seed": number}
            split = {"class_path": "geomlib.data.splits.BootstrapSplit", "init_args": resampled}
            self._options += ["--data.split", json.dumps(split)]

    @property
    def attempts(self) -> list[Path]:
        """Folders of this member, the latest last."""
        name = f"member_{self.number}"
        found = {0: self._folder / name} if (self._folder / name).is_dir() else {}
        for path in self._folder.glob(f"{name}-resumed_*"):
            if match := re.fullmatch(rf"{name}-resumed_(\d+)", path.name):
                found[int(match.group(1))] = path
        return [found[number] for number in sorted(found)]

    @property
    def finished(self) -> Path | None:
        """Folder in which the fit came to its end."""
        return next((path for path in self.attempts if (path / "model.safetensors").is_file()), None)

    def commands(self) -> Iterator[list[str]]:
        """What is still to be done, each command once the one before has ended well."""
        python = [sys.executable, "-m", "geomlib"]
        if self.finished is None:
            attempts = self.attempts
            name = f"member_{self.number}" + (f"-resumed_{len(attempts)}" if attempts else "")
            words = ["-c", str(self._folder / "recipe.yaml"), *self._options, "--folder", str(self._folder / name)]
            saved = [path / "checkpoints" / "last.ckpt" for path in attempts]
            saved = [path for path in saved if path.is_file()]
            yield [*python, "fit", *words, *(["--resume", str(saved[-1])] if saved else [])]
        if self.finished is not None and not (self.finished / "test_metrics.json").is_file():
            yield [*python, "test", str(self.finished)]


class _Team:
    """Members that run one after the other, or some at a time.

    Args:
        members: all of them.
        at_once: how many at a time.
    """

    def __init__(self, members: Sequence[_Member], at_once: int) -> None:
        self.members = members
        self._at_once = min(at_once, len(members))
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = 0

    def run(self) -> int:
        """Run what is left to do; the exit code of the first that failed, or 128 + a signal."""
        with self._signals(), ThreadPoolExecutor(self._at_once) as pool:
            codes = list(pool.map(self._run, self.members))
        return self._stopped or next((code for code in codes if code), 0)

    def _run(self, member: _Member) -> int:
        for command in member.commands():
            with self._lock:
                if self._stopped:
                    return self._stopped
                process = self._start(command)
                self._running.add(process)
            if self._stopped:  # the signal came just before this one began
                process.send_signal(signal.SIGTERM)
            self._say(member.number, process, command[3])
            code = process.wait()
            with self._lock:
                self._running.discard(process)
            if code and not self._stopped:
                print(f"geomlib: member {member.number}: {command[3]} ended with exit code {code}", file=sys.stderr)
                self._stopped = 1 if command[3] == "fit" else 0  # there may be no test set: that is no one's failure
            if code and self._stopped:
                return code
        return 0

    def _start(self, command: list[str]) -> "subprocess.Popen[str]":
        environment = dict(os.environ)
        if self._at_once > 1:
            share = max(1, (os.cpu_count() or 1) // self._at_once)
            environment.setdefault("OMP_NUM_THREADS", str(share))
        many = subprocess.PIPE if self._at_once > 1 else None
        # what a fit prints when it ends is said for all members together
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=many, text=True, env=environment)

    def _say(self, number: int, process: "subprocess.Popen[str]", verb: str) -> None:
        """Pass on what a member says, its number before each line where several talk."""
        if process.stderr is None:
            if verb == "fit":
                print(f"member {number}", file=sys.stderr, flush=True)
            return
        for line in process.stderr:
            print(f"member {number}: {line}", end="", file=sys.stderr, flush=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """On SIGTERM and SIGINT end the members, which write their checkpoints, and then this process."""

        def end(number: int, frame: FrameType | None) -> None:
            self._stopped = self._stopped or 128 + number
            for process in tuple(self._running):
                process.send_signal(signal.SIGTERM)

        kinds = (signal.SIGTERM, signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = [signal.signal(kind, end) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)


def _conclude(folder: Path, members: Sequence[Path]) -> int:
    """Write the committee's files and print the errors of all."""
    from geomlib.apply.committee_run import join_tests
    from geomlib.files.committee import COMMITTEE_FILE, write_committee

    tested = all((path / "test_metrics.json").is_file() for path in members)
    errors = join_tests(folder, members) if tested else None
    models = [path / "model.safetensors" for path in members]
    file = write_committee(folder / COMMITTEE_FILE, models, {} if errors is None else {"test": errors})
    print("there are no test errors" if errors is None else "\n".join(_table(errors)))
    print(f"committee: {file}")
    of_properties = "PropertyTask" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    use = f"evaluate {file} TABLE.csv" if of_properties else f"md {file} STRUCTURE --stop-if-deviation 0.5"
    print(f"next: geomlib report {folder}   or geomlib {use}")
    return 0


def _table(errors: dict[str, Any]) -> list[str]:
    """Errors of the members and of the committee, one line each."""
    from geomlib.units import conversion_factor

    head, units, scales = ["test set"], [""], []
    for name in errors["committee"]:
        unit = errors["units"][name]
        shown = "GPa" if name.startswith("stress") else f"m{unit}" if unit.startswith("eV") else unit
        scales.append(conversion_factor(unit, shown) if name.startswith("stress") else 1e3 if shown != unit else 1.0)
        head.append(" ".join([name.rpartition("_")[0], name.rpartition("_")[2].upper()]))
        units.append(shown)
    rows = [(f"member {k}", row) for k, row in enumerate(errors["members"])] + [("committee", errors["committee"])]
    cells = [
        [title, *(f"{scale * value:.4g}" for scale, value in zip(scales, row.values(), strict=True))]
        for title, row in rows
    ]
    return [
        "".join(cell.ljust(12) if k == 0 else cell.rjust(14) for k, cell in enumerate(row))
        for row in [head, units, *cells]
    ]
