"""Learning rate as a function of the step: constant, exponential, cosine, warm-up–stable–decay; all with warm-up."""

import math

from geomlib.errors import ConfigError
from geomlib.tasks.schedule import Schedule

__all__ = ["WSD", "Constant", "Cosine", "Exponential"]


class Constant(Schedule):
    """The start learning rate all along, after warm-up."""


class _Stopping(Schedule):
    """A schedule that ends at a lower learning rate.

    Args:
        stop_lr: learning rate at the end.
        stop_lr_ratio: the same as a fraction of the start learning rate; instead of `stop_lr`.
        warmup_steps: number of warm-up steps.
        warmup_ratio: warm-up as a fraction of all steps; instead of `warmup_steps`.
        warmup_start_factor: factor at step 0 of the warm-up.
    """

    def __init__(
        self,
        *,
        stop_lr: float | None = None,
        stop_lr_ratio: float | None = None,
        warmup_steps: int = 0,
        warmup_ratio: float | None = None,
        warmup_start_factor: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps, warmup_ratio=warmup_ratio, warmup_start_factor=warmup_start_factor)
        self.stop_lr, self.stop_lr_ratio = stop_lr, stop_lr_ratio
        if self.stop_lr is not None and self.stop_lr_ratio is not None:
            raise ConfigError("schedule: give stop_lr or stop_lr_ratio, not both")
        if (self.stop_lr or 0.0) < 0 or (self.stop_lr_ratio or 0.0) < 0:
            raise ConfigError("schedule: stop_lr and stop_lr_ratio must not be negative")

    def stop(self, lr: float, default: float) -> float:
        """Factor at the end; `default` if neither argument is given."""
        if self.stop_lr is None:
            return default if self.stop_lr_ratio is None else self.stop_lr_ratio
        if self.stop_lr > lr:
            raise ConfigError(f"schedule: stop_lr {self.stop_lr:g} is above the start learning rate {lr:g}")
        return self.stop_lr / lr


class Exponential(_Stopping):
    """Exponential decay, lr = lr0 · γ^⌊t/s⌋ with γ = (lr_stop/lr0)^(s/T), never below lr_stop.

    Args:
        stop_lr: learning rate at the end; a hundredth of the start one if neither this nor the ratio is given.
        stop_lr_ratio: the same as a fraction of the start learning rate.
        decay_steps: length s of one stair [steps].
        smooth: decay at every step, exponent t/s, instead of in stairs.
        warmup_steps: number of warm-up steps.
        warmup_ratio: warm-up as a fraction of all steps; instead of `warmup_steps`.
        warmup_start_factor: factor at step 0 of the warm-up.

    Source: deepmd-kit `deepmd/dpmodel/utils/learning_rate.py`; there s ≥ T is replaced in silence by another s, here
    it is an error.
    """

    def __init__(
        self,
        *,
        decay_steps: int = 5000,
        smooth: bool = False,
        stop_lr: float | None = None,
        stop_lr_ratio: float | None = None,
        warmup_steps: int = 0,
        warmup_ratio: float | None = None,
        warmup_start_factor: float = 0.0,
    ) -> None:
        super().__init__(
            stop_lr=stop_lr,
            stop_lr_ratio=stop_lr_ratio,
            warmup_steps=warmup_steps,
            warmup_ratio=warmup_ratio,
            warmup_start_factor=warmup_start_factor,
        )
        self.decay_steps, self.smooth = decay_steps, smooth

    def decay(self, step: int, total: int | None, lr: float) -> float:
        """See the class."""
        steps = self.known(total)
        if self.decay_steps < 1 or (self.decay_steps >= steps and not self.smooth):
            raise ConfigError(
                f"schedule Exponential: decay_steps is {self.decay_steps}, but the run has {steps} steps after warm-up "
                "and the learning rate would never fall: make it smaller, or set smooth=true"
            )
        stop = self.stop(lr, 0.01)
        if stop <= 0:
            raise ConfigError("schedule Exponential: the stop learning rate must be above zero")
        exponent = step / self.decay_steps if self.smooth else step // self.decay_steps
        return max(stop, stop ** (exponent * self.decay_steps / steps))


class Cosine(_Stopping):
    """Half a cosine from the start learning rate to the stop one (zero if none is given).

    Args:
        stop_lr: learning rate at the end.
        stop_lr_ratio: the same as a fraction of the start learning rate.
        warmup_steps: number of warm-up steps.
        warmup_ratio: warm-up as a fraction of all steps; instead of `warmup_steps`.
        warmup_beta2: the optimizer's β₂; the warm-up then has ⌈2/(1 − β₂)⌉ steps, which is how long Adam's average of
            squares takes to settle (Ma and Yarats, arXiv 1910.04209); instead of `warmup_steps`.
        warmup_start_factor: factor at step 0 of the warm-up.
    """

    def __init__(
        self,
        *,
        stop_lr: float | None = None,
        stop_lr_ratio: float | None = None,
        warmup_steps: int = 0,
        warmup_ratio: float | None = None,
        warmup_beta2: float | None = None,
        warmup_start_factor: float = 0.0,
    ) -> None:
        super().__init__(
            stop_lr=stop_lr,
            stop_lr_ratio=stop_lr_ratio,
            warmup_steps=warmup_steps,
            warmup_ratio=warmup_ratio,
            warmup_start_factor=warmup_start_factor,
        )
        if warmup_beta2 is not None:
            if warmup_steps or warmup_ratio is not None:
                raise ConfigError("schedule: give one of warmup_steps, warmup_ratio and warmup_beta2")
            if not 0 <= warmup_beta2 < 1:
                raise ConfigError(f"schedule: warmup_beta2 must lie in [0, 1), got {warmup_beta2}")
            self.warmup_steps = math.ceil(round(2.0 / (1.0 - warmup_beta2), 6))  # 2/(1 − 0.999) is 2000 and a bit

    def decay(self, step: int, total: int | None, lr: float) -> float:
        """See the class."""
        stop, done = self.stop(lr, 0.0), min(1.0, step / self.known(total))
        return stop + (1.0 - stop) * 0.5 * (1.0 + math.cos(math.pi * done))


class WSD(_Stopping):
    """Warm-up, stable, decay: the start learning rate, then a fall to the stop one over the last part of the run.

    Args:
        decay_ratio: fraction of the steps after warm-up over which the learning rate falls.
        shape: linear, cosine, or exponential.
        stop_lr: learning rate at the end.
        stop_lr_ratio: the same as a fraction of the start learning rate.
        warmup_steps: number of warm-up steps.
        warmup_ratio: warm-up as a fraction of all steps; instead of `warmup_steps`.
        warmup_start_factor: factor at step 0 of the warm-up.
    """

    def __init__(
        self,
        *,
        decay_ratio: float = 0.1,
        shape: str = "linear",
        stop_lr: float | None = None,
        stop_lr_ratio: float | None = None,
        warmup_steps: int = 0,
        warmup_ratio: float | None = None,
        warmup_start_factor: float = 0.0,
    ) -> None:
        super().__init__(
            stop_lr=stop_lr,
            stop_lr_ratio=stop_lr_ratio,
            warmup_steps=warmup_steps,
            warmup_ratio=warmup_ratio,
            warmup_start_factor=warmup_start_factor,
        )
        self.decay_ratio, self.shape = decay_ratio, shape
        if not 0 < self.decay_ratio <= 1:
            raise ConfigError(f"schedule WSD: decay_ratio must lie in (0, 1], got {self.decay_ratio}")
        if self.shape not in ("linear", "cosine", "exponential"):
            raise ConfigError(f"schedule WSD: shape is linear, cosine or exponential, got '{self.shape}'")

    def decay(self, step: int, total: int | None, lr: float) -> float:
        """See the class."""
        steps = self.known(total)
        stop = self.stop(lr, 0.01 if self.shape == "exponential" else 0.0)
        stable = steps - max(1, round(self.decay_ratio * steps))
        done = min(1.0, max(0.0, (step - stable) / (steps - stable)))
        if self.shape == "exponential":
            return stop**done
        fall = done if self.shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * done))
        return 1.0 - (1.0 - stop) * fall
