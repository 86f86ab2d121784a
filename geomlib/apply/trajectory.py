"""Trajectories of simulations, written frame by frame and continued where a saved state says."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz
from ase.io.trajectory import Trajectory

from geomlib.errors import ConfigError, FileFormatError

__all__ = ["TRAJECTORY_SUFFIXES", "TrajectoryFile", "snapshot"]

TRAJECTORY_SUFFIXES = (".extxyz", ".xyz", ".traj")
"""Endings that a trajectory can have: extended XYZ, or ASE's binary format."""


def snapshot(atoms: Atoms, **info: Any) -> Atoms:
    """A copy of `atoms` with energy, forces and, where there is one, stress, and with `info` added.

    The calculator must have evaluated the structure already, or does so now.
    """
    frame: Atoms = atoms.copy()
    frame.info.update(info)
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
    if atoms.pbc.any() and atoms.cell.rank == 3:
        with suppress(PropertyNotImplementedError):  # a calculator without stress can have a trajectory all the same
            results["stress"] = atoms.get_stress(apply_constraint=False)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


class TrajectoryFile:
    """A trajectory that is open for writing; a context manager.

    Args:
        path: the file; its ending decides the format.
        keep: None begins a new file; otherwise the file goes on after that `position` and what follows is dropped.

    Raises:
        ConfigError: an ending that is no trajectory's.
        FileFormatError: the file is shorter than `keep`.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix not in TRAJECTORY_SUFFIXES:
            raise ConfigError(
                f"{self.path}: a trajectory ends in one of {', '.join(TRAJECTORY_SUFFIXES)}, not in "
                f"'{self.path.suffix}'"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._binary = self.path.suffix == ".traj"
        if keep is not None:
            self._cut(keep)
        self._frames = keep if self._binary and keep is not None else 0
        mode = "w" if keep is None else "a"
        self._traj = Trajectory(str(self.path), mode) if self._binary else None
        self._text = None if self._binary else self.path.open(mode, encoding="utf-8")

    def write(self, frame: Atoms) -> None:
        """Add a frame and hand it to the operating system."""
        if self._traj is not None:
            self._traj.write(frame)
            self._frames += 1
        if self._text is not None:
            write_xyz(self._text, [frame])
            self._text.flush()

    @property
    def position(self) -> int:
        """Where the file ends now: bytes of a text file, frames of a binary one."""
        return self._frames if self._text is None else self._text.tell()

    def close(self) -> None:
        """Close the file."""
        for file in (self._traj, self._text):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cut(self, keep: int) -> None:
        size = self.path.stat().st_size
        if not self._binary:
            if size < keep:
                raise FileFormatError(f"{self.path}: has {size} bytes, but the saved state follows after {keep}")
            os.truncate(self.path, keep)
            return
        # ASE's format has no way to drop frames: write those that stay to a new file and put it in place
        part = self.path.with_name(f".{self.path.name}.part")
        with Trajectory(str(self.path), "r") as old:
            if len(old) < keep:
                raise FileFormatError(f"{self.path}: has {len(old)} frames, but the saved state follows after {keep}")
            if len(old) == keep:
                return
            with Trajectory(str(part), "w") as new:
                for index in range(keep):
                    new.write(old[index])
        part.replace(self.path)
