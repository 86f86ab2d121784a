"""Batching, flat files and samplers on random input. Budget: 15 s."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomlib.data.flat import FlatStore
from geomlib.data.graph import GraphData, collate
from geomlib.data.samplers import BudgetBatches, FixedBatches
from geomlib.data.stores import MemoryStore

checked = settings(derandomize=True, deadline=None, max_examples=40)


@st.composite
def graphs(draw):
    nodes = draw(st.integers(1, 6))
    edges = draw(st.integers(0, 8))
    lines = draw(st.integers(0, 8)) if edges else 0

    def numbers(high, rows, count):
        return torch.tensor(draw(st.lists(st.integers(0, high - 1), min_size=rows * count, max_size=rows * count)),
                            dtype=torch.int64).reshape(rows, count)  # fmt: skip

    return GraphData(
        pos=torch.tensor(draw(st.lists(st.floats(-1e3, 1e3), min_size=3 * nodes, max_size=3 * nodes)),
                         dtype=torch.float64).reshape(nodes, 3),
        atomic_number=numbers(118, 1, nodes)[0] + 1,
        energy=torch.tensor([draw(st.floats(-1e6, 1e6))], dtype=torch.float64),
        edge_index=numbers(nodes, 2, edges),
        edge_shift=torch.zeros(edges, 3, dtype=torch.float64),
        line_index=numbers(max(edges, 1), 2, lines),
    )  # fmt: skip


def same(one, other):
    return set(one.keys()) == set(other.keys()) and all(torch.equal(one[name], other[name]) for name in one.keys())  # noqa: SIM118


@checked
@given(st.lists(graphs(), min_size=1, max_size=6))
def test_batch_and_back(items):
    batch = collate(items)
    assert all(same(one, other) for one, other in zip(items, batch.to_data_list(), strict=True))
    batch.validate()
    node_of_edge = batch.node_graph[batch.edge_index]
    assert torch.equal(node_of_edge[0], node_of_edge[1])
    if batch.line_index.numel():
        assert torch.equal(node_of_edge[0][batch.line_index[0]], node_of_edge[0][batch.line_index[1]])


@checked
@given(st.lists(graphs(), min_size=1, max_size=6), st.data(), st.booleans())
def test_flat_batch_equals_collate(items, data, archive):
    indices = data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, max_size=8))
    with tempfile.TemporaryDirectory() as folder:
        flat = FlatStore.write(MemoryStore(items), Path(folder) / ("flat.npz" if archive else "flat"))
        assert same(flat.batch(indices), collate([items[index] for index in indices]))
        assert all(same(flat[index], items[index]) for index in range(len(items)))


@checked
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 5), st.integers(0, 3))
def test_fixed_batches_partition(count, size, ranks, epoch, seed):
    if count < ranks:
        return
    shares = [FixedBatches(count, size, seed, rank, ranks).batches(epoch) for rank in range(ranks)]
    seen = [graph for share in shares for batch in share for graph in batch]
    assert len(seen) == len(set(seen))
    assert count - len(seen) < ranks
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= size for share in shares for batch in share)


@checked
@given(st.lists(st.integers(1, 30), min_size=4, max_size=60), st.integers(1, 4), st.integers(0, 40), st.integers(0, 3))
def test_budget_batches_partition(sizes, ranks, epoch, seed):
    pieces = [BudgetBatches(torch.tensor(sizes), 30, seed, rank, ranks) for rank in range(ranks)]
    shares = [piece.batches(epoch) for piece in pieces]
    seen = sorted(graph for share in shares for batch in share for graph in batch)
    assert {len(share) for share in shares} == {len(pieces[0])}
    assert all(batch and sum(sizes[graph] for graph in batch) <= 30 for share in shares for batch in share)
    if len(sizes) >= len(pieces[0]) * ranks and len(sizes) % ranks == 0:
        assert seen == list(range(len(sizes)))
    else:
        assert len(seen) == len(set(seen))
