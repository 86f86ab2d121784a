"""Descriptors as a net wants them: standardised, bounded, without gaps."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.errors import DataError

__all__ = ["DescriptorNormalizer"]


class DescriptorNormalizer(nn.Module):
    """z = clip((x − mean) / sd, ±bound), and 0 where x is missing or did not vary in training.

    Mean and standard deviation are those of the training molecules; until `fit` they are 0 and 1.

    Args:
        width: number of descriptors.
        bound: largest |z|; a molecule unlike those of training would drown everything else otherwise.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, bound: float = 5.0) -> None:
        super().__init__()
        self.bound = bound
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))  # 1/sd, 0 for what does not vary

    def fit(self, rows: Iterable[Float[Tensor, "molecules width"]]) -> None:
        """Take mean and deviation from descriptors of molecules, each column from those that have it.

        Args:
            rows: in pieces of any size.

        Raises:
            DataError: there is no molecule, or another number of descriptors.
        """
        count, total, squares, origin = (torch.zeros(len(self.mean), dtype=torch.float64) for _ in range(4))
        seen = 0
        for piece in rows:
            if piece.shape[1:] != self.mean.shape:
                raise DataError(f"{piece.shape[1]} descriptors of a molecule; the net was made for {len(self.mean)}")
            piece = piece.double()
            known = torch.isfinite(piece)
            if seen == 0:  # near the mean, so that squares lose no digits
                origin = torch.where(known, piece, 0.0)[0]
            offset = torch.where(known, piece - origin, 0.0)
            seen, count = seen + len(piece), count + known.sum(0)
            total, squares = total + offset.sum(0), squares + offset.square().sum(0)
        if not seen:
            raise DataError("no molecules to standardise descriptors with")
        offset = total / count.clamp_min(1)
        deviation = (squares / count.clamp_min(1) - offset.square()).clamp_min(0).sqrt()
        mean = origin + offset
        varies = deviation > 1e-6 * (1.0 + mean.abs())
        self.mean.copy_(torch.where(count > 0, mean, 0.0))
        self.scale.copy_(torch.where(varies, 1.0 / deviation.clamp_min(1e-30), 0.0))

    def forward(self, values: Float[Tensor, "molecules width"]) -> Float[Tensor, "molecules width"]:
        """Standardise."""
        scaled = (values.to(self.mean) - self.mean) * self.scale
        return torch.nan_to_num(scaled, nan=0.0).clamp(-self.bound, self.bound)

    def inverse(self, standardised: Float[Tensor, "molecules width"]) -> Float[Tensor, "molecules width"]:
        """Natural units of standardised values; the mean for what did not vary in training."""
        deviation = torch.where(self.scale > 0, 1.0 / self.scale.clamp_min(1e-30), 0.0)
        return self.mean + standardised * deviation
