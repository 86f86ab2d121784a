"""Low-rank adaptation: large matrices stay as they are, small factors beside them learn."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import ConfigError

__all__ = ["LowRankLinear", "adapt", "is_adapted", "merge"]


class LowRankLinear(nn.Linear):
    """y = W x + b + (alpha / rank) · up(down(dropout(x))), where W and b stay and `up` starts at zero.

    Args:
        linear: W and b; their tensors are taken over, by the same names.
        rank: of what is learned.
        alpha: scale.
        dropout: probability, before `down`.

    Raises:
        ConfigError: arguments out of their range.

    Source: Hu et al., arXiv:2106.09685.
    """

    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float = 16.0, dropout: float = 0.1) -> None:
        if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
            raise ConfigError(f"LoRA rank {rank}, alpha {alpha}, dropout {dropout}: expected ≥ 1, > 0 and [0, 1)")
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.lora_down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_down, a=5**0.5)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The sum of both ways."""
        return super().forward(x) + self.scale * F.linear(F.linear(self.dropout(x), self.lora_down), self.lora_up)

    def merged(self) -> nn.Linear:
        """An ordinary linear map that gives the same without dropout."""
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        made = made.to(self.weight)
        with torch.no_grad():
            made.weight.copy_(self.weight + self.scale * self.lora_up @ self.lora_down)
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made


def adapt(
    module: nn.Module, parts: Sequence[str], rank: int = 8, alpha: float = 16.0, dropout: float = 0.1
) -> list[str]:
    """Put low-rank factors beside linear maps, in place, and stop everything else in `module` from learning.

    Args:
        module: such as an encoder.
        parts: last names of the maps, such as `query` and `value`.
        rank: see `LowRankLinear`.
        alpha: see there.
        dropout: see there.

    Returns:
        Names of the maps.

    Raises:
        ConfigError: a name that no linear map has.
    """
    found = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for part in parts:
        if part not in {name.rpartition(".")[2] for name in found}:
            known = sorted({name.rpartition(".")[2] for name in found})
            raise ConfigError(f"LoRA: no linear map is called '{part}'; there are {', '.join(known)}")
    module.requires_grad_(False)
    chosen = [name for name in found if name.rpartition(".")[2] in parts]
    for name in chosen:
        owner = module.get_submodule(name.rpartition(".")[0])
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(owner, name.rpartition(".")[2], LowRankLinear(linear, rank, alpha, dropout))
    return chosen


def merge(module: nn.Module) -> None:
    """Replace every `LowRankLinear` in `module` by the ordinary map that gives the same, in place."""
    for name, part in list(module.named_modules()):
        if isinstance(part, LowRankLinear):
            setattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], part.merged())


def is_adapted(name: str) -> bool:
    """Whether a tensor of a state dict is one that adaptation added."""
    return name.endswith((".lora_down", ".lora_up"))
