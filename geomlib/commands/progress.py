"""A progress line on stderr."""

import sys
import time
from typing import TextIO

__all__ = ["ProgressLine"]


class ProgressLine:
    """How far a command is: one line that is rewritten on a terminal, a line for every tenth elsewhere.

    Args:
        total: number of units of work.
        unit: what a unit is called.
        stream: where to write; stderr if not given.
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None = None) -> None:
        self.total = max(total, 1)
        self.unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._began = time.monotonic()
        self._first: int | None = None
        self._shown = -1.0
        self._width = 0

    def update(self, done: int, text: str = "") -> None:
        """Say that `done` of all units are done, and how things are."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = done, now
        tenth = 10 * done // self.total
        due = now - self._shown >= 0.1 or done >= self.total if self._terminal else tenth > self._shown
        if not due:
            return
        self._shown = now if self._terminal else tenth
        line = f"{self.unit} {done:,}/{self.total:,} {self._left(done, now)} {text}".rstrip()
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def update_of(self, done: int, total: int) -> None:
        """As `update`, for work that tells its own total."""
        self.total = max(total, 1)
        self.update(done)

    def close(self) -> None:
        """End the line on a terminal."""
        if self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()

    def _left(self, done: int, now: float) -> str:
        passed = done - (self._first or 0)
        if passed <= 0 or done >= self.total:
            return ""
        seconds = (now - self._began) / passed * (self.total - done)
        return f"({_duration(seconds)} left)"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
