"""Errors and losses summed exactly over an epoch, whatever the batches and the processes."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Meter", "gathered"]

T = TypeVar("T")


class Meter:
    """Sums of |error|, error² and the number of components, per name; the mean over an epoch is their quotient.

    The sums are plain float64 tensors, so that a batch of another size or a process with fewer graphs weighs what it
    should, and go into a checkpoint so that an epoch continued after an interruption reports the same numbers.

    Args:
        names: what is metered; the same on every process, or their sums could not be added.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.sums: Float[Tensor, "names 3"] = torch.zeros(len(self.names), 3, dtype=torch.float64)

    def reset(self) -> None:
        """Start a new epoch."""
        self.sums = torch.zeros_like(self.sums)

    def add(self, name: str, error: Float[Tensor, "..."]) -> None:
        """Add the components of an error."""
        error = error.detach().double()
        count = error.new_tensor(float(error.numel()))
        self.add_sums(name, torch.stack([error.abs().sum(), error.square().sum(), count]))

    def add_sums(self, name: str, sums: Float[Tensor, " 3"]) -> None:
        """Add sums made elsewhere: of values, of squares (zero if there are none), and the count."""
        if self.sums.device != sums.device:
            self.sums = self.sums.to(sums.device)
        self.sums[self.names.index(name)] += sums.detach()

    def reduced(self) -> Float[Tensor, "names 3"]:
        """Sums over all processes, on the CPU."""
        sums = self.sums.clone()
        if _is_distributed():
            torch.distributed.all_reduce(sums)
        return sums.cpu()

    def means(self, *, local: bool = False) -> dict[str, tuple[float, float]]:
        """Mean absolute and root mean square error of each name that was met.

        Args:
            local: of this process only, without waiting for the others.
        """
        sums = self.sums.cpu() if local else self.reduced()
        return {
            name: (float(row[0] / row[2]), float((row[1] / row[2]).sqrt()))
            for name, row in zip(self.names, sums, strict=True)
            if row[2] > 0
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Sums of the epoch so far over all processes; every process has to call this."""
        return {name: row.clone() for name, row in zip(self.names, self.reduced(), strict=True)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue an epoch: the first process takes over the sums of all, the others start at zero.

        Names that are metered no more are left out, new ones start at zero.
        """
        self.reset()
        if _is_distributed() and torch.distributed.get_rank() > 0:
            return
        for position, name in enumerate(self.names):
            if name in state:
                self.sums[position] = state[name].to(self.sums)


def gathered(rows: list[T]) -> list[T]:
    """Rows of all processes, process after process; every process has to call this."""
    if not _is_distributed():
        return rows
    parts: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
