"""Functions φ of the eigenvalues: m of them as one network with m groups."""

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geomlib.errors import ConfigError, nearest
from geomlib.models.spe.mlp import activated, check_activation, modules

__all__ = ["PHI", "EigenvalueFunction", "make_phi"]


class GroupedLinear(nn.Module):
    """m linear maps side by side: `[m, rows, inputs]` → `[m, rows, outputs]`, with torch's own initial values."""

    def __init__(self, groups: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(groups, outputs)) if bias else None
        bound = 1.0 / math.sqrt(inputs)
        with torch.no_grad():
            for part in (self.weight, self.bias):
                if part is not None:
                    part.uniform_(-bound, bound)

    def forward(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Apply; with other weights if given."""
        weight = self.weight if weight is None else weight
        out = rows @ weight.mT
        return out if self.bias is None else out + self.bias[:, None]


class GroupedNorm(nn.Module):
    """Batch normalisation of each channel of each group, or layer normalisation of each group's rows."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, kind: str, groups: int, channels: int) -> None:
        super().__init__()
        if kind not in ("batch", "layer"):
            raise ConfigError(f"normalisation '{kind}' of φ is unknown; expected 'batch', 'layer' or 'none'")
        self.kind, self.eps, self.momentum = kind, 1e-5, 0.1
        self.weight = nn.Parameter(torch.ones(groups, channels))
        self.bias = nn.Parameter(torch.zeros(groups, channels))
        if kind == "batch":
            self.register_buffer("running_mean", torch.zeros(groups, channels))
            self.register_buffer("running_var", torch.ones(groups, channels))

    def forward(self, rows: Float[Tensor, "groups rows channels"], counts: Float[Tensor, " rows"]) -> Tensor:
        """Normalise; each row counts `counts` times in batch statistics."""
        if self.kind == "layer":
            mean = rows.mean(2, keepdim=True)
            variance = (rows - mean).square().mean(2, keepdim=True)
        elif self.training:
            total = counts.sum()
            mean = (counts @ rows)[:, None] / total
            variance = (counts @ (rows - mean).square())[:, None] / total
            with torch.no_grad():
                number = float(total)
                self.running_mean.lerp_(mean[:, 0].to(self.running_mean.dtype), self.momentum)
                unbiased = variance[:, 0] * (number / max(number - 1.0, 1.0))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        else:
            mean, variance = self.running_mean[:, None], self.running_var[:, None]
        return (rows - mean) * (variance + self.eps).rsqrt() * self.weight[:, None] + self.bias[:, None]


class EigenvalueFunction(nn.Module):
    """Base of all φ: `[graphs, d]` eigenvalues → `[graphs, d, m]`, equal where eigenvalues are equal.

    Args:
        m: number of functions.
    """

    kind: ClassVar[str]

    def __init__(self, m: int) -> None:
        super().__init__()
        if m < 1:
            raise ConfigError(f"SPE wants m = {m} functions of the eigenvalues; expected at least 1")
        self.m = m

    def forward(
        self, eigenvalues: Float[Tensor, "graphs d"], real: Bool[Tensor, "graphs d"], padded: bool = False
    ) -> Float[Tensor, "graphs d {self.m}"]:
        """Evaluate.

        Args:
            eigenvalues: padded with zeros.
            real: which of them are no padding.
            padded: let padding take part in sums and statistics, as the published code does.
        """
        raise TypeError(f"{type(self).__name__} must define forward(eigenvalues, real, padded)")

    def _rows(self, eigenvalues: Tensor) -> Tensor:
        return eigenvalues.reshape(1, -1, 1).expand(self.m, -1, 1)

    def _shaped(self, rows: Tensor, eigenvalues: Tensor) -> Tensor:
        return rows.squeeze(2).T.reshape(*eigenvalues.shape, self.m)


class Ones(EigenvalueFunction):
    """φ ≡ 1: W is the projector onto the eigenvectors, eigenvalues are not looked at."""

    kind = "ones"

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        return eigenvalues.new_ones(1).expand(*eigenvalues.shape, self.m)


class Perceptron(EigenvalueFunction):
    """A small MLP of each eigenvalue on its own.

    Args:
        m: number of functions.
        width: hidden channels of each.
        layers: linear maps.
        norm: normalisation of hidden channels.
        activation: `relu` or `tanh`.
    """

    kind = "mlp"

    def __init__(self, m: int, width: int = 16, layers: int = 3, norm: str = "batch", activation: str = "relu") -> None:
        super().__init__(m)
        check_activation(activation)
        self.activation = activation
        sizes = [1, *[width] * (layers - 1), 1]
        self.linears = modules(GroupedLinear(m, a, b) for a, b in pairwise(sizes))
        self.norms = modules(GroupedNorm(norm, m, width) for _ in range(layers - 1) if norm != "none")

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        rows = self._rows(eigenvalues)
        counts = (torch.ones_like(real) if padded else real).reshape(-1).to(rows.dtype)
        for at, linear in enumerate(self.linears):
            if at:
                rows = activated(self.norms[at - 1](rows, counts) if len(self.norms) else rows, self.activation)
            rows = linear(rows)
        return self._shaped(rows, eigenvalues)


class DeepSets(EigenvalueFunction):
    """Layers x_i ← σ(a x_i + b + c Σ_j x_j), the sum over real eigenvalues; σ after the last one, too.

    Args:
        m: number of functions.
        width: hidden channels of each.
        layers: number of layers.
        activation: `relu` or `tanh`.
    """

    kind = "deepsets"

    def __init__(self, m: int, width: int = 16, layers: int = 4, activation: str = "relu") -> None:
        super().__init__(m)
        check_activation(activation)
        self.activation = activation
        sizes = [1, *[width] * (layers - 1), 1]
        pairs = list(pairwise(sizes))
        self.own = modules(GroupedLinear(m, a, b) for a, b in pairs)
        self.sum = modules(GroupedLinear(m, a, b, bias=False) for a, b in pairs)

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        rows = self._rows(eigenvalues)
        graphs, d = eigenvalues.shape
        counts = (torch.ones_like(real) if padded else real).to(rows.dtype)[None, :, :, None]
        for own, summed in zip(self.own, self.sum, strict=True):
            total = (rows.reshape(self.m, graphs, d, -1) * counts).sum(2)
            rest = summed(total)[:, :, None].expand(-1, -1, d, -1).reshape(self.m, graphs * d, -1)
            rows = activated(own(rows) + rest, self.activation)
        return self._shaped(rows, eigenvalues)


class Transformer(EigenvalueFunction):
    """Linear, self-attention over the eigenvalues of a graph, linear; no residual, no norm.

    Args:
        m: number of functions.
        width: channels of each.
        layers: attention layers.
        heads: of each; divides `width`.
    """

    kind = "transformer"

    def __init__(self, m: int, width: int = 16, layers: int = 2, heads: int = 2) -> None:
        super().__init__(m)
        if width % heads:
            raise ConfigError(f"φ has {width} channels, which {heads} heads don't divide")
        self.heads = heads
        self.first, self.last = GroupedLinear(m, 1, width), GroupedLinear(m, width, 1)
        self.qkv = modules(GroupedLinear(m, width, 3 * width) for _ in range(layers))
        self.out = modules(GroupedLinear(m, width, width) for _ in range(layers))

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        graphs, d = eigenvalues.shape
        rows = self.first(self._rows(eigenvalues))
        seen = torch.ones_like(real) if padded else real
        seen = torch.where(seen.any(1, keepdim=True), seen, True)  # a graph without modes has nothing to look at
        for qkv, out in zip(self.qkv, self.out, strict=True):
            parts = qkv(rows).reshape(self.m, graphs, d, 3, self.heads, -1)
            query, key, value = (parts[:, :, :, k].transpose(2, 3) for k in range(3))
            score = query @ key.mT / math.sqrt(query.shape[-1])
            score = score.masked_fill(~seen[None, :, None, None, :], -torch.inf)
            mixed = (score.softmax(-1) @ value).transpose(2, 3)
            rows = out(mixed.reshape(self.m, graphs * d, -1))
        return self._shaped(self.last(rows), eigenvalues)


class Spline(EigenvalueFunction):
    """Cubic B-splines on [0, 2] with learned control values; the fewer pieces, the smoother and the more stable.

    Args:
        m: number of functions.
        pieces: polynomials that each consists of.
    """

    kind = "spline"

    def __init__(self, m: int, pieces: int = 8) -> None:
        super().__init__(m)
        if pieces < 1:
            raise ConfigError(f"a spline of {pieces} pieces: expected at least 1")
        self.pieces = pieces
        self.controls = nn.Parameter(torch.randn(m, pieces + 3) / math.sqrt(m))

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        at = eigenvalues.clamp(0.0, 2.0) * (0.5 * self.pieces)
        piece = at.detach().floor().clamp(max=self.pieces - 1)
        t = at - piece
        s = 1.0 - t
        basis = torch.stack(
            [s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3], dim=-1
        )  # of the four control values that a piece sees, times 6
        seen = piece.long()[..., None] + torch.arange(4, device=piece.device)
        return torch.einsum("gdk,mgdk->gdm", basis / 6.0, self.controls[:, seen])

    @torch.no_grad()
    def fit_line(self, slope: float, offset: float = 0.0) -> None:
        """Let all functions be slope · λ + offset, exactly."""
        knots = torch.arange(-1, self.pieces + 2, dtype=self.controls.dtype) * (2.0 / self.pieces)
        self.controls.copy_((slope * knots + offset).expand_as(self.controls))

    def slope_bound(self) -> Float[Tensor, " m"]:
        """An upper bound of |φ′| on [0, 2], of each function."""
        return self.controls.diff(dim=1).abs().amax(1) * (0.5 * self.pieces)


class Lipschitz(EigenvalueFunction):
    """An MLP whose slope is nowhere above `bound`: its linear maps are scaled down to spectral norms bound^{1/layers}.

    Args:
        m: number of functions.
        width: hidden channels of each.
        layers: linear maps.
        bound: largest slope of each function.
        activation: `relu` or `tanh`, both of slope 1 at most.
    """

    kind = "lipschitz"

    def __init__(self, m: int, width: int = 16, layers: int = 3, bound: float = 1.0, activation: str = "relu") -> None:
        super().__init__(m)
        check_activation(activation)
        if not bound > 0.0:
            raise ConfigError(f"the slope of φ is bounded by {bound}; expected a positive number")
        self.activation, self.bound = activation, bound
        sizes = [1, *[width] * (layers - 1), 1]
        self.linears = modules(GroupedLinear(m, a, b) for a, b in pairwise(sizes))

    def forward(self, eigenvalues: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """See `EigenvalueFunction`."""
        rows = self._rows(eigenvalues)
        share = self.bound ** (1.0 / len(self.linears))
        for at, linear in enumerate(self.linears):
            norm = torch.linalg.matrix_norm(linear.weight, ord=2)
            weight = linear.weight * (share / norm.clamp(min=share))[:, None, None]
            rows = linear(activated(rows, self.activation) if at else rows, weight)
        return self._shaped(rows, eigenvalues)


PHI: dict[str, type[EigenvalueFunction]] = {
    cls.kind: cls for cls in (DeepSets, Lipschitz, Ones, Perceptron, Spline, Transformer)
}
"""Name → φ."""


def make_phi(kind: str, m: int, **options: Any) -> EigenvalueFunction:
    """φ by name.

    Args:
        kind: key of `PHI`.
        m: number of functions.
        **options: other arguments of that class.

    Raises:
        ConfigError: an unknown name or option.
    """
    if kind not in PHI:
        raise ConfigError(f"φ '{kind}' is unknown{nearest(kind, PHI)}; there are {sorted(PHI)}")
    try:
        return PHI[kind](m, **options)
    except TypeError as error:
        raise ConfigError(f"φ '{kind}': {error}") from None
