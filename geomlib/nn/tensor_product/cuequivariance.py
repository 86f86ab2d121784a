"""Clebsch-Gordan products on NVIDIA's cuequivariance, an optional package."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.errors import ConfigError, MissingExtra
from geomlib.nn.tensor_product.clebsch_gordan import CouplingProduct
from geomlib.nn.tensor_product.irreps import Irrep, Path

__all__ = ["CuEquivarianceCG"]

_SUBSCRIPTS = {"uuu": "u,iu,ju,ku+ijk", "uvu": "uv,iu,jv,ku+ijk", "uvw": "uvw,iu,jv,kw+ijk"}
_ONE_CHANNEL_OF_Y = "u,iu,j,ku+ijk"

_METHODS = {"uuu": "uniform_1d", "uvu": "fused_tp", "uvw": "fused_tp"}
"""Which of cuequivariance's CUDA kernels takes the product of a mode."""


class CuEquivarianceCG(CouplingProduct):
    """All channels and paths as one segmented tensor product of cuequivariance.

    The product is made of geomlib's coupling tensors and segments, so nothing of cuequivariance's own irreps or their
    conventions enters. On the CPU it runs as plain operations of PyTorch (their method `naive`), which can be
    differentiated any number of times. On CUDA their kernels do the work (`uniform_1d` channel by channel, `fused_tp`
    for the other modes; package cuequivariance-ops-torch); which derivatives they have is theirs to say, and geomlib
    has not measured them.

    Args:
        irreps, paths, coefficients: see `CouplingProduct`.
        mode: `uuu`, `uvu` or `uvw`.
        channels: of x, y and the output.
    Inputs:
        x, y: [rows, components·channels], the channels of a component beside each other.
        weight: [rows or 1, paths·(channels of the mode)].
    Returns: [rows, components·channels]

    Raises:
        MissingExtra: the packages cuequivariance and cuequivariance-torch are not installed.
        ConfigError: x is on a GPU, and the kernels are not installed.
    """

    def __init__(
        self,
        irreps: tuple[Sequence[Irrep], Sequence[Irrep], Sequence[Irrep]],
        paths: Sequence[Path],
        coefficients: Sequence[float],
        mode: str,
        channels: tuple[int, int, int],
    ) -> None:
        super().__init__(irreps, paths, coefficients)
        _package()
        self.mode, self.channels = mode, channels
        self._made: dict[tuple[str, torch.dtype], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # made again where a copy needs it

    def forward(
        self,
        x: Float[Tensor, "rows dx_u"],
        y: Float[Tensor, "rows dy_v"],
        weight: Float[Tensor, "rows paths_channels"],
    ) -> Float[Tensor, "rows dz_w"]:
        """Multiply."""
        if not self.paths:
            return x.new_zeros(x.shape[0], self.offsets[2][-1] * self.channels[2])
        key = x.device.type, x.dtype
        if key not in self._made:  # not a submodule: its constants stay exact when the net changes its precision
            self._made[key] = self._make(*key).to(x.device)
        z: Tensor = self._made[key]([weight, x, y])[0]
        return z

    def _make(self, device: str, dtype: torch.dtype) -> Any:
        cue, cuet = _package()
        if device == "cpu":
            return cuet.SegmentedPolynomial(self.polynomial(cue), method="naive")
        try:
            import cuequivariance_ops_torch  # noqa: F401 - cuequivariance would go on without it, slowly
        except ImportError:
            raise ConfigError(
                "TensorProduct kind 'cuequivariance' needs its kernels on a GPU: pip install "
                "cuequivariance-ops-torch-cu12 (or -cu13, as CUDA is), or use kind 'cg_stacked'"
            ) from None
        return cuet.SegmentedPolynomial(self.polynomial(cue), method=_METHODS[self.mode], math_dtype=dtype)

    def polynomial(self, cue: Any) -> Any:
        """The product in cuequivariance's terms: operands are weights, x, y and the output."""
        u, v, w = self.channels
        alone = self.mode == "uuu" and v == 1 < u
        product = cue.SegmentedTensorProduct.from_subscripts(_ONE_CHANNEL_OF_Y if alone else _SUBSCRIPTS[self.mode])
        of_weight = {"uuu": (u,), "uvu": (u, v), "uvw": (u, v, w)}[self.mode]
        for _ in self.paths:
            product.add_segment(0, of_weight)
        for operand, (irreps, count) in enumerate(zip(self.irreps, self.channels, strict=True), 1):
            for irrep in irreps:
                product.add_segment(operand, (irrep.dim,) if operand == 2 and alone else (irrep.dim, count))
        for number, path in enumerate(self.paths):
            product.add_path(number, path.x, path.y, path.out, c=self.coupling(number).numpy())
        return cue.SegmentedPolynomial.eval_last_operand(product)

    def flops(self) -> int:
        """Floating-point operations for one row of one pair of channels, path by path."""
        total = 0
        for path in self.paths:
            a, b, c = (2 * degree + 1 for degree in self.degrees(path))
            total += a * b * (1 + 2 * c) + 2 * c
        return total


def _package() -> tuple[Any, Any]:
    try:
        import cuequivariance as cue
        import cuequivariance_torch as cuet
    except ImportError:
        raise MissingExtra("cuequivariance-torch", "cue", "TensorProduct kind 'cuequivariance'") from None
    return cue, cuet
