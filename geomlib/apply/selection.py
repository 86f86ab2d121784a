"""Structures that are worth a label: those about which a committee disagrees, but not wildly."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ase import Atoms

from geomlib.apply.committee import ModelDeviation
from geomlib.apply.trajectory import TrajectoryFile
from geomlib.errors import ConfigError

__all__ = ["FrameSelection", "SelectionRule", "unlabelled"]


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """Which frames of a simulation are kept for labelling.

    A frame about which the members agree teaches nothing; one about which they disagree wildly is often no structure
    any more. In between, frames that follow each other closely are nearly the same.

    Args:
        low: least deviation of the force on some atom [eV/Å].
        high: largest deviation of the force on any atom [eV/Å].
        spacing: least time between two frames that are kept [fs].
        most: frames to keep at most; None sets no limit.

    Raises:
        ConfigError: numbers that no frame could fulfil.
    """

    low: float = 0.05
    high: float = 0.3
    spacing: float = 50.0
    most: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ConfigError(
                f"frames are selected between {self.low} and {self.high} eV/Å; expected 0 or more, and the second "
                "number above the first"
            )
        if not self.spacing >= 0:
            raise ConfigError(f"the time between selected frames is {self.spacing} fs; expected 0 or more")
        if self.most is not None and self.most < 1:
            raise ConfigError(f"at most {self.most} frames are to be selected; expected at least 1")


class FrameSelection:
    """Writes the frames of a simulation that a rule picks to a file; a context manager, open while the simulation runs.

    The frames carry no energies or forces, so that predictions are not taken for labels. Their `info` has step, time
    and the columns of the model deviation, the array `force_deviation` the deviation of each atom [eV/Å].

    Args:
        path: extended XYZ file.
        rule: which frames.

    Attributes:
        count: frames in the file.
    """

    def __init__(self, path: str | os.PathLike[str], rule: SelectionRule | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".extxyz", ".xyz"):
            raise ConfigError(f"{self.path}: selected frames are written as extended XYZ; name the file *.extxyz")
        self.rule = rule or SelectionRule()
        self.count = 0
        self._last: float | None = None
        self._file: TrajectoryFile | None = None

    def open(self, state: Mapping[str, Any] | None, resumed: bool) -> Self:
        """Begin the file, or go on as a simulation left it when it saved its state.

        Args:
            state: what `state` gave then; None if there is none.
            resumed: whether the simulation goes on. A file of which its state knows nothing is not overwritten then.

        Raises:
            ConfigError: it would be.
            FileFormatError: the file is shorter than when the state was saved.
        """
        known = state is not None and state["name"] == self.path.name
        if resumed and not known and self.path.exists():
            raise ConfigError(f"{self.path}: exists, but this simulation did not write it; name another file")
        if state is not None and known:
            self.count, self._last = state["count"], state["last_fs"]
        self._file = TrajectoryFile(self.path, state["end"] if state is not None and known else None)
        return self

    def offer(self, atoms: Atoms, deviation: ModelDeviation, step: int, time_fs: float) -> bool:
        """Keep a frame if the rule wants it; whether it did."""
        rule, largest = self.rule, float(deviation.forces.max())
        close = self._last is not None and time_fs - self._last < rule.spacing * (1 - 1e-9)
        if self._file is None or close or not rule.low <= largest <= rule.high:
            return False
        if rule.most is not None and self.count >= rule.most:
            return False
        self._file.write(unlabelled(atoms, deviation, step=step, time_fs=time_fs))
        self.count, self._last = self.count + 1, time_fs
        return True

    @property
    def state(self) -> dict[str, Any]:
        """What `open` needs to go on from here, JSON-able."""
        end = 0 if self._file is None else self._file.position
        return {"name": self.path.name, "end": end, "count": self.count, "last_fs": self._last}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def unlabelled(atoms: Atoms, deviation: ModelDeviation, **info: Any) -> Atoms:
    """The structure alone (with charge and spin, without velocities and results), and its model deviation."""
    kept = {key: atoms.info[key] for key in ("charge", "spin") if key in atoms.info}
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info.update({**kept, **info, **deviation.columns()})
    frame.set_array("force_deviation", deviation.forces)
    return frame
