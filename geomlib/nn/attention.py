"""Attention within sequences of different lengths that lie one after the other, without padding."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomlib.errors import ConfigError

__all__ = ["Bucket", "PackedSequences", "attend", "pack"]


@dataclass(frozen=True)
class Bucket:
    """Sequences that are attended to together.

    Attributes:
        sequences: how many.
        length: tokens of the longest.
        tokens: tokens of all of them.
        mask: which places of `[sequences, length]` hold a token; None where all do.
    """

    sequences: int
    length: int
    tokens: int
    mask: Bool[Tensor, "sequences length"] | None = None


@dataclass(frozen=True)
class PackedSequences:
    """How packed tokens are laid out by the length of their sequence.

    Attributes:
        order: tokens in the order in which buckets want them: shortest sequence first.
        restore: inverse of `order`.
        position: place of each packed token in its sequence, from 0.
        buckets: in the order of the tokens.
        longest: tokens of the longest sequence.
    """

    order: Int[Tensor, " tokens"]
    restore: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    buckets: tuple[Bucket, ...]
    longest: int


def pack(sequence: Int[Tensor, " tokens"], sequences: int, rounding: int | None = 1) -> PackedSequences:
    """Lay out packed tokens for `attend`.

    Args:
        sequence: sequence of each token, ascending.
        sequences: how many there are; some may be empty.
        rounding: sequences whose lengths agree after rounding up to a multiple of this share a bucket. With 1 nothing
            is padded, which is fastest on a CPU; None pads all to the longest, which asks least of a GPU's launches.
    """
    if rounding is not None and rounding < 1:
        raise ConfigError(f"rounding of lengths is {rounding}: expected at least 1, or None for a single bucket")
    lengths = torch.bincount(sequence, minlength=sequences)
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(len(sequence), device=sequence.device) - starts.index_select(0, sequence)
    ascending, by_length = torch.sort(lengths, stable=True)
    shift = starts.index_select(0, by_length) - (ascending.cumsum(0) - ascending)
    order = torch.arange(len(sequence), device=sequence.device) + torch.repeat_interleave(shift, ascending)
    restore = torch.empty_like(order)
    restore[order] = torch.arange(len(order), device=order.device)
    values, counts = (part.tolist() for part in torch.unique_consecutive(ascending, return_counts=True))
    merged: dict[int, list[tuple[int, int]]] = {}
    for length, count in zip(values, counts, strict=True):
        if length:
            key = 0 if rounding is None else -(-length // rounding)
            merged.setdefault(key, []).append((length, count))
    buckets = []
    for members in merged.values():
        longest, mask = members[-1][0], None
        if len(members) > 1:
            own = torch.tensor([length for length, count in members for _ in range(count)], device=sequence.device)
            mask = torch.arange(longest, device=sequence.device) < own.unsqueeze(1)
        number, tokens = sum(count for _, count in members), sum(length * count for length, count in members)
        buckets.append(Bucket(number, longest, tokens, mask))
    return PackedSequences(order, restore, position, tuple(buckets), values[-1] if values else 0)


def attend(
    query: Float[Tensor, "tokens heads width"],
    key: Float[Tensor, "tokens heads width"],
    value: Float[Tensor, "tokens heads width"],
    packed: PackedSequences,
    dropout: float = 0.0,
) -> Float[Tensor, "tokens heads width"]:
    """softmax(q·kᵀ/√width) v among the tokens of each sequence.

    On a CPU half precision is widened here: torch's attention takes four times as long backward in bfloat16.

    Args:
        query: of tokens in the order `packed.order`, as all others.
        key: what queries are compared with.
        value: what is averaged.
        packed: which tokens belong together.
        dropout: probability that a weight is left out.
    """
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", enabled=False):
            return attend(query.float(), key.float(), value.float(), packed, dropout).to(query.dtype)
    sizes = [bucket.tokens for bucket in packed.buckets]
    parts = zip(packed.buckets, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    out = []
    for bucket, *tensors in parts:
        places = None if bucket.mask is None else bucket.mask.flatten().nonzero().squeeze(1)
        shape = (bucket.sequences, bucket.length)
        q, k, v = (_spread(tensor, places, shape).transpose(1, 2) for tensor in tensors)
        mask = None if bucket.mask is None else bucket.mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(0, 1)
        out.append(mixed if places is None else mixed.index_select(0, places))
    return torch.cat(out) if out else value


def _spread(
    tokens: Tensor, places: Tensor | None, shape: tuple[int, int]
) -> Float[Tensor, "sequences length heads width"]:
    """Tokens of a bucket as a rectangle, zeros where there are none."""
    if places is not None:
        tokens = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:]).index_copy(0, places, tokens)
    return tokens.view(*shape, *tokens.shape[1:])
