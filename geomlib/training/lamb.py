"""LAMB: Adam whose step is as long as the weights of each tensor ask for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from geomlib.errors import ConfigError

__all__ = ["LAMB"]


class LAMB(Optimizer):
    """w ← w − lr · r · u with u = m̂/(√v̂ + ε) + λw and r = ‖w‖/‖u‖, for batches so large that Adam's steps do not fit.

    m̂ and v̂ are Adam's averages with their bias correction; r is 1 where either norm is 0 and is cut off at both ends
    of `ratio_range`. Tensors with fewer than two axes (biases, LayerNorms) have neither decay nor ratio.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: how much the averages of gradients and of their squares keep at a step.
        eps: ε, outside the root.
        weight_decay: λ.
        ratio_range: least and largest ratio.
        exclude_vectors: leave decay and ratio away for tensors with fewer than two axes.

    Raises:
        ConfigError: a number out of its range.

    Source: You et al., arXiv 1904.00962; the cut ratio as in DeepSpeed's fused version.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.87, 0.997),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        ratio_range: tuple[float, float] = (0.01, 10.0),
        exclude_vectors: bool = True,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ConfigError(f"LAMB lr {lr}, eps {eps}, weight_decay {weight_decay}: expected none below 0")
        if not all(0 <= beta < 1 for beta in betas) or not 0 < ratio_range[0] <= ratio_range[1]:
            raise ConfigError(
                f"LAMB betas {betas} and ratio_range {ratio_range}: expected betas in [0, 1) and 0 < least ≤ largest"
            )
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "ratio_range": tuple(ratio_range),
            "exclude_vectors": exclude_vectors,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; the ratio of each tensor is left in `state[parameter]["ratio"]`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            excluded: dict[bool, list[Tensor]] = {True: [], False: []}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    excluded[group["exclude_vectors"] and parameter.dim() < 2].append(parameter)
            for without, parameters in excluded.items():
                if parameters:
                    self._update(group, parameters, without)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor], excluded: bool) -> None:
        grads: list[Tensor] = []
        averages, squares, steps = [], [], []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            steps.append(int(state["step"]))
            assert parameter.grad is not None
            grads.append(parameter.grad)
            averages.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(averages, grads, 1.0 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - beta2)
        roots = torch._foreach_div(squares, [1.0 - beta2**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(averages, [1.0 - beta1**step for step in steps])
        torch._foreach_div_(updates, roots)
        if excluded:
            ratios = [update.new_ones(()) for update in updates]
        else:
            torch._foreach_add_(updates, parameters, alpha=group["weight_decay"])
            low, high = group["ratio_range"]
            norms = zip(torch._foreach_norm(parameters), torch._foreach_norm(updates), strict=True)
            ratios = [torch.where((w > 0) & (u > 0), (w / u).clamp(low, high), torch.ones_like(w)) for w, u in norms]
        for parameter, ratio in zip(parameters, ratios, strict=True):
            self.state[parameter]["ratio"] = ratio
        torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])
