"""`Memo`: results that are kept up to a number, for texts that are read again and again."""

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Memo"]

Value = TypeVar("Value")


class Memo(Generic[Value]):
    """A function of a text that remembers the results of the first texts it sees, and calculates those of others anew.

    A cache that drops the oldest finds nothing in a corpus longer than it is, since passes come in another order; this
    one finds its share.

    Args:
        function: what to remember; what it raises goes through.
        limit: number of texts that are kept.
    """

    def __init__(self, function: Callable[[str], Value], limit: int = 200_000) -> None:
        self.function, self.limit = function, limit
        self._known: dict[str, Value] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, text: str) -> Value:
        """The result for `text`."""
        if text in self._known:
            return self._known[text]
        value = self.function(text)
        if len(self._known) < self.limit:
            self._known[text] = value
        return value
