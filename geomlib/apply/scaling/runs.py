"""Finished training runs as a scaling law sees them: sizes, data, loss, and how they were trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomlib.data.tables import read_table
from geomlib.errors import DataError, nearest

__all__ = ["SHAPES", "Runs", "read_runs"]

SHAPES = {
    "ff": ("feed-forward ratio F/H", "ff", "hidden"),
    "head": ("head size H/heads", "hidden", "heads"),
    "aspect": ("aspect ratio H/layers", "hidden", "n_layers"),
}
"""Shape of an encoder → its name in words, and the columns that it is the ratio of."""

_MINIMUM = 6


@dataclass(frozen=True)
class Runs:
    """Finished runs.

    Attributes:
        parameters: N of each run, without the embedding.
        tokens: D of each run.
        loss: that it ended with.
        rate: learning rate, where it varies.
        batch: molecules or sequences per step, where there are learning rates.
        shapes: key of `SHAPES` → its value in each run, of those that vary.
        notes: what was left out, and why.
    """

    parameters: NDArray[np.float64]
    tokens: NDArray[np.float64]
    loss: NDArray[np.float64]
    rate: NDArray[np.float64] | None = None
    batch: NDArray[np.float64] | None = None
    shapes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def compute(self) -> NDArray[np.float64]:
        """C = 6 N D of each run [FLOP]."""
        return 6.0 * self.parameters * self.tokens

    def __len__(self) -> int:
        return len(self.loss)


def read_runs(path: str | Path) -> Runs:
    """Runs from a CSV file.

    Needed columns: `tokens`, `loss`, and either `n_par` or all of `n_layers`, `hidden`, `ff`, from which
    N = n_layers (4 hidden² + 2 hidden·ff). With `lr` and `batch` the learning rate is penalised, with `heads` and the
    three sizes the shape of the net; a column that is the same in all runs says nothing and is left out.

    Raises:
        FileFormatError: the file can't be read.
        DataError: a needed column is missing, a cell is no positive number, or there are too few runs.
    """
    columns, lines = read_table(path)
    wanted = ["n_layers", "hidden", "ff", "heads", "n_par", "tokens", "loss", "lr", "batch"]
    known = [name for name in wanted if name in columns]
    _check_columns(path, columns)
    cells: dict[str, list[float]] = {name: [] for name in known}
    for line in lines:
        where = f"{path}, row {line.row} (line {line.line})"
        if line.problem:
            raise DataError(f"{where}: {line.problem}")
        for name in known:
            cells[name].append(_positive(line.cells[name], where, name))
    table = {name: np.array(values) for name, values in cells.items()}
    if len(table["loss"]) < _MINIMUM:
        raise DataError(f"{path}: {len(table['loss'])} runs; a law of five constants needs at least {_MINIMUM}")
    if "n_par" in table:
        parameters = table["n_par"]
    else:
        layers, hidden, forward = table["n_layers"], table["hidden"], table["ff"]
        parameters = layers * (4 * hidden**2 + 2 * hidden * forward)
    for name, values in (("N", parameters), ("tokens", table["tokens"])):
        if not _varies(values):
            raise DataError(f"{path}: {name} is {values[0]:g} in all runs, so its exponent can't be found; vary it")
    notes: list[str] = []
    rate = batch = None
    if "lr" in table:
        if _varies(table["lr"]):
            rate, batch = table["lr"], table["batch"]
        else:
            notes.append(f"the learning rate is {table['lr'][0]:g} in all runs: no penalty for it")
    shapes: dict[str, NDArray[np.float64]] = {}
    for name, (words, above, below) in SHAPES.items():
        if above in table and below in table:
            ratio = table[above] / table[below]
            if _varies(ratio):
                shapes[name] = ratio
            else:
                notes.append(f"the {words} is {ratio[0]:g} in all runs: no penalty for it")
    return Runs(parameters, table["tokens"], table["loss"], rate, batch, shapes, tuple(notes))


def _check_columns(path: str | Path, columns: Sequence[str]) -> None:
    def missing(names: Sequence[str], why: str = "") -> None:
        for name in names:
            if name not in columns:
                raise DataError(
                    f"{path}: has no column '{name}'{nearest(name, columns)}{why}; it has {', '.join(columns)}"
                )

    missing(["loss", "tokens"])
    if "n_par" not in columns:
        sizes = ("n_layers", "hidden", "ff")
        if not any(name in columns for name in sizes):
            raise DataError(
                f"{path}: does not say how large the nets are{nearest('n_par', columns)}; expected a column n_par, or "
                f"{', '.join(sizes)}; it has {', '.join(columns)}"
            )
        missing(sizes, ", which the number of parameters is counted from")
    if "lr" in columns:
        missing(["batch"], ", which the best learning rate depends on")


def _positive(text: str, where: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise DataError(f"{where}: column '{column}' holds '{text}'; expected a positive number")
    return value


def _varies(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) > 1e-9 * np.abs(values).max())
