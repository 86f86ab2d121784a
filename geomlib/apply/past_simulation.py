"""A simulation that was run, read back from its files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from geomlib.apply.restart import read_state
from geomlib.apply.simulation_log import beside, read_log
from geomlib.apply.structures import read_structure, read_structures
from geomlib.apply.trajectory import TRAJECTORY_SUFFIXES
from geomlib.errors import FileFormatError

__all__ = ["PastSimulation", "find_simulations"]


@dataclass(frozen=True, slots=True)
class PastSimulation:
    """A trajectory and what stands beside it.

    Attributes:
        trajectory: file of the frames; need not exist if there is a log.
        records: the log, oldest first; empty if there is none.
        settings: as `geomlib.apply.dynamics.Settings`; empty if no state was kept.
        atoms: how many; None if neither a state nor a frame tells.
    """

    trajectory: Path
    records: list[dict[str, float]]
    settings: dict[str, Any]
    atoms: int | None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "PastSimulation":
        """Read log and settings.

        Args:
            path: the trajectory, or its log.

        Raises:
            FileFormatError: neither is there, or one is damaged.
        """
        given = Path(path)
        trajectory = given.with_suffix("") if given.suffix == ".csv" else given
        log, state = beside(trajectory, ".csv"), beside(trajectory, ".state.npz")
        if not log.is_file() and not trajectory.is_file():
            raise FileFormatError(f"{given}: no such trajectory, and no log of one")
        if trajectory.suffix not in TRAJECTORY_SUFFIXES:
            raise FileFormatError(
                f"{given}: is no trajectory and no log of one; they end in "
                f"{', '.join(TRAJECTORY_SUFFIXES)}, and .csv after that"
            )
        records = read_log(log) if log.is_file() else []
        if log.is_file() and not {"step", "time_fs"} <= set(records[0] if records else {}):
            raise FileFormatError(f"{log}: is no log of a simulation: it has no records of step and time_fs")
        settings: dict[str, Any] = {}
        atoms = None
        if state.is_file():
            last, meta, _ = read_state(state)
            settings, atoms = dict(meta.get("settings", {})), len(last)
        elif trajectory.is_file():
            atoms = len(read_structure(f"{trajectory}@0"))
        return cls(trajectory, records, settings, atoms)

    def frames(self, limit: int) -> list[Atoms]:
        """About `limit` frames, evenly over the trajectory; all if there are fewer.

        Raises:
            FileFormatError: the trajectory is missing or damaged.
        """
        stride = max(1, len(self.records) // limit)
        return read_structures(f"{self.trajectory}@::{stride}")

    @property
    def has_frames(self) -> bool:
        """Whether the trajectory itself is there."""
        return self.trajectory.is_file()


def find_simulations(folder: Path) -> list[PastSimulation]:
    """Simulations that left their log below a folder, by path."""
    logs = [path for suffix in TRAJECTORY_SUFFIXES for path in folder.rglob(f"*{suffix}.csv") if path.is_file()]
    return [PastSimulation.read(path) for path in sorted(logs)]
