"""`Memo`: what is calculated once, and what is not kept."""

import pytest

from geomlib.data.memo import Memo
from geomlib.errors import DataError


def test_first_texts_are_kept_and_others_calculated_anew():
    asked = []
    memo = Memo(lambda text: asked.append(text) or text.upper(), limit=2)
    assert [memo(text) for text in "abcabc"] == list("ABCABC")
    assert asked == ["a", "b", "c", "c"]
    assert len(memo) == 2


def test_none_is_a_result_and_an_error_is_not():
    asked = []

    def function(text):
        asked.append(text)
        if text == "bad":
            raise DataError("bad")

    memo = Memo(function)
    for _ in range(2):
        assert memo("nothing") is None
        with pytest.raises(DataError, match="bad"):
            memo("bad")
    assert asked == ["nothing", "bad", "bad"]
