"""The data currency and everything that feeds it; the names below load on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomlib.data.asedb import AseDbStore as AseDbStore
    from geomlib.data.atoms import from_atoms as from_atoms
    from geomlib.data.atoms import to_atoms as to_atoms
    from geomlib.data.cards import Card as Card
    from geomlib.data.cards import CardSplit as CardSplit
    from geomlib.data.cards import CardStore as CardStore
    from geomlib.data.cards import find_card as find_card
    from geomlib.data.deepmd import DeepmdStore as DeepmdStore
    from geomlib.data.extxyz import ExtxyzStore as ExtxyzStore
    from geomlib.data.fields import FIELDS as FIELDS
    from geomlib.data.flat import FlatStore as FlatStore
    from geomlib.data.graph import GraphData as GraphData
    from geomlib.data.graph import collate as collate
    from geomlib.data.hamiltonian_databases import MD17HamiltonianStore as MD17HamiltonianStore
    from geomlib.data.hamiltonian_databases import PubChemQHStore as PubChemQHStore
    from geomlib.data.hamiltonian_databases import QH9Store as QH9Store
    from geomlib.data.hamiltonian_splits import MD17HamiltonianSplit as MD17HamiltonianSplit
    from geomlib.data.hamiltonian_splits import QH9Split as QH9Split
    from geomlib.data.hamiltonians import HamiltonianStore as HamiltonianStore
    from geomlib.data.hypergraph_store import HyperedgeStore as HyperedgeStore
    from geomlib.data.hypergraphs import Hypergraph as Hypergraph
    from geomlib.data.hypergraphs import read_hyperedges as read_hyperedges
    from geomlib.data.mixtures import CompoundSplit as CompoundSplit
    from geomlib.data.mixtures import MixtureStore as MixtureStore
    from geomlib.data.mixtures import PairSplit as PairSplit
    from geomlib.data.module import GraphDataModule as GraphDataModule
    from geomlib.data.multi import MultiDataModule as MultiDataModule
    from geomlib.data.networks import from_networkx as from_networkx
    from geomlib.data.networks import to_networkx as to_networkx
    from geomlib.data.selfies_tokens import SelfiesTokenizer as SelfiesTokenizer
    from geomlib.data.splits import BlockSplit as BlockSplit
    from geomlib.data.splits import FileSplit as FileSplit
    from geomlib.data.splits import RandomSplit as RandomSplit
    from geomlib.data.splits import RangeSplit as RangeSplit
    from geomlib.data.stores import ConcatStore as ConcatStore
    from geomlib.data.stores import MemoryStore as MemoryStore
    from geomlib.data.stores import Store as Store
    from geomlib.data.stores import SubsetStore as SubsetStore
    from geomlib.data.table_splits import CheckedSplit as CheckedSplit
    from geomlib.data.table_splits import ColumnSplit as ColumnSplit
    from geomlib.data.table_splits import ScaffoldSplit as ScaffoldSplit
    from geomlib.data.table_splits import TimeSplit as TimeSplit
    from geomlib.data.tables import TableStore as TableStore
    from geomlib.data.text_module import TextDataModule as TextDataModule
    from geomlib.data.tokens import SmirkTokenizer as SmirkTokenizer
    from geomlib.data.undirected import UndirectedGraph as UndirectedGraph
    from geomlib.data.undirected import read_graph as read_graph

_LAZY = {
    "SelfiesTokenizer": "selfies_tokens",
    "SmirkTokenizer": "tokens",
    "TextDataModule": "text_module",
    "AseDbStore": "asedb",
    "BlockSplit": "splits",
    "Card": "cards",
    "CardSplit": "cards",
    "CardStore": "cards",
    "CheckedSplit": "table_splits",
    "ColumnSplit": "table_splits",
    "CompoundSplit": "mixtures",
    "ConcatStore": "stores",
    "DeepmdStore": "deepmd",
    "ExtxyzStore": "extxyz",
    "FIELDS": "fields",
    "FileSplit": "splits",
    "FlatStore": "flat",
    "GraphData": "graph",
    "GraphDataModule": "module",
    "HamiltonianStore": "hamiltonians",
    "HyperedgeStore": "hypergraph_store",
    "Hypergraph": "hypergraphs",
    "MD17HamiltonianSplit": "hamiltonian_splits",
    "MD17HamiltonianStore": "hamiltonian_databases",
    "MemoryStore": "stores",
    "MixtureStore": "mixtures",
    "MultiDataModule": "multi",
    "PairSplit": "mixtures",
    "PubChemQHStore": "hamiltonian_databases",
    "QH9Split": "hamiltonian_splits",
    "QH9Store": "hamiltonian_databases",
    "RandomSplit": "splits",
    "RangeSplit": "splits",
    "ScaffoldSplit": "table_splits",
    "Store": "stores",
    "SubsetStore": "stores",
    "TableStore": "tables",
    "TimeSplit": "table_splits",
    "UndirectedGraph": "undirected",
    "collate": "graph",
    "find_card": "cards",
    "from_atoms": "atoms",
    "from_networkx": "networks",
    "read_graph": "undirected",
    "read_hyperedges": "hypergraphs",
    "to_atoms": "atoms",
    "to_networkx": "networks",
}

__all__ = [
    "FIELDS",
    "AseDbStore",
    "BlockSplit",
    "Card",
    "CardSplit",
    "CardStore",
    "CheckedSplit",
    "ColumnSplit",
    "CompoundSplit",
    "ConcatStore",
    "DeepmdStore",
    "ExtxyzStore",
    "FileSplit",
    "FlatStore",
    "GraphData",
    "GraphDataModule",
    "HamiltonianStore",
    "HyperedgeStore",
    "Hypergraph",
    "MD17HamiltonianSplit",
    "MD17HamiltonianStore",
    "MemoryStore",
    "MixtureStore",
    "MultiDataModule",
    "PairSplit",
    "PubChemQHStore",
    "QH9Split",
    "QH9Store",
    "RandomSplit",
    "RangeSplit",
    "ScaffoldSplit",
    "SelfiesTokenizer",
    "SmirkTokenizer",
    "Store",
    "SubsetStore",
    "TableStore",
    "TextDataModule",
    "TimeSplit",
    "UndirectedGraph",
    "collate",
    "find_card",
    "from_atoms",
    "from_networkx",
    "read_graph",
    "read_hyperedges",
    "to_atoms",
    "to_networkx",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"geomlib.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'geomlib.data' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
