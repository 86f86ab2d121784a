"""What is compared on the graphs of one data set: loss terms, reported fields, labels that may be missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geomlib.errors import ConfigError, nearest
from geomlib.tasks.terms import Term

__all__ = ["Objective", "objectives_of"]


@dataclass
class Objective:
    """Loss and errors of one data set.

    Attributes:
        terms: of the loss, with a weight.
        head: name of the data set; empty where there is one only.
        fields: whose errors are reported.
        partial: fields that are NaN where a label is missing.
    """

    terms: list[Term]
    head: str = ""
    fields: tuple[str, ...] = ()
    partial: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.terms = [term for term in self.terms if term.active]
        if not self.terms:
            where = f" for head '{self.head}'" if self.head else ""
            raise ConfigError(f"the task has no loss term with a weight above zero{where}")
        self.fields = tuple(dict.fromkeys(term.field for term in self.terms))

    @property
    def prefix(self) -> str:
        """What stands before the names of its errors."""
        return f"{self.head}/" if self.head else ""

    @property
    def loss_names(self) -> list[str]:
        """`<field>_loss` for each term, numbered where a field has several."""
        seen: Counter[str] = Counter()
        names = []
        for term in self.terms:
            seen[term.field] += 1
            names.append(f"{term.field}_loss" + (f"_{seen[term.field]}" if seen[term.field] > 1 else ""))
        return names


def objectives_of(
    heads: Sequence[str], terms: Sequence[Term], head_terms: Mapping[str, Sequence[Term]] | None
) -> list[Objective]:
    """One objective for each head of a net, in the order of its heads, or a nameless one for a net without.

    Args:
        heads: of the net.
        terms: of every head that `head_terms` does not name.
        head_terms: head → its own terms.

    Raises:
        ConfigError: an unknown head, or one without a term.
    """
    own = dict(head_terms or {})
    for head in own:
        if head not in heads:
            known = f"heads: {', '.join(heads)}" if heads else "the net has no heads"
            raise ConfigError(f"head_terms names '{head}'{nearest(head, heads)}; {known}")
    return [Objective(list(own.get(head, terms)), head) for head in heads or [""]]
