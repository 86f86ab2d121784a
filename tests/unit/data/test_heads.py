"""Several data sets side by side: who is drawn when, and in which batch. Budget: 4 s."""

from collections import Counter

import pytest
import torch

from geomlib.data.flat import FlatStore
from geomlib.data.heads import HeadBatches, HeadStore, SuccessiveBatches, draws_by_weight
from geomlib.data.module import GraphDataModule
from geomlib.data.multi import MultiDataModule
from geomlib.data.samplers import BudgetBatches, EvaluationBatches, FixedBatches
from geomlib.data.splits import RangeSplit
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, DataError


@pytest.fixture
def stores(graph):
    """One with stress, one without, one more."""
    plain = [graph(2 + k % 3, seed=k) for k in range(10)]
    for row in plain:
        del row.stress, row.cell, row.pbc
    return {
        "b": MemoryStore([graph(3, seed=k) for k in range(7)], "b"),
        "a": MemoryStore(plain, "a"),
        "c": MemoryStore([graph(4, seed=k) for k in range(5)], "c", partial=["stress"]),
    }


def test_a_store_of_several_marks_every_graph(stores, tmp_path):
    store = HeadStore([(0, stores["a"]), (2, stores["c"])])
    assert len(store) == 15 and [int(graph.head[0]) for graph in store] == 10 * [0] + 5 * [2]
    assert store.fields == ("pos", "atomic_number", "head", "energy", "forces") and store.partial == ()
    assert store.describe(12) == "c, graph 2" and "stress" in store[12] and "stress" not in store[2]
    assert store.sizes.tolist() == [graph.num_nodes for graph in store]
    flat = HeadStore([(0, FlatStore.write(stores["a"], tmp_path / "a")), (2, stores["c"])])
    batch = flat.batch([3, 1])
    assert batch.head.tolist() == [0, 0] and batch.num_graphs == 2
    assert [int(row.head[0]) for row in batch.to_data_list()] == [0, 0]
    assert torch.equal(batch.pos, torch.cat([stores["a"][3].pos, stores["a"][1].pos]))
    with pytest.raises(DataError, match="several data sets"):
        flat.batch([1, 12])
    with pytest.raises(DataError, match="at least one"):
        HeadStore([])


def sets(rank=0, world_size=1):
    return [
        FixedBatches(10, 2, 3, rank, world_size),
        BudgetBatches(torch.full((7,), 3), 6, 3, rank, world_size),
        FixedBatches(4, 4, 3, rank, world_size),
    ]


def head_of(position):
    return 0 if position < 10 else 1 if position < 17 else 2


def test_batches_are_of_one_set_and_as_many_as_drawn():
    batches = HeadBatches(sets(), [4, 3, 2], seed=5)
    assert len(batches) == 9
    orders = []
    for epoch in range(6):
        rows = batches.batches(epoch)
        heads = [{head_of(position) for position in row} for row in rows]
        assert all(len(row) == 1 for row in heads)
        orders.append([min(row) for row in heads])
        assert Counter(orders[-1]) == {0: 4, 1: 3, 2: 2}
    assert len({tuple(order) for order in orders}) > 3  # the order is drawn anew


def test_every_set_is_gone_through_in_epochs_of_its_own():
    batches = HeadBatches(sets(), [4, 3, 2], seed=5)
    seen = [
        position for epoch in range(5) for row in batches.batches(epoch) for position in row if head_of(position) == 0
    ]
    assert len(seen) == 40  # 5 epochs of 4 batches of 2: the set of 10 four times over
    assert all(sorted(seen[k : k + 10]) == list(range(10)) for k in range(0, 40, 10))
    assert seen[:10] != seen[10:20]


def test_order_depends_on_seed_and_epoch_alone():
    one, two = HeadBatches(sets(), [4, 3, 2], seed=5), HeadBatches(sets(), [4, 3, 2], seed=5)
    two.batches(0), two.batches(7)
    assert one.batches(3) == two.batches(3)
    assert one.batches(3) != HeadBatches(sets(), [4, 3, 2], seed=6).batches(3)


def test_all_ranks_draw_the_same_set_and_share_its_graphs():
    ranks = [HeadBatches(sets(rank, 2), [3, 2, 1], seed=5) for rank in range(2)]
    for epoch in range(3):
        for mine, other in zip(*(rank.batches(epoch) for rank in ranks), strict=True):
            assert {head_of(p) for p in mine} == {head_of(p) for p in other}
            assert not set(mine) & set(other)
    whole = HeadBatches([FixedBatches(10, 4, 3), FixedBatches(4, 4, 3)], [2, 1], seed=5)
    halves = [
        HeadBatches([FixedBatches(10, 2, 3, rank, 2), FixedBatches(4, 2, 3, rank, 2)], [2, 1], 5) for rank in (0, 1)
    ]
    for row, *parts in zip(whole.batches(1), *(half.batches(1) for half in halves), strict=True):
        assert sorted(row) == sorted([*parts[0], *parts[1]])


def test_evaluation_goes_through_all_sets_in_turn():
    parts = [EvaluationBatches(torch.ones(5), 2), EvaluationBatches(torch.ones(3), 2)]
    assert SuccessiveBatches(parts).batches(0) == [(0, 1), (2, 3), (4,), (5, 6), (7,)]
    assert len(SuccessiveBatches(parts)) == 5


def test_weights_become_numbers_of_batches():
    assert draws_by_weight({"a": 1.0, "b": 1.0}, 7) == {"a": 4, "b": 3}
    assert draws_by_weight({"a": 2.0, "b": 1.0, "c": 0.5}, 14) == {"a": 8, "b": 4, "c": 2}
    with pytest.raises(ConfigError, match="weight of data set 'b' is 0; expected a positive number"):
        draws_by_weight({"a": 1.0, "b": 0}, 7)
    with pytest.raises(ConfigError, match="'b' would never be drawn: raise steps_per_epoch"):
        draws_by_weight({"a": 1.0, "b": 0.001}, 7)


def module(stores, **options):
    return MultiDataModule(
        {
            "b": GraphDataModule(stores["b"], RangeSplit(train="0:5", val="5:7"), batch_size=2),
            "a": GraphDataModule(stores["a"], batch_size=5, test_store=stores["a"]),
        },
        **options,
    )


def test_parts_are_those_of_all_sets_in_the_order_of_their_names(stores):
    data = module(stores)
    assert data.heads == ("a", "b") and set(data.parts) == {"train", "val", "test"}
    assert [int(graph.head[0]) for graph in data.part("train")] == 10 * [0] + 5 * [1]
    assert [data.part("val").describe(k) for k in range(2)] == ["b, graph 5", "b, graph 6"]
    assert data.head_part("a", "val") is None and len(data.head_part("b", "val")) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"a": 3, "b": 2}),  # 10 and 5 graphs, 2 + 3 batches
        ({"weights": {"a": 1.0, "b": 4.0}}, {"a": 1, "b": 4}),
        ({"weights": {"a": 1.0, "b": 1.0}, "steps_per_epoch": 20}, {"a": 10, "b": 10}),
        ({"epochs": {"a": 2.5, "b": 1.0}}, {"a": 5, "b": 3}),
        ({"epochs": {"a": 0.1, "b": 1.0}}, {"a": 1, "b": 3}),
    ],
)
def test_how_often_each_set_is_drawn(stores, options, expected):
    data = module(stores, **options)
    batches = {head: rows.train_batches(0, 0, 1) for head, rows in data.sets.items()}
    assert data.draws(batches) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": 1.0}}, "data set 'b' has no weight"),
        ({"weights": {"a": 1.0, "b": 1.0, "bb": 1.0}}, r"no data set 'bb' \(did you mean 'b'\?\)"),
        ({"epochs": {"a": 1.0, "b": 1.0}, "steps_per_epoch": 3}, "give either"),
        ({"steps_per_epoch": 0}, "expected at least 1"),
    ],
)
def test_arguments_that_contradict_each_other(stores, options, message):
    with pytest.raises(ConfigError, match=message):
        module(stores, **options)


def test_what_belongs_to_the_whole_is_not_set_for_one(stores):
    with pytest.raises(ConfigError, match=r"data.sets.a has augment: set it once for all sets, as data.augment"):
        MultiDataModule({"a": GraphDataModule(stores["a"], augment=True)})
    with pytest.raises(ConfigError, match="no sets"):
        MultiDataModule({})
    with pytest.raises(ConfigError, match="epochs of 'a' is -1"):
        module(stores, epochs={"a": -1, "b": 1}).draws({"a": FixedBatches(4, 2)})
