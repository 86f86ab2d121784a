"""Batches of an epoch. Budget: 2 s."""

import pytest
import torch

from geomlib.data.samplers import BudgetBatches, EvaluationBatches, FixedBatches
from geomlib.errors import ConfigError, GeomlibWarning


def flat(batches):
    return [graph for batch in batches for graph in batch]


def some_sizes(count, low=3, high=40, seed=0):
    return torch.randint(low, high, (count,), generator=torch.Generator().manual_seed(seed))


def test_fixed_order_depends_on_seed_and_epoch_only():
    one, two = FixedBatches(50, 8, seed=3), FixedBatches(50, 8, seed=3)
    one.set_epoch(5)
    list(one)
    one.set_epoch(2)
    two.set_epoch(2)
    assert list(one) == list(two)
    assert one.batches(3) != one.batches(2)
    assert one.batches(2) != FixedBatches(50, 8, seed=4).batches(2)
    assert sorted(flat(one)) == list(range(50))
    assert [len(batch) for batch in one] == [8] * 6 + [2]
    assert len(one) == 7


@pytest.mark.parametrize(("graphs", "size", "ranks"), [(64, 4, 4), (50, 4, 2), (51, 5, 3), (7, 4, 4)])
def test_ranks_share_the_global_batches(graphs, size, ranks):
    whole = FixedBatches(graphs, size * ranks, seed=1)
    pieces = [FixedBatches(graphs, size, 1, rank, ranks) for rank in range(ranks)]
    assert len({len(piece) for piece in pieces}) == 1
    for epoch in (0, 3):
        shares = [piece.batches(epoch) for piece in pieces]
        for number, together in enumerate(whole.batches(epoch)[: len(pieces[0])]):
            assert sorted(together) == sorted(flat(share[number] for share in shares))
            counts = [len(share[number]) for share in shares]
            assert min(counts) >= 1
            assert max(counts) - min(counts) <= 1


def test_a_rest_smaller_than_the_ranks_is_left_out():
    pieces = [FixedBatches(17, 4, 0, rank, 4) for rank in range(4)]
    assert [len(piece) for piece in pieces] == [1] * 4
    assert len({*flat(piece.batches(0)[0] for piece in pieces)}) == 16


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("budget", [40, 100, 333])
def test_budget_holds_and_every_graph_comes_once(budget, ranks):
    sizes = some_sizes(200)
    pieces = [BudgetBatches(sizes, budget, 7, rank, ranks) for rank in range(ranks)]
    assert len({len(piece) for piece in pieces}) == 1
    for epoch in range(12):
        shares = [piece.batches(epoch) for piece in pieces]
        assert {len(share) for share in shares} == {len(pieces[0])}
        everything = [batch for share in shares for batch in share]
        assert sorted(flat(everything)) == list(range(200))
        assert max(int(sizes[list(batch)].sum()) for batch in everything) <= budget
        assert all(everything)
    assert pieces[0].batches(4) == BudgetBatches(sizes, budget, 7, 0, ranks).batches(4)
    assert pieces[0].batches(4) != pieces[0].batches(5)


def test_budget_fills_its_batches():
    sizes = some_sizes(500)
    batches = BudgetBatches(sizes, 200)
    assert int(sizes.sum()) / (200 * len(batches)) > 0.9


def test_epoch_that_packs_badly_still_fits(monkeypatch):
    # half and just above half of the budget: orders differ a lot in how many batches they need
    monkeypatch.setattr(BudgetBatches, "_PROBED", 0)
    sizes = torch.tensor([50, 51, 49, 26, 25, 24] * 20)
    batches = BudgetBatches(sizes, 100, seed=1)
    packed_worse = 0
    for epoch in range(50):
        packed_worse += len(batches._in_order(batches._generator(epoch).permutation(120))) > len(batches)
        found = batches.batches(epoch)
        assert len(found) == len(batches)
        assert sorted(flat(found)) == list(range(120))
        assert max(int(sizes[list(batch)].sum()) for batch in found) <= 100
    assert packed_worse > 10


def test_graph_above_the_budget():
    with pytest.warns(GeomlibWarning, match="2 graphs have more than max_atoms = 30 atoms \\(the largest 50\\)"):
        batches = BudgetBatches(torch.tensor([10, 50, 10, 40, 10]), 30)
    assert sorted(map(sorted, batches.batches(0))) == [[0, 2, 4], [1], [3]]


def test_every_graph_at_the_budget():
    assert len(BudgetBatches(torch.full((10,), 30), 30)) == 10


@pytest.mark.parametrize(("graphs", "ranks"), [(10, 1), (10, 3), (2, 4)])
def test_evaluation_is_not_padded(graphs, ranks):
    pieces = [EvaluationBatches(torch.full((graphs,), 5), 2, None, rank, ranks) for rank in range(ranks)]
    assert sorted(graph for piece in pieces for graph in flat(piece)) == list(range(graphs))
    for piece in pieces:
        assert len(list(piece)) == len(piece)
        assert all(len(batch) <= 2 for batch in piece)
        assert flat(piece) == sorted(flat(piece))


def test_evaluation_with_a_budget():
    batches = EvaluationBatches(torch.tensor([10, 10, 25, 5, 99, 1]), None, 30)
    assert list(batches) == [(0, 1), (2, 3), (4,), (5,)]


def test_impossible_arguments():
    with pytest.raises(ConfigError, match="batch_size is 0"):
        FixedBatches(10, 0)
    with pytest.raises(ConfigError, match="3 training graphs can't be shared by 4"):
        FixedBatches(3, 1, world_size=4)
    with pytest.raises(ConfigError, match="max_atoms is 0"):
        BudgetBatches(torch.ones(3, dtype=torch.int64), 0)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        FixedBatches(10, 1, rank=2, world_size=2)
