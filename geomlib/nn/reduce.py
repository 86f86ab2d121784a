"""Sums over the items that belong together."""

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["segment_sum"]


def segment_sum(
    values: Float[Tensor, "items *shape"], segment: Int[Tensor, " items"], segments: int
) -> Float[Tensor, "segments *shape"]:
    """Sum the rows of `values` that have the same `segment`; segments without a row are zero.

    `index_add` is the fastest of torch's ways on a CPU and can be differentiated twice (`segment_reduce` can't).
    """
    return values.new_zeros(segments, *values.shape[1:]).index_add(0, segment, values)
