"""Training SHyRe. Budget: 10 s."""

import lightning
import numpy as np
import pytest
import torch

from geomlib.data.hypergraphs import Hypergraph
from geomlib.data.module import GraphDataModule
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, DataError
from geomlib.models.shyre.net import SHyRe
from geomlib.tasks.hyperedges import HyperedgeTask
from geomlib.testing import ToyPotential


def teams(seed, groups=40, nodes=60):
    """Teams of 3 to 5 whose leaders also meet in pairs."""
    rng = np.random.default_rng(seed)
    sets = [rng.choice(nodes, size, replace=False).tolist() for size in rng.choice([3, 4, 5], groups)]
    return Hypergraph.from_sets([*sets, *(row[:2] for row in sets[::2])], nodes)


def trainer(**arguments):
    return lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        use_distributed_sampler=False,
        **arguments,
    )


def fit(rule="expected", workers=0, epochs=30, folds=2):
    torch.manual_seed(0)
    net = SHyRe("count+structure", budget=400, hidden=[16], members=4, covers=2)
    task = HyperedgeTask(net, folds=folds, rule=rule, calibrate=rule == "expected")
    source = MemoryStore([teams(0).to_data()], "source")
    data = GraphDataModule(
        source,
        val_store=MemoryStore([teams(0).to_data()], "source"),
        test_store=MemoryStore([teams(1).to_data(), teams(2).to_data()], "query"),
        batch_size=1,
        num_workers=workers,
    )
    run = trainer(max_epochs=epochs, check_val_every_n_epoch=10, num_sanity_val_steps=0)
    run.fit(task, data)
    return task, data, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.fixture(scope="module")
def fitted():
    return fit()


def test_learns_and_carries_over_to_other_graphs(fitted):
    task, data, metrics = fitted
    assert metrics["val/loss"] < 0.35
    found = trainer().test(task, data, verbose=False)[0]
    plain = np.mean([_cliques_jaccard(teams(seed)) for seed in (1, 2)])
    assert found["test/jaccard"] > plain + 0.1
    assert found["test/candidate_recall"] > 0.8
    assert found["test/f1"] > 0.5


def _cliques_jaccard(true):
    from geomlib.data.hypergraph_metrics import agreement
    from geomlib.graphs.cliques import maximal_cliques

    return agreement(true, maximal_cliques(true.project())).jaccard


def test_threshold_is_that_of_the_held_out_jaccard(fitted):
    task, _, metrics = fitted
    threshold = float(task.shyre.threshold)
    assert 0.2 < threshold <= 0.5
    assert metrics["val/threshold"] == pytest.approx(threshold, abs=1e-6)
    assert metrics["val/jaccard"] == pytest.approx(threshold / (1 - threshold), abs=0.05)


def test_members_do_not_learn_from_what_they_are_judged_by(fitted):
    task, data, _ = fitted
    values = task._fill(data.part("train")[0], next(iter(task._training)))
    held = task._held_out(values["fold"])
    assert held.sum(0).unique().tolist() == [2]
    assert (held.sum(1) - len(values["label"]) / 2).abs().max() <= 4
    for side in (True, False):
        own = values["label"] & (values["candidate_maximal"] == side)
        assert (held[:, own].sum(1) - own.sum() / 2).abs().max() <= 1


def test_same_seed_same_weights_whatever_the_workers(fitted):
    again, _, _ = fit(workers=1)
    for name, value in fitted[0].net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name


def test_published_rule_and_no_folds():
    task, _, metrics = fit("half", epochs=10, folds=1)
    assert float(task.shyre.threshold) == 0.5
    assert metrics["val/jaccard"] > 0


def test_predicts(fitted):
    task, data, _ = fitted
    rows = trainer().predict(task, data)
    assert [len(row["candidate_logit"]) == len(row["candidate_probability"]) for row in rows] == [True, True]


def test_what_is_refused():
    with pytest.raises(ConfigError, match="trains a SHyRe net, not"):
        HyperedgeTask(ToyPotential(["H"]))
    with pytest.raises(ConfigError, match="a divisor of the net's 10 members"):
        HyperedgeTask(SHyRe(), folds=3)
    with pytest.raises(ConfigError, match="rule 'best'"):
        HyperedgeTask(SHyRe(), rule="best")
    graph = teams(0).to_data()
    del graph.hyperedge_index, graph.multiplicity
    task = HyperedgeTask(SHyRe(), folds=5)
    data = GraphDataModule(MemoryStore([graph], "bare"), batch_size=1)
    with pytest.raises(DataError, match="bare, graph 0: carries no hyperedges"):
        trainer(max_epochs=1).fit(task, data)
