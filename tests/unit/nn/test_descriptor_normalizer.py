"""Standardised descriptors: numbers by hand, gaps, outliers, columns without information."""

import pytest
import torch

from geomlib.errors import DataError
from geomlib.nn.descriptors import DescriptorNormalizer

NAN = float("nan")
ROWS = torch.tensor([[1.0, 5.0, NAN, 1e6], [3.0, 5.0, NAN, 1e6 + 2], [NAN, 5.0, NAN, 1e6 + 4]])


def fitted(rows=ROWS, **options):
    normalizer = DescriptorNormalizer(rows.shape[1], **options)
    normalizer.fit(rows.split(1))
    return normalizer


def test_numbers_by_hand():
    found = fitted()(torch.tensor([[2.0, 5.0, 7.0, 1e6], [4.0, 9.0, NAN, NAN]]))
    expected = torch.tensor([[0.0, 0.0, 0.0, -(1.5**0.5)], [2.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_column_keeps_its_digits_beside_a_large_mean():
    torch.testing.assert_close(1.0 / fitted().scale[3], torch.tensor((8 / 3) ** 0.5))


def test_pieces_of_any_size_give_the_same():
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7 - 30
    whole, pieces = DescriptorNormalizer(3), DescriptorNormalizer(3)
    whole.fit([rows])
    pieces.fit(rows.split(7))
    torch.testing.assert_close(whole.scale, pieces.scale)
    torch.testing.assert_close(1.0 / whole.scale.double(), rows.std(0, correction=0), rtol=1e-6, atol=0)
    torch.testing.assert_close(whole(rows).mean(0), torch.zeros(3), atol=1e-6, rtol=0)


def test_outliers_are_cut_off():
    far = torch.tensor([[1e6, 0.0, 0.0, -1e9], [float("inf"), 0.0, 0.0, float("-inf")]])
    assert fitted(bound=3.0)(far)[:, [0, 3]].tolist() == [[3.0, -3.0], [3.0, -3.0]]


def test_before_a_fit_nothing_is_moved():
    assert DescriptorNormalizer(2)(torch.tensor([[1.0, NAN]])).tolist() == [[1.0, 0.0]]


def test_gradients_are_finite_with_gaps():
    values = ROWS.clone().requires_grad_()
    fitted()(values).sum().backward()
    assert bool(torch.isfinite(values.grad).all())


@pytest.mark.parametrize(("rows", "message"), [([], "no molecules"), ([torch.zeros(1, 3)], "3 descriptors")])
def test_what_it_refuses(rows, message):
    with pytest.raises(DataError, match=message):
        DescriptorNormalizer(2).fit(rows)
