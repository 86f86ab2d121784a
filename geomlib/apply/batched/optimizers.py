"""FIRE and L-BFGS for many structures at once, each with a memory of its own, step for step as ASE's are for one.

Coordinates and forces of all structures are rows of one array, and `owner` tells the structure of each row. Every
operation is one of torch over all rows and sums are taken structure by structure, so structures don't influence each
other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.nn.reduce import segment_sum

__all__ = ["BATCHED_OPTIMIZERS", "BatchedFIRE", "BatchedLBFGS", "BatchedOptimizer", "longest_row"]


def longest_row(values: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"], graphs: int) -> Float[Tensor, " graphs"]:
    """Norm of the longest row of each structure; NaN where a row is NaN."""
    square = values.square().sum(1)
    return square.new_zeros(graphs).scatter_reduce(0, owner, square, "amax").sqrt()


class BatchedOptimizer(ABC):
    """Steps from coordinates and forces. New structures are appended, in the order of their rows.

    Args:
        device: of all tensors.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.graphs = 0

    @abstractmethod
    def step(
        self, coordinates: Float[Tensor, "rows 3"], forces: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows 3"]:
        """How far every row moves now.

        Args:
            coordinates: generalised positions [Å].
            forces: minus the gradient [eV/Å].
            owner: structure of each row, ascending.
        """

    @abstractmethod
    def add(self, graphs: int, rows: int) -> None:
        """Let structures in that have not moved yet."""

    @abstractmethod
    def keep(self, graphs: Int[Tensor, " kept"], rows: Int[Tensor, " kept_rows"]) -> None:
        """Let all structures and rows go but these (ascending)."""

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.device)


class BatchedFIRE(BatchedOptimizer):
    """Fast inertial relaxation engine.

    Args:
        device: of all tensors.
        dt: time step at the start.
        maxstep: all rows of a structure together move no further than this in a step [Å].
        dtmax: longest time step.
        n_min: steps downhill before the time step grows.
        f_inc: by which the time step grows.
        f_dec: by which it shrinks where the way is uphill.
        a_start: mixing of the velocity with the direction of the force, at the start.
        f_a: by which the mixing shrinks.

    Source: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006), as `ase.optimize.FIRE` does it, with its constants.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        dt: float = 0.1,
        maxstep: float = 0.2,
        dtmax: float = 1.0,
        n_min: int = 5,
        f_inc: float = 1.1,
        f_dec: float = 0.5,
        a_start: float = 0.1,
        f_a: float = 0.99,
    ) -> None:
        super().__init__(device)
        self.start, self.maxstep, self.dtmax, self.n_min = dt, maxstep, dtmax, n_min
        self.f_inc, self.f_dec, self.a_start, self.f_a = f_inc, f_dec, a_start, f_a
        self.velocity = self._zeros(0, 3)
        self.dt, self.a = self._zeros(0), self._zeros(0)
        self.downhill = torch.zeros(0, dtype=torch.int64, device=self.device)
        """Steps downhill since the last turn; −1 before the first step."""

    def step(
        self, coordinates: Float[Tensor, "rows 3"], forces: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows 3"]:
        """As the base class says; FIRE does not look at `coordinates`."""
        products = torch.stack([forces * self.velocity, forces.square(), self.velocity.square()]).sum(2)
        power, force_square, velocity_square = segment_sum(products.T, owner, self.graphs).unbind(1)
        fresh = self.downhill < 0
        good = (power > 0) & ~fresh
        turned = ~good & ~fresh
        keep = torch.where(good, 1.0 - self.a, 0.0)
        steer = torch.where(good, self.a * (velocity_square / force_square).sqrt(), 0.0)
        self.velocity = keep[owner].unsqueeze(1) * self.velocity + steer[owner].unsqueeze(1) * forces

        faster = good & (self.downhill > self.n_min)
        self.dt = torch.where(faster, (self.dt * self.f_inc).clamp_max(self.dtmax), self.dt)
        self.dt = torch.where(turned, self.dt * self.f_dec, self.dt)
        self.a = torch.where(faster, self.a * self.f_a, torch.where(turned, self.a_start, self.a))
        self.downhill = torch.where(good, self.downhill + 1, 0)

        dt = self.dt[owner].unsqueeze(1)
        self.velocity = self.velocity + dt * forces
        step = dt * self.velocity
        length = segment_sum(step.square().sum(1), owner, self.graphs).sqrt()
        shorten = torch.where(length > self.maxstep, self.maxstep / length, 1.0)
        return shorten[owner].unsqueeze(1) * step

    def add(self, graphs: int, rows: int) -> None:
        """As the base class says."""
        self.graphs += graphs
        self.velocity = torch.cat([self.velocity, self._zeros(rows, 3)])
        self.dt = torch.cat([self.dt, self._zeros(graphs) + self.start])
        self.a = torch.cat([self.a, self._zeros(graphs) + self.a_start])
        self.downhill = torch.cat([self.downhill, torch.full((graphs,), -1, device=self.device)])

    def keep(self, graphs: Int[Tensor, " kept"], rows: Int[Tensor, " kept_rows"]) -> None:
        """As the base class says."""
        self.graphs = len(graphs)
        self.velocity = self.velocity[rows]
        self.dt, self.a, self.downhill = self.dt[graphs], self.a[graphs], self.downhill[graphs]


class BatchedLBFGS(BatchedOptimizer):
    """Limited-memory BFGS without line search.

    Args:
        device: of all tensors.
        memory: steps that are remembered.
        maxstep: no row moves further than this in a step; the whole step of its structure is shortened [Å].
        alpha: curvature before anything is known [eV/Å²].

    Source: J. Nocedal, Math. Comp. 35, 773 (1980), as `ase.optimize.LBFGS` does it, with its constants.
    """

    def __init__(
        self, device: torch.device | str = "cpu", *, memory: int = 100, maxstep: float = 0.2, alpha: float = 70.0
    ) -> None:
        super().__init__(device)
        self.memory, self.maxstep, self.alpha = memory, maxstep, alpha
        # a structure that came later has zeros (weight 0) in the older entries
        self._moves: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._coordinates, self._gradient = self._zeros(0, 3), self._zeros(0, 3)
        self._fresh = torch.zeros(0, dtype=torch.bool, device=self.device)

    def step(
        self, coordinates: Float[Tensor, "rows 3"], forces: Float[Tensor, "rows 3"], owner: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows 3"]:
        """As the base class says."""

        def dot(one: Tensor, other: Tensor) -> Tensor:
            return segment_sum((one * other).sum(1), owner, self.graphs)

        gradient = -forces
        if not bool(self._fresh.all()):
            old = ~self._fresh[owner].unsqueeze(1)
            move = torch.where(old, coordinates - self._coordinates, 0.0)
            change = torch.where(old, gradient - self._gradient, 0.0)
            self._moves.append(move)
            self._changes.append(change)
            self._weights.append(torch.where(self._fresh, 0.0, 1.0 / dot(change, move)))
            for entries in (self._moves, self._changes, self._weights):
                del entries[: -self.memory]
        self._coordinates, self._gradient = coordinates, gradient
        self._fresh = torch.zeros_like(self._fresh)

        direction = gradient
        parts = []
        for move, change, weight in zip(
            *(reversed(e) for e in (self._moves, self._changes, self._weights)), strict=True
        ):
            part = weight * dot(move, direction)
            direction = direction - part[owner].unsqueeze(1) * change
            parts.append(part)
        direction = direction / self.alpha
        for move, change, weight in zip(self._moves, self._changes, self._weights, strict=True):
            part = parts.pop() - weight * dot(change, direction)
            direction = direction + part[owner].unsqueeze(1) * move
        longest = longest_row(direction, owner, self.graphs)
        shorten = torch.where(longest >= self.maxstep, self.maxstep / longest, 1.0)
        return -shorten[owner].unsqueeze(1) * direction

    def add(self, graphs: int, rows: int) -> None:
        """As the base class says."""
        self.graphs += graphs
        nothing = self._zeros(rows, 3)
        self._moves = [torch.cat([entry, nothing]) for entry in self._moves]
        self._changes = [torch.cat([entry, nothing]) for entry in self._changes]
        self._weights = [torch.cat([entry, nothing.new_zeros(graphs)]) for entry in self._weights]
        self._coordinates = torch.cat([self._coordinates, nothing])
        self._gradient = torch.cat([self._gradient, nothing])
        self._fresh = torch.cat([self._fresh, torch.ones(graphs, dtype=torch.bool, device=self.device)])

    def keep(self, graphs: Int[Tensor, " kept"], rows: Int[Tensor, " kept_rows"]) -> None:
        """As the base class says."""
        self.graphs = len(graphs)
        self._moves = [entry[rows] for entry in self._moves]
        self._changes = [entry[rows] for entry in self._changes]
        self._weights = [entry[graphs] for entry in self._weights]
        used = [bool(weight.any()) for weight in self._weights]
        first = used.index(True) if True in used else len(used)
        for entries in (self._moves, self._changes, self._weights):
            del entries[:first]
        self._coordinates, self._gradient = self._coordinates[rows], self._gradient[rows]
        self._fresh = self._fresh[graphs]


BATCHED_OPTIMIZERS: Mapping[str, type[BatchedOptimizer]] = {"fire": BatchedFIRE, "lbfgs": BatchedLBFGS}
"""Name → optimizer; the names are those of `geomlib.apply.relax.OPTIMIZERS`."""
