"""What the folder of a training run holds, read back."""

import csv
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.apply.calibration import ForceUncertainty
from geomlib.apply.evaluate import SCALES
from geomlib.apply.evaluate_properties import TargetEvaluation, scored
from geomlib.errors import ConfigError, FileFormatError
from geomlib.files.committee import COMMITTEE_FILE, read_committee
from geomlib.files.header import read_manifest
from geomlib.nn.targets import Target

__all__ = ["QUANTITIES", "Comparison", "Curve", "RunFolder", "TestErrors", "read_run"]

QUANTITIES = {**SCALES, "virial": (1e3, "meV/atom")}
"""Quantity → factor from internal units, and the unit of its errors; energies and virials are per atom."""

_MADE_BY_TEST = "'geomlib test' with the run folder writes it"
_CONSEQUENCES = {
    "config.yaml": "so there is no recipe to show",
    "metrics.csv": "so there are no learning curves",
    "test_metrics.json": f"so there are no test errors; {_MADE_BY_TEST}",
    "predictions.npz": f"so there is nothing to compare labels with; {_MADE_BY_TEST}",
    "model.safetensors": "so the facts about the model are left out; it is written when a fit ends",
}
"""File of a run folder → what its absence means."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A number that was logged during a fit.

    Attributes:
        step: optimizer steps done, from 1.
        value: as logged.
    """

    step: NDArray[np.float64]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TestErrors:
    """Errors on the test set, by name such as `forces_mae`.

    Attributes:
        graphs: how many were tested.
        metrics: errors of the model.
        mean_predictor: errors of a predictor that only knows the mean of the training set.
        units: unit of each error.
    """

    graphs: int
    metrics: dict[str, float]
    mean_predictor: dict[str, float]
    units: dict[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Labels and predictions of one quantity.

    Attributes:
        name: `energy` (per atom), `forces`, `stress`, or `virial` (per atom) where there is no stress.
        label: `[items]` or `[items, components]`, in internal units.
        prediction: the same.
        numbers: atomic number of each item of `forces`, else None.
    """

    name: str
    label: NDArray[np.float64]
    prediction: NDArray[np.float64]
    numbers: NDArray[np.int64] | None = None


@dataclass(slots=True)
class RunFolder:
    """A run folder; what it does not hold is None or empty, with a sentence in `missing`.

    Attributes:
        path: the folder.
        recipe: text of `config.yaml`.
        curves: name of a logged number → its course.
        test: errors on the test set.
        comparisons: labels and predictions of the test set.
        properties: of a net of properties, labels, predictions and scores of each target.
        uncertainty: of a committee, deviations and errors of the forces of the test set.
        manifest: of the model file.
        missing: what is not there and what would make it.
        targets: of a net of properties.
    """

    path: Path
    recipe: str | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    test: TestErrors | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    properties: list[TargetEvaluation] = field(default_factory=list)
    uncertainty: ForceUncertainty | None = None
    manifest: dict[str, Any] | None = None
    missing: list[str] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the folder holds none of the files of a run."""
        return len(self.missing) == len(_CONSEQUENCES)

    @property
    def name(self) -> str:
        """Recipe and version, e.g. `dpa3/quickstart/version_0`, below the folder `runs` if there is one."""
        parts = self.path.absolute().parts
        below = parts[parts.index("runs") + 1 :] if "runs" in parts else ()
        return "/".join(below or parts[-1:])


def read_run(path: str | os.PathLike[str]) -> RunFolder:
    """Read a run folder; any of its files may be absent.

    Raises:
        ConfigError: there is no such folder.
        FileFormatError: a file is damaged.
    """
    run = RunFolder(Path(path))
    if not run.path.is_dir():
        raise ConfigError(f"{run.path}: is no run folder")
    files = {name: run.path / name for name in _CONSEQUENCES}
    members = read_committee(run.path / COMMITTEE_FILE) if (run.path / COMMITTEE_FILE).is_file() else []
    if members:  # one recipe and one kind of model for all; the learning curves are each member's own
        files |= {"config.yaml": run.path / "recipe.yaml", "model.safetensors": members[0]}
        del files["metrics.csv"]
    for name, file in files.items():
        consequence = _CONSEQUENCES[name]
        if not file.is_file():
            run.missing.append(f"{file.name} is missing, {consequence}.")
            continue
        try:
            _READERS[name](run, file)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise FileFormatError(f"{file}: is damaged: {' '.join(str(error).split())}") from None
    if members and run.manifest is not None:
        run.manifest = {**run.manifest, "members": len(members)}
    return run


def _read_recipe(run: RunFolder, file: Path) -> None:
    run.recipe = file.read_text(encoding="utf-8")


def _read_model(run: RunFolder, file: Path) -> None:
    run.manifest = read_manifest(file)


def _read_test(run: RunFolder, file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    run.targets = [Target.read(row) for row in content.get("targets", ())]
    run.test = TestErrors(
        graphs=int(content["graphs"]),
        metrics={name: float(value) for name, value in content["metrics"].items()},
        mean_predictor={name: float(value) for name, value in content["mean_predictor"].items()},
        units={name: str(value) for name, value in content["units"].items()},
    )


def _read_curves(run: RunFolder, file: Path) -> None:
    """Columns of the log; Lightning counts steps from 0 and leaves a cell empty where nothing was logged."""
    points: dict[str, list[tuple[float, float]]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = float(row.pop("step")) + 1
            row.pop("epoch", None)
            for name, cell in row.items():
                if cell:
                    points.setdefault(name, []).append((step, float(cell)))
    for name, pairs in points.items():
        array = np.array(pairs)
        run.curves[name] = Curve(array[:, 0], array[:, 1])


def _read_predictions(run: RunFolder, file: Path) -> None:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if run.targets and "target_reference" in arrays:
        _read_properties(run, arrays)
    atoms = arrays["n_atoms"].astype(np.float64)
    for name in QUANTITIES:
        if f"{name}_reference" not in arrays or f"{name}_prediction" not in arrays:
            continue
        label, prediction = (arrays[f"{name}_{kind}"].astype(np.float64) for kind in ("reference", "prediction"))
        if label.shape != prediction.shape:
            raise ValueError(f"{name} has labels {label.shape} and predictions {prediction.shape}")
        if name == "virial" and any(row.name == "stress" for row in run.comparisons):
            continue
        if name in ("energy", "virial"):
            per_atom = atoms.reshape(-1, *[1] * (label.ndim - 1))
            label, prediction = label / per_atom, prediction / per_atom
        known = np.isfinite(label).reshape(len(label), -1).all(1)
        numbers = arrays["atomic_number"][known] if name == "forces" else None
        if known.any():
            run.comparisons.append(Comparison(name, label[known], prediction[known], numbers))
        if name == "forces" and known.any() and "force_deviation" in arrays:
            owner = np.repeat(np.arange(len(atoms)), arrays["n_atoms"])
            sizes = np.bincount(owner[known], minlength=len(atoms))
            error = prediction[known] - label[known]
            run.uncertainty = ForceUncertainty(arrays["force_deviation"][known], error, sizes[sizes > 0])


def _read_properties(run: RunFolder, arrays: dict[str, NDArray[Any]]) -> None:
    labels, predictions = (arrays[f"target_{kind}"].astype(np.float64) for kind in ("reference", "prediction"))
    if labels.shape != predictions.shape or labels.shape[1] != len(run.targets):
        raise ValueError(f"{len(run.targets)} targets, labels {labels.shape} and predictions {predictions.shape}")
    for k, target in enumerate(run.targets):
        known = np.isfinite(labels[:, k])
        if known.any():
            spread = arrays["target_std"][known, k].astype(np.float64) if "target_std" in arrays else None
            run.properties.append(scored(target, labels[known, k], predictions[known, k], spread))


_READERS: dict[str, Callable[[RunFolder, Path], None]] = {
    "config.yaml": _read_recipe,
    "metrics.csv": _read_curves,
    "test_metrics.json": _read_test,
    "predictions.npz": _read_predictions,
    "model.safetensors": _read_model,
}
