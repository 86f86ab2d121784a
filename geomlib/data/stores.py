"""What holds graphs: the `Store` contract and the stores that are made of other stores."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData, collate
from geomlib.errors import DataError

__all__ = ["DESCRIBING_FIELDS", "ConcatStore", "MemoryStore", "Store", "SubsetStore"]

DESCRIBING_FIELDS = (
    "pos",
    "atomic_number",
    "node_type",
    "cell",
    "pbc",
    "charge",
    "spin_multiplicity",
    "edge_index",
    "edge_shift",
    "component_graph",
    "mole_fraction",
    "temperature",
    "smiles",
    "character_component",
)
"""Fields that say what a graph is; a store gives them whenever it has them. All others are given when asked for."""


class Store(ABC):
    """A sequence of graphs, in internal units, without the structure that a net's spec builds.

    `store[i]` is the same graph each time. Floating fields are float64 whatever the file had.

    Attributes:
        fields: fields that every graph carries.
        partial: fields among them that are NaN where a label is missing.
        basis: basis set of Kohn-Sham matrices; empty where there are none or it is not said.
        functional: what they were made with, in PySCF's words; empty likewise.
    """

    fields: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    basis: str = ""
    functional: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> GraphData: ...

    @abstractmethod
    def describe(self, index: int) -> str:
        """Where graph `index` comes from, e.g. `"train.extxyz, frame 12"`; for messages."""

    def __iter__(self) -> Iterator[GraphData]:
        for index in range(len(self)):
            yield self[index]

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """Number of nodes of each graph; of characters where the graphs are text."""
        return torch.tensor([_size(graph) for graph in self], dtype=torch.int64)

    def batch(self, indices: Sequence[int]) -> GraphData:
        """The graphs at `indices` as one batch; equal to `collate([store[i] for i in indices])`."""
        return collate([self[int(index)] for index in indices])

    @property
    def members(self) -> "list[Store]":
        """The stores that this one is made of, down to those that are not made of others."""
        return [self]

    @property
    def content_hash(self) -> str:
        """Hash of all graphs; half of the key of cached structures."""
        digest = hashlib.sha256()
        for graph in self:
            for name in sorted(graph.keys()):
                value = graph[name].contiguous()
                digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
                digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def _position(self, index: int) -> int:
        """`index` counted from the start; negative ones count from the end."""
        position = int(index) + len(self) * (index < 0)
        if not 0 <= position < len(self):
            raise IndexError(f"graph {index} of a store of {len(self)}")
        return position


def _size(graph: GraphData) -> int:
    return len(graph.smiles) if "smiles" in graph else graph.num_nodes


def common_fields(graphs: Sequence[GraphData]) -> tuple[str, ...]:
    """Fields that all of `graphs` carry, in the order of the field table (PyG's `keys` has none)."""
    if not graphs:
        return ()
    shared = set(graphs[0].keys()).intersection(*(graph.keys() for graph in graphs))
    return tuple(name for name in FIELDS if name in shared)


class MemoryStore(Store):
    """Graphs in a list.

    Args:
        graphs: graphs in internal units, all with the same fields.
        name: what to call the list in messages.
        partial: fields that are NaN where a label is missing.

    Raises:
        DataError: graphs that differ in their fields.
    """

    def __init__(self, graphs: Sequence[GraphData], name: str = "memory", partial: Sequence[str] = ()) -> None:
        self.graphs = list(graphs)
        self.name = name
        self.partial = tuple(partial)
        self.fields = common_fields(self.graphs)
        for index, graph in enumerate(self.graphs):
            if odd := sorted(set(graph.keys()) - set(self.fields)):
                raise DataError(
                    f"{name}, graph {index} has the fields {odd}, which others lack; give them to all or none"
                )

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: int) -> GraphData:
        return self.graphs[self._position(index)].clone()

    def describe(self, index: int) -> str:
        """See `Store`."""
        return f"{self.name}, graph {self._position(index)}"


class ConcatStore(Store):
    """Several stores, one after the other.

    Args:
        stores: at least one; all give the same fields.

    Raises:
        DataError: no stores, or stores that differ in their fields.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        if not stores:
            raise DataError("ConcatStore needs at least one store")
        self.stores = list(stores)
        self.fields = stores[0].fields
        self.partial = tuple(sorted({name for store in stores for name in store.partial}))
        for position, store in enumerate(stores):
            if set(store.fields) != set(self.fields):
                odd = sorted(set(store.fields) ^ set(self.fields))
                raise DataError(f"store {position} of ConcatStore differs from the first one in the fields {odd}")
        lengths = torch.tensor([len(store) for store in stores])
        self._ends = lengths.cumsum(0)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, index: int) -> tuple[Store, int]:
        position = self._position(index)
        which = int(torch.searchsorted(self._ends, position, right=True))
        return self.stores[which], position - int(self._starts[which])

    def __getitem__(self, index: int) -> GraphData:
        store, position = self._find(index)
        return store[position]

    def describe(self, index: int) -> str:
        """See `Store`."""
        store, position = self._find(index)
        return store.describe(position)

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return torch.cat([store.sizes for store in self.stores])

    @property
    def members(self) -> list[Store]:
        """See `Store`."""
        return [member for store in self.stores for member in store.members]

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        return hashlib.sha256(" ".join(store.content_hash for store in self.stores).encode()).hexdigest()


class SubsetStore(Store):
    """Some graphs of a store, in the order given.

    Args:
        store: where they come from.
        indices: positions in it.

    Raises:
        DataError: an index that the store does not have.
    """

    def __init__(self, store: Store, indices: Sequence[int] | Tensor) -> None:
        self.store = store
        self.indices = torch.as_tensor(indices, dtype=torch.int64).flatten()
        self.fields, self.partial = store.fields, store.partial
        if len(self.indices) and (int(self.indices.min()) < 0 or int(self.indices.max()) >= len(store)):
            low, high = int(self.indices.min()), int(self.indices.max())
            raise DataError(f"indices {low}…{high} are outside a store of {len(store)} graphs")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> GraphData:
        return self.store[int(self.indices[self._position(index)])]

    def describe(self, index: int) -> str:
        """See `Store`."""
        return self.store.describe(int(self.indices[self._position(index)]))

    def batch(self, indices: Sequence[int]) -> GraphData:
        """See `Store`."""
        return self.store.batch([int(self.indices[self._position(index)]) for index in indices])

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return self.store.sizes[self.indices]

    @property
    def members(self) -> list[Store]:
        """See `Store`."""
        return self.store.members

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        text = f"{self.store.content_hash} {self.indices.tolist()}"
        return hashlib.sha256(text.encode()).hexdigest()
