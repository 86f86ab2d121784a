"""Learning rate as a function of the step: what a task asks of a schedule."""

from geomlib.errors import ConfigError

__all__ = ["Schedule"]


class Schedule:
    """The start learning rate all along, after an optional warm-up; base of the schedules in `geomlib.training`.

    `factor(step, total, lr)` multiplies the optimizer's learning rate. During warm-up it rises linearly from
    `warmup_start_factor` to 1; the schedule proper, `decay`, runs over the steps that remain after it.

    Args:
        warmup_steps: number of warm-up steps.
        warmup_ratio: warm-up as a fraction of all steps; instead of `warmup_steps`.
        warmup_start_factor: factor at step 0 of the warm-up.
    """

    def __init__(
        self, *, warmup_steps: int = 0, warmup_ratio: float | None = None, warmup_start_factor: float = 0.0
    ) -> None:
        self.warmup_steps, self.warmup_ratio = warmup_steps, warmup_ratio
        self.warmup_start_factor = warmup_start_factor
        if self.warmup_ratio is not None and self.warmup_steps:
            raise ConfigError("schedule: give warmup_steps or warmup_ratio, not both")
        if self.warmup_steps < 0 or not 0 <= (self.warmup_ratio or 0.0) < 1:
            raise ConfigError("schedule: warmup_steps must not be negative and warmup_ratio must lie in [0, 1)")
        if not 0 <= self.warmup_start_factor <= 1:
            raise ConfigError(f"schedule: warmup_start_factor must lie in [0, 1], got {self.warmup_start_factor}")

    def warmup(self, total: int | None) -> int:
        """Number of warm-up steps of a run of `total` steps."""
        if not self.warmup_ratio:
            return self.warmup_steps
        return max(1, round(self.warmup_ratio * self.known(total)))

    def factor(self, step: int, total: int | None, lr: float) -> float:
        """What to multiply the start learning rate with.

        Args:
            step: optimizer steps taken so far.
            total: optimizer steps of the whole run, None if it has no end.
            lr: start learning rate, which a stop learning rate is compared with.

        Raises:
            ConfigError: the schedule needs an end that the run does not have, or its lengths contradict each other.
        """
        warmup = self.warmup(total)
        if step < warmup:
            return self.warmup_start_factor + (1.0 - self.warmup_start_factor) * step / warmup
        if total is not None and warmup >= total:
            raise ConfigError(f"schedule: {warmup} warm-up steps leave nothing of a run of {total} steps")
        return self.decay(step - warmup, None if total is None else total - warmup, lr)

    def decay(self, step: int, total: int | None, lr: float) -> float:
        """Factor after warm-up, where `step` and `total` count from its end: here 1."""
        return 1.0

    def known(self, total: int | None) -> int:
        """Length of the run.

        Raises:
            ConfigError: it has no end.
        """
        if total is None:
            raise ConfigError(
                f"schedule {type(self).__name__} needs an end: set trainer.max_steps or trainer.max_epochs"
            )
        return total
