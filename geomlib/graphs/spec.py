"""`GraphSpec`: the frozen, JSON-able description of the structure that a net needs, and how to build it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, TypeVar

from geomlib.data.graph import GraphData
from geomlib.errors import FileFormatError, SpecMismatch, nearest
from geomlib.graphs.builder import Builder
from geomlib.graphs.cliques import Cliques
from geomlib.graphs.line import LineGraph
from geomlib.graphs.molecule import Descriptors, MoleculeGraph
from geomlib.graphs.orbitals import OrbitalEntries
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spectral import LaplacianModes
from geomlib.graphs.tokens import SmilesTokens
from geomlib.graphs.zinc import ZincGraph

__all__ = ["BUILDERS", "GraphSpec"]

BUILDERS: Mapping[str, type[Builder]] = {
    cls.kind: cls
    for cls in (
        Cliques,
        Descriptors,
        LaplacianModes,
        LineGraph,
        MoleculeGraph,
        OrbitalEntries,
        RadiusEdges,
        ZincGraph,
        SmilesTokens,
    )
}
"""Name in a file → builder. A family that needs another structure adds its builder here."""

B = TypeVar("B", bound=Builder)


@dataclass(frozen=True)
class GraphSpec:
    """What a net needs to find in a graph: builders, in the order in which they run.

    A net owns its spec; data modules and applications read it there, so that a cutoff is written once.

    Args:
        builders: e.g. `(RadiusEdges(6.0), LineGraph(4.0))`.
    """

    builders: tuple[Builder, ...] = ()

    def prepare(self, graph: GraphData) -> GraphData:
        """Run the builders that work on one graph at a time and are worth caching; return the same graph."""
        return self._run(graph, batched=False)

    def complete(self, batch: GraphData) -> GraphData:
        """Run the builders that are cheapest on a whole batch; return the same batch."""
        return self._run(batch, batched=True)

    def build(self, graph: GraphData) -> GraphData:
        """Build everything on a graph or a batch that holds no structure yet; return it."""
        return self.complete(self.prepare(graph))

    def _run(self, graph: GraphData, *, batched: bool) -> GraphData:
        for builder in self.builders:
            if builder.batched is batched:
                builder.build(graph)
        return graph

    def check(self, graph: GraphData) -> None:
        """Raise unless `graph` holds all fields that this spec provides.

        Raises:
            SpecMismatch: one is missing.
        """
        for builder in self.builders:
            for name in builder.provides:
                if name not in graph:
                    raise SpecMismatch(
                        f"the graph lacks '{name}', which {builder} makes: call net.spec.build(graph) first"
                    )

    @property
    def smiles_form(self) -> str:
        """How builders write SMILES before they read them: `as-is`, `canonical` or `kekule`, which SELFIES asks for."""
        form = next((str(form) for builder in self.builders if (form := getattr(builder, "form", None))), "as-is")
        return "kekule" if form == "selfies" else form

    def as_written(self) -> Self:
        """The same spec for SMILES that are written already, as augmentation does it."""
        return type(self)(
            tuple(
                replace(builder, form=as_is) if (as_is := getattr(builder, "form_as_is", "")) else builder  # type: ignore[call-arg]
                for builder in self.builders
            )
        )

    def find(self, kind: type[B]) -> B | None:
        """The builder of class `kind`, or None if the net needs none."""
        return next((builder for builder in self.builders if isinstance(builder, kind)), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"builders": [{"kind": builder.kind, **asdict(builder)} for builder in self.builders]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            FileFormatError: an unknown builder or argument.
        """
        builders = []
        for entry in values["builders"]:
            arguments = dict(entry)
            kind = arguments.pop("kind", "")
            if kind not in BUILDERS:
                raise FileFormatError(
                    f"graph spec names the builder '{kind}', which is unknown{nearest(kind, BUILDERS)}"
                )
            known = {row.name for row in fields(BUILDERS[kind])}
            if unknown := sorted(set(arguments) - known):
                raise FileFormatError(f"graph spec builder '{kind}' has no argument {unknown}; it has {sorted(known)}")
            builders.append(BUILDERS[kind](**arguments))
        return cls(tuple(builders))

    @property
    def hash(self) -> str:
        """Short hash of the JSON form; key of cached structures."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
