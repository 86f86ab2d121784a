"""The parts of a run's report that say what its model of molecules looks at."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from geomlib.apply.explain import explain, explanation_sections
from geomlib.apply.predict import Predictor
from geomlib.apply.report.interpretability import Coloring
from geomlib.apply.report.parts import Section
from geomlib.apply.run_folder import RunFolder
from geomlib.data.cards import CardStore
from geomlib.data.molecules import to_smiles
from geomlib.data.stores import Store
from geomlib.data.tables import TableStore
from geomlib.errors import DataError, GeomlibError
from geomlib.files.committee import COMMITTEE_FILE

__all__ = ["run_explanation", "tested_molecules"]

_MOLECULES = 6
_LIMIT = 1000
_OPTIONS = ("path", "smiles", "errors", "check", "delimiter")


def run_explanation(run: RunFolder) -> tuple[list[Section], list[str]]:
    """Sections about the molecules that a run was tested on, and sentences about what could not be made.

    Atoms are shown for six molecules from the lowest to the highest prediction of the first target.

    Args:
        run: of a net of properties.
    """
    try:
        predictor, rows, values = tested_molecules(run)
        order = np.argsort(values[:, 0], kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, min(_MOLECULES, len(order))).astype(int))]
        first = set(chosen.tolist())
        places = [*chosen.tolist(), *(k for k in range(len(rows)) if k not in first)][:_LIMIT]
        found = explain(
            _model(run),
            [rows[k] for k in places],
            molecules=len(chosen),
            coloring=Coloring(predictor.targets[0].name, values[places, 0]),
        )
    except GeomlibError as error:
        return [], [f"What the model looks at can't be shown: {error}."]
    return explanation_sections(found), found.missing


def tested_molecules(run: RunFolder) -> tuple[Predictor, list[str], NDArray[np.float64]]:
    """The model, the molecules that a run was tested on, and their predictions.

    The table is that of the run's recipe. That neither it nor the model has changed since the test is checked by
    predicting again.

    Raises:
        DataError: they can't be found, are mixtures, or have changed.
        GeomlibError: a file can't be read.
    """
    file = run.path / "predictions.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        numbers, values = stored["sample_id"].astype(np.int64), stored["target_prediction"].astype(np.float64)
    store = _store(run)
    if len(numbers) and int(numbers.max()) >= len(store):
        raise DataError(
            f"the data have {len(store)} rows, but the test used row {int(numbers.max())}: they have changed"
        )
    texts = [to_smiles(store[int(k)]) for k in numbers]
    if any(len(row) > 1 for row in texts):
        raise DataError("the run is about mixtures")
    rows = [row[0] for row in texts]
    predictor = Predictor(_model(run))
    again = predictor.predict(rows[:50])
    scale = np.ptp(values, axis=0) + 1e-6
    if not (np.abs(again.values[:, : values.shape[1]] - values[:50]) <= 0.01 * scale).all():
        raise DataError("predictions of the tested molecules are not those of the test: model or data have changed")
    return predictor, rows, values


def _model(run: RunFolder) -> Path:
    committee = run.path / COMMITTEE_FILE
    return committee if committee.is_file() else run.path / "model.safetensors"


def _store(run: RunFolder) -> Store:
    """The store that the recipe names, if it is a table or a card; nothing else is made of a name in a file."""
    given = yaml.safe_load(run.recipe or "") or {}
    row: Any = given.get("data", {})
    row = row.get("init_args", row) if isinstance(row, dict) else {}
    row = row.get("store", {}) if isinstance(row, dict) else {}
    if not isinstance(row, dict):
        row = {}
    kind, options = str(row.get("class_path", "")).rpartition(".")[2], row.get("init_args") or {}
    if kind == "TableStore" and not options.get("fractions") and isinstance(options.get("smiles", "smiles"), str):
        return TableStore(**{name: options[name] for name in _OPTIONS if name in options})
    if kind == "CardStore":
        return CardStore(str(options.get("name")))
    raise DataError(f"the data of the run are no table of molecules ({kind or 'its recipe names none'})")
