"""`geomlib doctor`: whether this installation can work, and what it can use."""

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

__all__ = ["Check", "checks", "configure", "run"]

_MODULES = {"torch-geometric": "torch_geometric", "pyyaml": "yaml"}
"""Distribution → module, where the two names differ by more than `-` and `_`."""

_HARMFUL = {
    ("lightning", "2.6.2"),
    ("lightning", "2.6.3"),
    ("pytorch-lightning", "2.6.2"),
    ("pytorch-lightning", "2.6.3"),
}
"""Releases that were uploaded by an attacker (GHSA-w37p-236h-pfx3)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis.

    Args:
        group: heading.
        name: what was looked at.
        status: `ok`; `info` where there is nothing to judge; `absent` for something optional; `warning`; `broken`
            for something that is required.
        detail: what was found and, if it is not good, what to do.
    """

    group: str
    name: str
    status: Literal["ok", "info", "absent", "warning", "broken"]
    detail: str


def _python() -> Iterator[Check]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    yield Check("python", "python", "ok" if good else "broken", version if good else f"{version}; 3.11 is needed")
    yield Check("python", "platform", "info", platform.platform())
    yield Check("python", "environment", "info", sys.prefix)


def _import_fault(distribution: str) -> str | None:
    """Why the module of a distribution can't be imported, or None if it can."""
    module = _MODULES.get(distribution, distribution.replace("-", "_"))
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # what broken installations raise
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _required() -> Iterator[Check]:
    from packaging.requirements import Requirement

    for line in metadata.requires("geomlib") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and "extra" in str(requirement.marker):
            continue
        name = requirement.name
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check("required", name, "broken", f"not installed: pip install '{name}{requirement.specifier}'")
            continue
        fault = _import_fault(name)
        if fault is not None:
            yield Check("required", name, "broken", f"{version} does not import: {fault}")
        elif version.split("+")[0] not in requirement.specifier:
            yield Check("required", name, "warning", f"{version}; geomlib asks for {requirement.specifier}")
        else:
            yield Check("required", name, "ok", version)


def _harmful() -> Iterator[Check]:
    for name, version in sorted(_HARMFUL):
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed == version:
            yield Check(
                "required",
                f"{name} {version}",
                "broken",
                "this release was uploaded by an attacker (GHSA-w37p-236h-pfx3): remove the environment, "
                "change the credentials that were on this machine, install another release",
            )


def _extras() -> Iterator[Check]:
    from packaging.requirements import Requirement

    members: dict[str, list[str]] = {}
    for line in metadata.requires("geomlib") or []:
        requirement = Requirement(line)
        for extra in metadata.metadata("geomlib").get_all("Provides-Extra") or []:
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
                members.setdefault(extra, []).append(requirement.name)
    for extra, names in members.items():
        missing = []
        found = []
        for name in names:
            try:
                found.append(f"{name} {metadata.version(name)}")
            except metadata.PackageNotFoundError:
                missing.append(name)
        if missing:
            yield Check("extras", extra, "absent", f"{', '.join(missing)}: pip install 'geomlib[{extra}]'")
        else:
            yield Check("extras", extra, "ok", ", ".join(found))


def _hardware() -> Iterator[Check]:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    variables = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    if _import_fault("torch") is None:
        import torch

        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in this build of torch"
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {build}"
                yield Check("hardware", f"cuda:{index}", "ok", detail)
        else:
            yield Check("hardware", "cuda", "absent", f"{build}; everything runs on the CPU")
        threads = ", ".join([f"{torch.get_num_threads()} used by torch", *variables])
        yield Check("hardware", "processors", "info", f"{processors} available, {threads}")
        from geomlib.memory import available_memory

        yield Check("hardware", "memory", "info", f"{available_memory() / 2**30:.1f} GiB available")
    disk = shutil.disk_usage(Path.cwd())
    yield Check("hardware", "disk", "info", f"{disk.free / 2**30:.1f} GiB free in the current folder")


def _surroundings() -> Iterator[Check]:
    import geomlib
    from geomlib.commands.recipes import recipe_folder, recipes
    from geomlib.errors import ConfigError

    yield Check("geomlib", "version", "ok", f"{geomlib.__version__} in {Path(geomlib.__file__).parent}")
    try:
        yield Check("geomlib", "recipes", "ok", f"{len(recipes())} in {recipe_folder()}")
    except ConfigError as error:
        yield Check("geomlib", "recipes", "broken", str(error))
    package = Path(geomlib.__file__).parent
    folders = [folder for folder in (package / "_datasets", package.parent / "datasets") if folder.is_dir()]
    if folders:
        cards = len(list(folders[0].glob("*/card.yaml")))
        yield Check("geomlib", "data sets", "ok", f"{cards} in {folders[0]}")
    else:
        yield Check("geomlib", "data sets", "broken", f"none beside {package}; install geomlib again")
    compiler = shutil.which("g++") or shutil.which("c++")
    missing = "no C++ compiler: torch.compile can't be used on the CPU, nothing else needs one"
    yield Check("geomlib", "C++ compiler", "ok" if compiler else "absent", compiler or missing)


def checks() -> list[Check]:
    """Everything that doctor looks at, in the order of the output; imports every required package."""
    found = [*_surroundings(), *_python()]
    try:
        found += [*_required(), *_harmful(), *_extras()]
    except metadata.PackageNotFoundError:
        found.append(Check("required", "geomlib", "broken", "is not installed: pip install -e . in its folder"))
    except ImportError as error:
        found.append(Check("required", str(error.name), "broken", f"not installed: pip install {error.name}"))
    return [*found, *_hardware()]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib doctor`."""
    parser.description = "Check the installation. Exit code 1 if something that geomlib needs is broken."
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib doctor`."""
    found = checks()
    broken = [check for check in found if check.status == "broken"]
    if args.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in found]}))
        return int(bool(broken))
    width = max(len(check.name) for check in found)
    marks = {"ok": "✓", "info": "·", "absent": "–", "warning": "!", "broken": "✗"}
    group = ""
    for check in found:
        if check.group != group:
            group = check.group
            print(f"\n{group}" if check is not found[0] else group)
        print(f"  {marks[check.status]} {check.name:<{width}}  {check.detail}")
    print()
    if broken:
        print(f"{len(broken)} broken: {', '.join(check.name for check in broken)}")
    else:
        print("All that geomlib needs is here. Next: geomlib fit -c dpa3/quickstart")
    return int(bool(broken))
