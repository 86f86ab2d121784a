"""The run of a committee: what its members said about the test set, put together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomlib.data.scores import scores
from geomlib.errors import DataError, FileFormatError
from geomlib.nn.targets import Target

__all__ = ["join_tests"]

_FIELDS = ("energy", "forces", "stress", "virial", "target", "hamiltonian")


def join_tests(folder: Path, members: Sequence[Path]) -> dict[str, Any]:
    """Write the committee's predictions and errors into its folder, as a test of one model writes them.

    `predictions.npz` holds the means over the members, and beside them `force_deviation` [nodes, eV/Å], the model
    deviation of each force, and `energy_std` [graphs, eV]; of properties `target_std` [graphs, targets].

    Args:
        folder: of the committee.
        members: folders of its members, in which `geomlib test` left what it writes.

    Returns:
        Errors by name, such as `forces_mae`, in the units of `test_metrics.json`: a list of the `members`, the
        `committee`, their `units`.

    Raises:
        FileFormatError: a member's files are missing or damaged.
        DataError: the members were tested on different structures.
    """
    tests = [_read_json(member / "test_metrics.json") for member in members]
    stored = [_read_arrays(member / "predictions.npz") for member in members]
    first = stored[0]
    for member, arrays in zip(members, stored, strict=True):
        for name in ("sample_id", "n_atoms", "atomic_number"):
            if not np.array_equal(arrays.get(name, ()), first.get(name, ())):
                raise DataError(f"{member}: was tested on other structures than {members[0]}; test both on the same")
    joined = dict(first)
    for name in _FIELDS:
        key = f"{name}_prediction"
        if not all(key in arrays for arrays in stored):
            continue
        differences = np.stack([arrays[key].astype(np.float64) - first[key] for arrays in stored])
        joined[key] = first[key] + differences.mean(0)
        if name == "target":
            joined["target_std"] = differences.std(0)
        if name == "energy":
            joined["energy_std"] = differences.std(0)
        if name == "forces":
            joined["force_deviation"] = np.linalg.norm(differences.std(0), axis=1)
    errors = _errors(joined) | _scores(joined, [Target.read(row) for row in tests[0].get("targets", ())])
    metrics = {name: value for name, value in errors.items() if name in tests[0]["metrics"]}
    np.savez(folder / "predictions.npz", **joined)  # type: ignore[arg-type]
    content = {**tests[0], "metrics": metrics}
    (folder / "test_metrics.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [{name: test["metrics"][name] for name in metrics} for test in tests]
    return {"members": rows, "committee": metrics, "units": tests[0]["units"]}


def _scores(arrays: dict[str, NDArray[Any]], targets: Sequence[Target]) -> dict[str, float]:
    """Scores of each target as training tells them, and their means over the targets."""
    found: dict[str, float] = {}
    gathered: dict[str, list[float]] = {}
    for k, target in enumerate(targets):
        columns = (arrays[f"target_{kind}"][:, k].astype(np.float64) for kind in ("reference", "prediction"))
        for name, value in scores(target.kind, *columns).items():
            found[f"{target.name}_{name}"] = value
            gathered.setdefault(name, []).extend([value] if np.isfinite(value) else [])
    return found | {name: float(np.mean(values)) if values else np.nan for name, values in gathered.items()}


def _errors(arrays: dict[str, NDArray[Any]]) -> dict[str, float]:
    """MAE and RMSE as training tells them: over components, energies and virials per atom, without unlabelled items."""
    found = {}
    for name in _FIELDS:
        if name == "target" or f"{name}_reference" not in arrays or f"{name}_prediction" not in arrays:
            continue
        error = arrays[f"{name}_prediction"].astype(np.float64) - arrays[f"{name}_reference"].astype(np.float64)
        if name in ("energy", "virial"):
            error = error / arrays["n_atoms"].reshape(-1, *[1] * (error.ndim - 1))
        error = error[np.isfinite(error)]
        if len(error):
            found[f"{name}_mae"] = float(np.abs(error).mean())
            found[f"{name}_rmse"] = float(np.sqrt((error**2).mean()))
    return found


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{file}: can't be read ({error}); 'geomlib test {file.parent}' writes it") from None
    return content


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"{file}: can't be read ({error}); 'geomlib test {file.parent}' writes it") from None
