"""Products that find out which of their paths they need, in three phases of training."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.errors import ConfigError
from geomlib.models.sphnet.normalization import Normalization
from geomlib.nn.tensor_product import Irrep, Path, all_paths
from geomlib.nn.tensor_product.clebsch_gordan import StackedCG

__all__ = ["PathSchedule", "SparseProduct"]


class PathSchedule(nn.Module):
    """Which paths are active at which optimizer step.

    Phase 1, the first `explore` steps: a random subset of ⌊(1 − sparsity)·n⌋ paths, another one at each step. Phase 2,
    the next `compete` steps: the paths whose ω reaches the quantile `sparsity` of all ω. Phase 3: those of the end of
    phase 2, for ever; `SPHNet.compact` then takes the others away. In evaluation before phase 3 the paths are those
    that ω would choose.

    Step and choice are buffers, so a run that is taken up again goes on in its phase; the random subsets follow from
    the step, so all processes draw the same.

    Args:
        count: number of paths n.
        sparsity: share of the paths that is left out.
        explore, compete: optimizer steps of phases 1 and 2.
        seed: of the random subsets.
    """

    step: Tensor
    active_mask: Tensor

    def __init__(self, count: int, sparsity: float, explore: int, compete: int, seed: int) -> None:
        super().__init__()
        if not 0 < sparsity < 1 or explore < 0 or compete < 1:
            raise ConfigError(
                f"path sparsity {sparsity} with {explore} and {compete} steps: expected a share between 0 and 1, and "
                "at least one step of the second phase"
            )
        self.count, self.sparsity, self.explore, self.compete, self.seed = count, sparsity, explore, compete, seed
        self.omega = nn.Parameter(torch.ones(count))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("active_mask", torch.ones(count, dtype=torch.bool))

    @property
    def phase(self) -> int:
        """1, 2 or 3."""
        step = int(self.step)
        return 1 if step < self.explore else 2 if step < self.explore + self.compete else 3

    @torch.no_grad()
    def advance(self, step: int) -> None:
        """Set the number of finished optimizer steps; at the start of phase 3 the choice is made for good."""
        before = self.phase
        self.step.fill_(step)
        if self.phase == 3 and before != 3:
            self.active_mask.copy_(self.chosen_by_omega())

    @torch.no_grad()
    def choose(self, numbers: Sequence[int]) -> None:
        """Make the choice for good.

        Raises:
            ConfigError: not ascending numbers of paths.
        """
        numbers = _checked(numbers, self.count)
        self.step.fill_(max(int(self.step), self.explore + self.compete))
        self.active_mask.zero_()[numbers] = True

    def chosen_by_omega(self) -> Tensor:
        """Mask of the paths whose ω reaches the quantile."""
        omega = self.omega.detach().double()
        return omega >= torch.quantile(omega, self.sparsity)

    def active(self) -> Int[Tensor, " active"]:
        """Numbers of the active paths, ascending."""
        if self.phase == 3:
            mask = self.active_mask
        elif self.phase == 1 and self.training:
            generator = torch.Generator().manual_seed(1_000_003 * self.seed + int(self.step))
            order = torch.randperm(self.count, generator=generator)
            return order[: int((1 - self.sparsity) * self.count)].sort().values.to(self.omega.device)
        else:
            mask = self.chosen_by_omega()
        return mask.nonzero().squeeze(1)


class SparseProduct(nn.Module):
    """Tensor product with a weight for each path and channel, all of its paths or a learned share of them.

    Args:
        irreps_in: of both factors.
        irreps: of the result.
        channels: number of channels.
        normalization: constants of the paths.
        schedule: of the paths; None keeps all that there are.
        kept: numbers of the paths that are left where the choice was made for good, ascending; None for every path.
        both_orders: make y ⊗ x with the same weights too.
    Inputs:
        x, y: [components_in, rows, channels]
        weight: [active paths, rows, channels]
        active: numbers of those paths, from `active()`; None for all
    Returns: [components, rows, channels], with `both_orders` [components, 2·rows, channels], x ⊗ y before y ⊗ x
    """

    coefficient: Tensor

    def __init__(
        self,
        irreps_in: Sequence[Irrep],
        irreps: Sequence[Irrep],
        channels: int,
        normalization: Normalization,
        schedule: PathSchedule | None = None,
        kept: Sequence[int] | None = None,
        *,
        both_orders: bool = False,
    ) -> None:
        super().__init__()
        self.irreps_in, self.irreps, self.channels = tuple(irreps_in), tuple(irreps), channels
        self.normalization, self.schedule, self.both_orders = normalization, schedule, both_orders
        every = all_paths(irreps_in, irreps_in, irreps)
        numbers = _checked(kept, len(every))
        self.paths = tuple(every[number] for number in numbers)
        if schedule is not None:
            factors = [1.0] * len(self.paths)
        elif kept is None:
            factors = normalization.coefficients(every, irreps)
        else:
            factors = self._constants(numbers, every)
        self.operator = StackedCG((irreps_in, irreps_in, irreps), self.paths, factors, both_orders=both_orders)

    def active(self) -> Int[Tensor, " active"] | None:
        """Numbers of the paths that take part now."""
        return None if self.schedule is None else self.schedule.active()

    def forward(
        self,
        x: Float[Tensor, "components_in rows channels"],
        y: Float[Tensor, "components_in rows channels"],
        weight: Float[Tensor, "active rows channels"],
        active: Int[Tensor, " active"] | None,
    ) -> Float[Tensor, "components rows_out channels"]:
        """Multiply."""
        shape = x.shape[1:]
        numbers = None
        if active is not None:
            numbers = active.tolist()
            weight = weight * self._coefficients(active, numbers).view(-1, 1, 1)
        weight = weight.expand(-1, *shape).flatten(1)
        return self.operator(x.flatten(1), y.flatten(1), weight, numbers).unflatten(1, (-1, self.channels))

    def _coefficients(self, active: Int[Tensor, " active"], numbers: Sequence[int]) -> Float[Tensor, " active"]:
        """Constants of the active paths times their ω, over the mean of those (published: over their sum)."""
        shares, constants = self._shares(active, numbers)
        return constants * shares

    def _constants(self, numbers: Sequence[int], every: Sequence[Path]) -> list[float]:
        """What the paths `numbers` are multiplied with if all have the same ω."""
        if self.normalization.published:
            factors = self.normalization.coefficients(every, self.irreps)
            total = sum(factors[number] for number in numbers)
            return [factors[number] / total for number in numbers]
        into = [every[number].out for number in numbers]
        return [math.sqrt(self.irreps[out].dim / into.count(out)) for out in into]

    def _shares(
        self, active: Int[Tensor, " active"], numbers: Sequence[int]
    ) -> tuple[Float[Tensor, " active"], Float[Tensor, " active"]]:
        """ω of the active paths over their mean, which as published is weighed with the constants; and those."""
        assert self.schedule is not None
        omega = self.schedule.omega[active]
        constants = omega.new_tensor(self._constants(numbers, self.paths))
        mean = (omega * constants).sum() if self.normalization.published else omega.mean()
        return omega / mean, constants

    def compacted(self) -> tuple["SparseProduct", Int[Tensor, " active"], Float[Tensor, " active"]]:
        """A product of the chosen paths alone, their numbers, and what their weights have to be multiplied with."""
        assert self.schedule is not None
        active = self.schedule.active()
        numbers = active.tolist()
        shares, _ = self._shares(active, numbers)
        small = SparseProduct(
            self.irreps_in,
            self.irreps,
            self.channels,
            self.normalization,
            kept=numbers,
            both_orders=self.both_orders,
        )
        return small.to(shares), active, shares.detach()


def _checked(kept: Sequence[int] | None, count: int) -> list[int]:
    """Numbers of the paths.

    Raises:
        ConfigError: not ascending numbers of paths.
    """
    if kept is None:
        return list(range(count))
    numbers = list(kept)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= count:
        raise ConfigError(f"kept paths {numbers}: expected ascending numbers from 0 to {count - 1}, at least one")
    return numbers
