"""`HyperedgeStore`: files of hyperedges as projected graphs with their hyperedges as labels."""

from collections.abc import Sequence
from pathlib import Path

from geomlib.data.graph import GraphData
from geomlib.data.hypergraphs import Hypergraph, read_hyperedges
from geomlib.data.stores import Store
from geomlib.errors import DataError

__all__ = ["HyperedgeStore"]


class HyperedgeStore(Store):
    """One graph a file: the projection, with `hyperedge_index` and `multiplicity` as labels.

    Args:
        path: file of hyperedges (see `read_hyperedges`), or several.
        weighted: also give the multiplicity of each edge, ω.
        fraction: take only this share of the hyperedges, drawn at random, and project those (semi-supervised source).
        seed: of that draw.

    Raises:
        DataError: no file, or one without hyperedges.
    """

    def __init__(self, path: str | Sequence[str], weighted: bool = False, fraction: float = 1.0, seed: int = 0) -> None:
        self.paths = [Path(path)] if isinstance(path, str | Path) else [Path(each) for each in path]
        if not self.paths:
            raise DataError("HyperedgeStore needs at least one file")
        self.weighted = weighted
        self.hypergraphs: list[Hypergraph] = []
        for each in self.paths:
            hypergraph = read_hyperedges(each)
            self.hypergraphs.append(hypergraph if fraction == 1.0 else hypergraph.sample(fraction, seed))
        labels = ("hyperedge_index", "multiplicity")
        self.fields = ("node_id", "edge_index", *(("edge_weight",) if weighted else ()), *labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> GraphData:
        return self.hypergraphs[self._position(index)].to_data(self.weighted)

    def describe(self, index: int) -> str:
        """See `Store`."""
        return str(self.paths[self._position(index)])
