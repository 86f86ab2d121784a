"""The resumable loader, without Lightning. Budget: 10 s (workers are started)."""

import pickle

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.data.loader import GraphLoader, PreparedGraphs, Request
from geomlib.data.samplers import FixedBatches
from geomlib.errors import FileFormatError
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec

SPEC = GraphSpec((RadiusEdges(4.0), LineGraph(3.0)))


@pytest.fixture
def loader(store):
    made = []

    def make(num_workers=0, **options):
        dataset = PreparedGraphs(store, torch.arange(2, 24), SPEC, **options)
        made.append(GraphLoader(dataset, FixedBatches(22, 4, seed=5), num_workers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def samples(batches):
    return [batch.sample_id.tolist() for batch in batches]


def test_batches_hold_structure_and_the_stores_positions(store, loader):
    batch = next(iter(loader()))
    assert batch.sample_id.min() >= 2
    expected = SPEC.complete(collate([SPEC.prepare(store[index]) for index in batch.sample_id.tolist()]))
    for name in expected.keys():  # noqa: SIM118
        assert torch.equal(batch[name], expected[name]), name
    assert "line_index" in batch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loaded_state_goes_on_where_it_stopped(loader, workers):
    straight = loader(workers)
    straight.batch_sampler.sampler.set_epoch(3)
    expected = samples(straight)
    assert len(expected) == len(straight) == 6
    for stopped in (0, 1, 4, 6):
        first = loader(workers)
        first.batch_sampler.sampler.set_epoch(3)
        iterator = iter(first)
        before = samples(next(iterator) for _ in range(stopped))
        state = first.state_dict()
        assert state["batches"] == stopped  # whatever the workers have made in advance
        second = loader(workers)
        second.load_state_dict(state)
        assert second.state_dict() == state  # saved again before anything was asked for
        second.batch_sampler.sampler.set_epoch(3)
        assert before + samples(second) == expected
        second.batch_sampler.sampler.set_epoch(4)
        assert len(samples(second)) == 6


def test_the_epoch_counts_at_the_first_batch_not_at_iter(loader):
    one, two = loader(), loader()
    iterator = iter(one)
    one.batch_sampler.sampler.set_epoch(1)
    two.batch_sampler.sampler.set_epoch(1)
    assert samples(iterator) == samples(two)


def test_a_state_of_another_epoch_is_not_applied(loader):
    one = loader()
    one.load_state_dict({"epoch": 0, "batches": 6, "graphs": 22, "total": 6})
    one.batch_sampler.sampler.set_epoch(1)
    assert len(samples(one)) == 6


def test_a_state_of_other_data_is_refused(loader):
    with pytest.raises(FileFormatError, match="with 100 training graphs in 10 batches, but now there are 22 in 6"):
        loader().load_state_dict({"epoch": 0, "batches": 3, "graphs": 100, "total": 10})


def test_remembered_graphs_stay_untouched(store, loader):
    one = loader(remember=True, rotate_seed=1)
    first = {tuple(batch.sample_id.tolist()): batch.pos.clone() for batch in one}
    again = {tuple(batch.sample_id.tolist()): batch.pos for batch in one}
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(graph.pos, store[key].pos) for key, graph in one.dataset._memory.items())
    assert len(one.dataset._memory) == 22


def test_rotations_do_not_depend_on_workers_or_batches(loader):
    def positions(one):
        one.batch_sampler.sampler.set_epoch(2)
        return {int(g.sample_id): g.pos for batch in one for g in batch.to_data_list()}

    here, there = positions(loader(rotate_seed=1)), positions(loader(2, rotate_seed=1))
    plain = positions(loader())
    assert all(torch.equal(here[key], there[key]) for key in here)
    assert not any(torch.equal(here[key], plain[key]) for key in here)


def test_the_data_set_can_be_sent_to_a_worker(store):
    dataset = PreparedGraphs(store, torch.arange(24), SPEC)
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert torch.equal(again[Request(0, (1, 2))].pos, dataset[Request(0, (1, 2))].pos)


def test_the_global_generator_is_left_alone(loader):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader())
    list(loader(2))
    assert torch.equal(before, torch.get_rng_state())
