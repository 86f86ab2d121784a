"""Attention on packed sequences."""

import pytest
import torch

from geomlib.errors import ConfigError
from geomlib.nn.attention import attend, pack

LENGTHS = [3, 1, 5, 0, 3, 2]
SEQUENCE = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))


def vectors(seed):
    return torch.randn(len(SEQUENCE), 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rounding", [1, 2, 4, None])
def test_equals_one_sequence_at_a_time(rounding):
    packed = pack(SEQUENCE, len(LENGTHS), rounding)
    tensors = [vectors(seed).requires_grad_() for seed in range(3)]
    found = attend(*(tensor[packed.order] for tensor in tensors), packed)[packed.restore]
    parts = [tensor.split(LENGTHS) for tensor in tensors]
    expected = []
    for q, k, v in zip(*parts, strict=True):
        weights = torch.einsum("qha,kha->hqk", q, k).div(2.0).softmax(-1)
        expected.append(torch.einsum("hqk,kha->qha", weights, v))
    expected = torch.cat(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    direction = vectors(9)
    for one, two in zip(
        torch.autograd.grad(found, tensors, direction), torch.autograd.grad(expected, tensors, direction), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)


def test_nothing_is_padded_unless_asked_for():
    packed = pack(SEQUENCE, len(LENGTHS), 1)
    assert [(bucket.sequences, bucket.length, bucket.mask) for bucket in packed.buckets] == [
        (1, 1, None),
        (1, 2, None),
        (2, 3, None),
        (1, 5, None),
    ]
    (whole,) = pack(SEQUENCE, len(LENGTHS), None).buckets
    assert whole.mask.shape == (5, 5) and int(whole.mask.sum()) == whole.tokens == 14


def test_positions_and_longest():
    packed = pack(SEQUENCE, len(LENGTHS))
    assert packed.position.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    assert packed.longest == 5
    assert torch.equal(packed.order[packed.restore], torch.arange(14))


def test_dropout_leaves_weights_out():
    packed = pack(SEQUENCE, len(LENGTHS))
    q, k, _ = (vectors(seed)[packed.order] for seed in range(3))
    ones = torch.ones_like(q)
    torch.testing.assert_close(attend(q, k, ones, packed), ones)
    torch.manual_seed(0)
    assert not torch.allclose(attend(q, k, ones, packed, dropout=0.5), ones)


def test_no_tokens_at_all():
    packed = pack(SEQUENCE[:0], 0)
    assert attend(*(vectors(0)[:0] for _ in range(3)), packed).shape == (0, 2, 4)


def test_rounding_must_be_positive():
    with pytest.raises(ConfigError, match="rounding"):
        pack(SEQUENCE, len(LENGTHS), 0)
