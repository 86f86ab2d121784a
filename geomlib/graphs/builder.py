"""What every structure builder offers to `GraphSpec`."""

from dataclasses import dataclass
from typing import ClassVar

from geomlib.data.graph import GraphData

__all__ = ["Builder"]


@dataclass(frozen=True)
class Builder:
    """A frozen set of plain arguments and a `build` that adds fields to a graph in place.

    Class attributes:
        kind: name in JSON.
        provides: fields that `build` sets.
        batched: False if it runs once per graph (and is cached), True if it runs on each batch.
    """

    kind: ClassVar[str]
    provides: ClassVar[tuple[str, ...]]
    batched: ClassVar[bool] = False

    def build(self, graph: GraphData) -> None:
        """Add the fields named in `provides` to `graph`."""
        raise TypeError(f"{type(self).__name__} must define build(graph)")
