"""Stores made of other stores. Budget: 1 s."""

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.stores import ConcatStore, MemoryStore, SubsetStore
from geomlib.errors import DataError


def same(one, other):
    assert set(one.keys()) == set(other.keys())
    return all(torch.equal(one[name], other[name]) for name in one.keys())  # noqa: SIM118


def test_memory(store):
    assert len(store) == 24
    assert store.sizes.tolist() == [2 + k % 5 for k in range(24)]
    assert set(store.fields) == {"pos", "atomic_number", "cell", "pbc", "energy", "forces", "stress"}
    assert same(store[-1], store[23])
    assert store.describe(3) == "random, graph 3"
    assert len(list(store)) == 24
    with pytest.raises(IndexError):
        store[24]
    with pytest.raises(IndexError):
        store[-25]


def test_items_are_copies(store):
    store[0].pos.zero_()
    assert store[0].pos.abs().sum() > 0


def test_memory_of_unlike_graphs(graph):
    with pytest.raises(DataError, match=r"mine, graph 1 has the fields \['energy', 'forces', 'stress'\]"):
        MemoryStore([graph(energy=False), graph()], name="mine")


def test_concat(store):
    both = ConcatStore([store, SubsetStore(store, [5, 3])])
    assert len(both) == 26
    assert same(both[24], store[5])
    assert same(both[23], store[23])
    assert same(both[-1], store[3])
    assert both.describe(25) == "random, graph 3"
    assert both.sizes[-2:].tolist() == [store[5].num_nodes, store[3].num_nodes]
    assert same(both.batch([25, 0]), collate([store[3], store[0]]))
    with pytest.raises(DataError, match="at least one"):
        ConcatStore([])


def test_concat_of_unlike_stores(graph, store):
    with pytest.raises(DataError, match=r"store 1 .* \['energy', 'forces', 'stress'\]"):
        ConcatStore([store, MemoryStore([graph(energy=False)])])


def test_subset(store):
    some = SubsetStore(store, torch.tensor([7, 2, 7]))
    assert len(some) == 3
    assert same(some[0], store[7])
    assert same(some.batch([1, 2]), collate([store[2], store[7]]))
    assert some.describe(1) == "random, graph 2"
    with pytest.raises(DataError, match=r"indices 0…24 are outside a store of 24"):
        SubsetStore(store, [0, 24])
    assert len(SubsetStore(store, [])) == 0


def test_content_hash_follows_the_content(store, graph):
    first = store.content_hash
    assert first == MemoryStore(list(store)).content_hash
    changed = [g.clone() for g in store]
    changed[5].forces[0, 0] += 1e-9
    assert MemoryStore(changed).content_hash != first
    assert SubsetStore(store, [0, 1]).content_hash != SubsetStore(store, [1, 0]).content_hash
    assert ConcatStore([store]).content_hash != ConcatStore([store, store]).content_hash
