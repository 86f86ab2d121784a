"""Errors of a potential on labelled structures."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from geomlib.apply.ase import Calculator
from geomlib.apply.budget import Budget
from geomlib.apply.calibration import Calibration, ForceUncertainty, calibration
from geomlib.apply.committee import model_deviation
from geomlib.apply.trajectory import TrajectoryFile
from geomlib.data.atoms import to_atoms
from geomlib.data.elements import SYMBOLS
from geomlib.data.graph import GraphData
from geomlib.data.stores import Store
from geomlib.errors import DataError

__all__ = ["SCALES", "Errors", "Evaluation", "Pairs", "errors_of", "evaluate"]


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one quantity.

    Attributes:
        mae: mean absolute error.
        rmse: root mean square error.
        spread: root mean square of the labels about their mean, the RMSE of a predictor that only knows the mean.
        count: numbers compared.
        unit: of all but the count.
    """

    mae: float
    rmse: float
    spread: float
    count: int
    unit: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        structures: how many were compared.
        errors: by quantity: `energy` (per atom), `forces` and `stress` (components); only what the data has.
        forces_by_element: errors of the forces on the atoms of each element.
        skipped: (where, why) of structures that could not be used.
        uncertainty: of a committee, how its deviation compares with the errors of its forces; else None.
        pairs: what was compared, item by item.
    """

    structures: int
    errors: dict[str, Errors]
    forces_by_element: dict[str, Errors]
    skipped: list[tuple[str, str]]
    uncertainty: Calibration | None
    pairs: "Pairs"


SCALES = {"energy": (1e3, "meV/atom"), "forces": (1e3, "meV/Å"), "stress": (160.21766208, "GPa")}
"""Quantity → factor from internal units, and the unit that its errors are told in; energies are per atom."""


@dataclass(slots=True)
class Pairs:
    """Labels and predictions so far, an array of each structure that has the label.

    Attributes:
        labels: by key of `SCALES`, in internal units; energies per atom.
        predictions: the same.
        numbers: atomic numbers of the structures with forces.
        deviations: model deviation of their forces [atoms, eV/Å], if a committee predicted them.
    """

    labels: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: {name: [] for name in SCALES})
    predictions: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: {name: [] for name in SCALES})
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    deviations: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, atoms: Atoms, labels: dict[str, Any], results: dict[str, Any]) -> None:
        """Add what can be compared of a structure."""
        for name, value in labels.items():
            if name not in results:
                continue
            predicted, scale = np.asarray(results[name]), len(atoms) if name == "energy" else 1
            if name == "stress":
                predicted = voigt_6_to_full_3x3_stress(predicted)
            self.labels[name].append(np.atleast_1d(value / scale))
            self.predictions[name].append(np.atleast_1d(predicted / scale))
            if name == "forces":
                self.numbers.append(atoms.numbers)
                if "forces_std" in results:
                    self.deviations.append(model_deviation(results).forces)

    def uncertainty(self) -> ForceUncertainty | None:
        """Deviation beside error of all forces; None without a committee or labels."""
        if not self.deviations:
            return None
        error = np.concatenate(self.predictions["forces"]) - np.concatenate(self.labels["forces"])
        return ForceUncertainty(np.concatenate(self.deviations), error, np.array([len(row) for row in self.numbers]))


def evaluate(
    calculator: Calculator,
    store: Store,
    max_atoms: int | str = 256,
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a potential with labels.

    With a committee it is the mean that is compared, and its model deviation with the errors of the forces. A structure
    that can't be used (unknown element, a position or label that is no number, a prediction that is not
    finite) is skipped and listed. Where a structure has a virial and no stress, its stress is −virial/volume.

    Args:
        calculator: of the potential.
        store: with at least one of energy, forces, stress, virial.
        max_atoms: a batch holds at most so many atoms, or `"auto"` for what memory and speed allow.
        output: extended XYZ file for the structures with predictions; labels stand beside them as `reference_energy`,
            `reference_forces`, `reference_stress`, and of a committee the columns of the model deviation and the array
            `force_deviation`.
        progress: called with the number of structures done and their total.

    Raises:
        DataError: no structure could be used, or none has a label.
    """
    pairs, skipped = Pairs(), list[tuple[str, str]]()
    used = 0
    writer = None if output is None else TrajectoryFile(output)
    budget = Budget.of(max_atoms)
    read_ahead = max_atoms if isinstance(max_atoms, int) else _READ_AHEAD
    for batch in _usable(calculator, store, read_ahead, skipped, progress):
        for atoms, labels, results in _predicted(calculator, batch, budget, skipped):
            used += 1
            pairs.add(atoms, labels, results)
            if writer is not None:
                writer.write(_with_predictions(atoms, labels, results))
    if writer is not None:
        writer.close()
    if not used:
        reason = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"none of {len(store)} structures could be used{reason}")
    errors = {
        name: errors_of(pairs.labels[name], pairs.predictions[name], name) for name in SCALES if pairs.labels[name]
    }
    if not errors:
        raise DataError(
            f"the data has no energy, forces, stress or virial to compare with; it has {list(store.fields)}"
        )
    uncertainty = pairs.uncertainty()
    found = None if uncertainty is None else calibration(uncertainty)
    return Evaluation(used, errors, _by_element(pairs), skipped, found, pairs)


_READ_AHEAD = 8192
"""Atoms that are read before batches are made of them, where memory decides how large these are."""

_Row = tuple[Atoms, dict[str, Any], str]


def _usable(
    calculator: Calculator,
    store: Store,
    max_atoms: int,
    skipped: list[tuple[str, str]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[list[_Row]]:
    """Batches of (structure, labels, where it is from)."""
    batch: list[_Row] = []
    count = 0
    for index in range(len(store)):
        where = store.describe(index)
        try:
            graph = store[index]
            atoms, labels = _structure(graph), _labels(graph)
            calculator.check(atoms)
        except DataError as error:
            skipped.append((where, str(error)))
            continue
        if batch and count + len(atoms) > max_atoms:
            yield batch
            batch, count = [], 0
        batch.append((atoms, labels, where))
        count += len(atoms)
        if progress is not None:
            progress(index + 1, len(store))
    if batch:
        yield batch


def _predicted(
    calculator: Calculator, batch: list[_Row], budget: Budget, skipped: list[tuple[str, str]]
) -> Iterator[tuple[Atoms, dict[str, Any], dict[str, Any]]]:
    try:
        results = calculator.evaluate([atoms for atoms, _, _ in batch], budget)
    except DataError as error:
        if len(batch) == 1:
            skipped.append((batch[0][2], str(error)))
            return
        for row in batch:  # find the one that can't be predicted, keep the others
            yield from _predicted(calculator, [row], budget, skipped)
        return
    for (atoms, labels, _), result in zip(batch, results, strict=True):
        yield atoms, labels, result


def _structure(graph: GraphData) -> Atoms:
    atoms = to_atoms(graph)
    atoms.calc = None
    return atoms


def _labels(graph: GraphData) -> dict[str, Any]:
    """Labels as numpy's arrays; what the data set lacks altogether, or this structure, is left out.

    Raises:
        DataError: a label is no number in places.
    """
    labels: dict[str, Any] = {}
    for name in ("energy", "forces", "stress", "virial"):
        if name not in graph:
            continue
        value = graph[name].double().numpy()
        if np.isnan(value).all():
            continue
        if not np.isfinite(value).all():
            item = int(np.flatnonzero(~np.isfinite(value).reshape(len(value), -1).all(1))[0])
            raise DataError(f"'{name}' is NaN or infinite" + (f" at atom {item}" if name == "forces" else ""))
        labels[name] = value if name == "forces" else value[0]
    if "virial" in labels:
        virial = labels.pop("virial")
        volume = abs(float(np.linalg.det(graph.cell[0].numpy()))) if "cell" in graph else 0.0
        if "stress" not in labels and volume > 0:
            labels["stress"] = -virial / volume
    return labels


def _with_predictions(atoms: Atoms, labels: dict[str, Any], results: dict[str, Any]) -> Atoms:
    frame: Atoms = atoms.copy()
    for name, value in labels.items():
        if name == "forces":
            frame.set_array("reference_forces", value)
        else:
            frame.info[f"reference_{name}"] = value
    if "forces_std" in results:
        deviation = model_deviation(results)
        frame.info.update(deviation.columns())
        frame.set_array("force_deviation", deviation.forces)
    kept = {name: results[name] for name in ("energy", "forces", "stress") if name in results}
    frame.calc = SinglePointCalculator(frame, **kept)
    return frame


def errors_of(labels: list[NDArray[np.float64]], predictions: list[NDArray[np.float64]], name: str) -> Errors:
    """Errors of one quantity.

    Args:
        labels: arrays of any shape, in internal units; energies per atom.
        predictions: the same.
        name: key of `SCALES`.
    """
    scale, unit = SCALES[name]
    label = scale * np.concatenate([value.reshape(-1) for value in labels])
    difference = scale * np.concatenate([value.reshape(-1) for value in predictions]) - label
    return Errors(
        mae=float(np.abs(difference).mean()),
        rmse=float(np.sqrt((difference**2).mean())),
        spread=float(label.std()),
        count=len(label),
        unit=unit,
    )


def _by_element(pairs: Pairs) -> dict[str, Errors]:
    if not pairs.numbers:
        return {}
    numbers = np.concatenate(pairs.numbers)
    labels, predictions = np.concatenate(pairs.labels["forces"]), np.concatenate(pairs.predictions["forces"])
    return {
        SYMBOLS[number]: errors_of([labels[numbers == number]], [predictions[numbers == number]], "forces")
        for number in np.unique(numbers).tolist()
    }
