import pytest
import torch

from geomlib.data.elements import SYMBOLS
from geomlib.models.dpa3.embedding import IndexEmbedding, TypeEmbedding, electron_configuration


def test_configurations_hold_all_electrons() -> None:
    for number, symbol in enumerate(SYMBOLS[1:], start=1):
        code = electron_configuration(symbol)
        assert len(code) == 118
        assert sum(entry == 1 for entry in code) == number


def test_hund_and_exceptions() -> None:
    assert electron_configuration("N")[4:10] == [-1, 1] * 3
    assert electron_configuration("O")[4:10] == [1, 1, -1, 1, -1, 1]
    chromium = electron_configuration("Cr")
    assert chromium[18:28] == [-1, 1] * 5  # 3d5
    assert chromium[28:30] == [-1, 1]  # 4s1


@pytest.mark.parametrize(("dim", "repeats"), [(3, 1), (6, 2), (9, 0), (5, 0)])
def test_residual_where_widths_fit(dim: int, repeats: int) -> None:
    embedding = TypeEmbedding(["H", "C", "O"], dim)
    expected = embedding.linear.weight.T
    if repeats:
        expected = expected + torch.eye(3).repeat(1, repeats)
    torch.testing.assert_close(embedding(), expected)


def test_index_embedding_is_a_table() -> None:
    embedding = IndexEmbedding(10, 4)
    torch.testing.assert_close(embedding(torch.tensor([3, 3, 9])), embedding.linear.weight.T[[3, 3, 9]])
    residual = IndexEmbedding(4, 8)
    expected = residual.linear.weight.T + torch.eye(4).repeat(1, 2)
    torch.testing.assert_close(residual(torch.arange(4)), expected)
