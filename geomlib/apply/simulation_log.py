"""The log of a simulation, and what can be said from it."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomlib.errors import FileFormatError

__all__ = ["DynamicsSummary", "beside", "read_log", "summarize"]


@dataclass(frozen=True, slots=True)
class DynamicsSummary:
    """What came of a simulation, from its log.

    Attributes:
        steps: steps from the start, also of earlier parts.
        time_fs: simulated time.
        temperature_K: mean over the second half.
        drift_meV_per_atom: how far a straight line through the conserved energy rises over the whole time; None where
            the ensemble conserves none.
        drift_meV_per_atom_per_ps: its slope.
        fluctuation_meV_per_atom: root mean square of the conserved energy about that line.
        pressure_GPa: mean over the second half; None without stress.
        trajectory: file of the frames.
        log: file of the log.
        state: file to resume from.
        seconds_per_step: wall time of the steps of this part.
        max_deviation: largest model deviation of a force in the log [eV/Å]; None without a committee.
        stopped_at_deviation: the one that ended this part before its last step [eV/Å].
        selected: frames that stand in the file for labelling; None if none were to be selected.
    """

    steps: int
    time_fs: float
    temperature_K: float
    drift_meV_per_atom: float | None
    drift_meV_per_atom_per_ps: float | None
    fluctuation_meV_per_atom: float | None
    pressure_GPa: float | None
    trajectory: str
    log: str
    state: str
    seconds_per_step: float | None
    max_deviation: float | None = None
    stopped_at_deviation: float | None = None
    selected: int | None = None


def beside(trajectory: str | os.PathLike[str], ending: str) -> Path:
    """File of a simulation beside its trajectory: `.csv` is the log, `.state.npz` what it resumes from."""
    path = Path(trajectory)
    return path.with_name(path.name + ending)


def read_log(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Records of a log, oldest first.

    Raises:
        FileFormatError: a line that isn't numbers.
    """
    file = Path(path)
    with file.open(encoding="utf-8", newline="") as lines:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{file}: is no log of a simulation: {error}") from None


def summarize(
    records: Sequence[dict[str, float]],
    atoms: int,
    trajectory: str | os.PathLike[str] | None = None,
    seconds_per_step: float | None = None,
) -> DynamicsSummary:
    """Means, drift and fluctuation from the records of a simulation.

    Args:
        records: at least one, as in the log.
        atoms: number of atoms.
        trajectory: file of the frames.
        seconds_per_step: passed on.
    """
    last, half = records[-1], records[len(records) // 2 :]
    times = np.array([record["time_fs"] for record in records])
    drift = slope = fluctuation = None
    if "conserved_eV" in last and len(records) > 1:
        energies = 1e3 * np.array([record["conserved_eV"] for record in records]) / atoms
        energies -= energies[0]
        per_fs, start = np.polyfit(times, energies, 1)
        drift, slope = float(per_fs * (times[-1] - times[0])), float(1e3 * per_fs)
        fluctuation = float(np.sqrt(np.mean((energies - start - per_fs * times) ** 2)))
    pressure = float(np.mean([record["pressure_GPa"] for record in half])) if "pressure_GPa" in last else None
    files = ["", "", ""] if trajectory is None else [str(beside(trajectory, end)) for end in ("", ".csv", ".state.npz")]
    return DynamicsSummary(
        steps=int(last["step"]),
        time_fs=last["time_fs"],
        temperature_K=float(np.mean([record["temperature_K"] for record in half])),
        drift_meV_per_atom=drift,
        drift_meV_per_atom_per_ps=slope,
        fluctuation_meV_per_atom=fluctuation,
        pressure_GPa=pressure,
        trajectory=files[0],
        log=files[1],
        state=files[2],
        seconds_per_step=seconds_per_step,
        max_deviation=max(record["max_devi_f"] for record in records) if "max_devi_f" in last else None,
    )
