"""The task on a toy potential: what it learns, reports, refuses and keeps."""

import copy
import json
import math

import lightning
import numpy as np
import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.data.module import GraphDataModule
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, DataError, UnknownElement
from geomlib.files.checkpoint import load_checkpoint_net
from geomlib.files.modelfile import load, save
from geomlib.nn.derivative import Derivatives
from geomlib.tasks.potential import PotentialTask, composition_energies
from geomlib.tasks.terms import Term
from geomlib.testing.toy import ToyPotential
from geomlib.training.outputs import Predictions, in_order
from geomlib.training.schedules import Exponential

TERMS = [Term("energy", weight=1.0), Term("forces", weight=10.0)]


def molecules(count, seed=0, symbols=(1, 8), periodic=False):
    """Clusters labelled by a toy potential with other parameters than a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    teacher = ToyPotential(["H", "O"])
    with torch.no_grad():
        teacher.depth.mul_(1.3)
        teacher.stiffness.mul_(1.2)
    teacher = Derivatives(teacher).eval()
    graphs = []
    for k in range(count):
        nodes = 3 + k % 3
        grid = torch.tensor([[x, y, z] for x in (0.0, 1.5) for y in (0.0, 1.5) for z in (0.0, 1.5)])[:nodes]
        graph = GraphData(
            pos=(grid + 0.2 * torch.randn(nodes, 3, generator=generator)).double(),
            atomic_number=torch.tensor([symbols[i % len(symbols)] for i in range(nodes)]),
            cell=torch.eye(3, dtype=torch.float64).unsqueeze(0) * (6.0 if periodic else 0.0),
            pbc=torch.tensor([[periodic] * 3]),
            sample_id=torch.tensor([k]),
        )
        known = graph.clone()
        known.atomic_number = torch.where(known.atomic_number == 1, 1, 8)
        labels = teacher(teacher.spec.build(known))
        graph.energy, graph.forces = labels["energy"], labels["forces"]
        if periodic:
            graph.stress = labels["stress"]
        graphs.append(graph)
    return graphs


def Data(train, val=(), test=(), batch_size=4, partial=()):
    stores = [
        MemoryStore(list(graphs), name, partial) for name, graphs in (("train", train), ("val", val), ("test", test))
    ]
    return GraphDataModule(
        stores[0], val_store=stores[1] if val else None, test_store=stores[2] if test else None, batch_size=batch_size
    )


def trainer(folder, **options):
    arguments = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "max_steps": 20,
        "log_every_n_steps": 1,
    }
    return lightning.Trainer(**{**arguments, **options})


def task(terms=TERMS, lr=1e-2, **options):
    return PotentialTask(
        ToyPotential(["H", "O"]), list(terms), lambda parameters: torch.optim.AdamW(parameters, lr=lr), **options
    )


def test_it_learns_and_reports_exact_errors(tmp_path):
    model, data = task(), Data(molecules(12), molecules(5, seed=1), molecules(7, seed=2))
    run = trainer(tmp_path, max_steps=60)
    before = trainer(tmp_path).validate(copy.deepcopy(model), data, verbose=False)[0]
    run.fit(model, data)
    after = {name: float(value) for name, value in run.callback_metrics.items()}
    assert after["val/forces_mae"] < 0.5 * before["val/forces_mae"]
    net, total, square, energies = model.net.eval(), 0.0, 0.0, 0.0
    for graph in data.part("val"):
        out = net(net.spec.build(graph.clone()))
        total += float((out["forces"] - graph.forces).abs().sum())
        square += float((out["forces"] - graph.forces).square().sum())
        energies += float((out["energy"] - graph.energy).abs().sum()) / graph.num_nodes
    components = 3 * sum(graph.num_nodes for graph in data.part("val"))
    assert after["val/forces_mae"] == pytest.approx(total / components, rel=1e-10)
    assert after["val/forces_rmse"] == pytest.approx(math.sqrt(square / components), rel=1e-10)
    assert after["val/energy_mae"] == pytest.approx(energies / 5, rel=1e-10)
    assert model.monitor == "val/forces_mae"
    shown = model.progress(after, "val")
    assert shown["F"] == f"{1e3 * after['val/forces_mae']:.1f} meV/Å" and shown["E"].endswith("meV/atom")


def test_the_loss_is_the_weighted_sum_and_its_prefactors_follow_the_schedule(tmp_path):
    terms = [Term("energy", weight=0.2, weight_limit=20.0), Term("forces", weight=100.0, weight_limit=60.0)]
    model = task(terms, lr=1e-3, schedule=Exponential(stop_lr=1e-5, decay_steps=1))
    graphs = molecules(4)
    run = trainer(tmp_path, max_steps=3)
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    run.callbacks.append(Watch())
    run.fit(model, Data(graphs))
    for step, metrics in enumerate(seen):
        ratio = (1e-5 / 1e-3) ** (step / 3)
        expected = (20 + (0.2 - 20) * ratio) * metrics["train/energy_loss"]
        expected += (60 + (100 - 60) * ratio) * metrics["train/forces_loss"]
        assert metrics["train/loss"] == pytest.approx(expected, rel=1e-6)
    assert len(seen) == 3


def test_statistics_are_fitted_on_a_fresh_fit_only(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ToyPotential, "fit_statistics", lambda self, graphs: calls.append(len(list(graphs))))
    graphs = molecules(6)
    model = task()
    run = trainer(tmp_path, max_steps=2)
    run.fit(model, Data(graphs))
    assert calls == [6]
    run.save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, max_steps=4).fit(task(), Data(graphs), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    saved = save(model.net, tmp_path / "a.safetensors")
    monkeypatch.setitem(__import__("geomlib.models").models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    tuned = task(weights=str(saved))
    trainer(tmp_path, max_steps=1, limit_train_batches=1).fit(tuned, Data(graphs))
    assert calls == [6]
    drift = (tuned.net.net.depth - model.net.net.depth).detach().abs().max()
    assert float(drift) < 0.02  # one step away from the file's weights, not from fresh ones


def test_weights_of_another_net_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("geomlib.models").models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    path = save(ToyPotential(["H"]), tmp_path / "h.safetensors")
    with pytest.raises(ConfigError, match=r"tensor 'depth' has shape \[1\], the configured net wants \[2\]"):
        trainer(tmp_path).fit(task(weights=str(path)), Data(molecules(2)))


def test_a_checkpoint_opens_as_a_net(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("geomlib.models").models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    model, run = task(), trainer(tmp_path, max_steps=2)
    run.fit(model, Data(molecules(4)))
    run.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert "hyper_parameters" not in content and content["geomlib"]["family"] == "toy"
    for net in (load_checkpoint_net(tmp_path / "a.ckpt"), load(tmp_path / "a.ckpt")):
        for name, value in model.net.state_dict().items():
            assert torch.equal(net.state_dict()[name], value)


def test_a_missing_label_stops_before_the_first_step(tmp_path):
    graphs = molecules(3)
    with pytest.raises(
        DataError, match=r"a term 'stress', but train, graph 0 carries no such label \(labels: .*'forces'"
    ):
        trainer(tmp_path).fit(task([Term("stress")]), Data(graphs))


def test_an_unknown_element_stops_before_the_first_step(tmp_path):
    graphs = molecules(3) + molecules(1, symbols=(1, 26))
    with pytest.raises(UnknownElement, match="train, graph 3: element Fe is not among those of the net"):
        trainer(tmp_path).fit(task(), Data(graphs))
    with pytest.raises(UnknownElement, match="val, graph 3: element Fe"):
        trainer(tmp_path).fit(task(), Data(molecules(3), graphs))


@pytest.mark.parametrize("name", ["energy", "forces"])
def test_a_label_that_is_not_a_number_names_its_graph(tmp_path, name):
    graphs = molecules(12)
    graphs[9][name][0] = math.nan  # the first eight are looked at before the run
    with pytest.raises(DataError, match=rf"step \d: the loss is not finite: label '{name}' of train, graph 9$"):
        trainer(tmp_path).fit(task(), Data(graphs))


def test_a_diverged_net_names_step_and_graphs(tmp_path):
    model = task()

    class Break(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 2:
                pl_module.net.net.stiffness.data.fill_(math.nan)

    with pytest.raises(DataError, match=r"step 2: .* prediction 'energy' of train, graph \d; .*; and 1 more; a lower"):
        trainer(tmp_path, callbacks=[Break()]).fit(model, Data(molecules(4)))


def test_partial_labels_are_left_out(tmp_path):
    graphs = molecules(6)
    for graph in graphs[::2]:
        graph.energy[0] = math.nan
    model = task()
    trainer(tmp_path, max_steps=6).fit(model, Data(graphs, graphs, partial=("energy",)))
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def test_stress_of_a_batch_in_which_only_some_graphs_have_a_volume(tmp_path):
    crystals, clusters = molecules(4, periodic=True), molecules(4)
    for graph in clusters:
        graph.stress = torch.full((1, 3, 3), math.nan, dtype=torch.float64)
    mixed = [graph for pair in zip(crystals, clusters, strict=True) for graph in pair]
    terms = [*TERMS, Term("stress", weight=100.0)]
    model = task(terms)
    run = trainer(tmp_path, max_steps=4)
    run.fit(model, Data(mixed, mixed, partial=("stress",)))
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    reported = float(run.callback_metrics["val/stress_mae"])
    alone = trainer(tmp_path).validate(model, Data(crystals, crystals), verbose=False)[0]["val/stress_mae"]
    assert reported == pytest.approx(alone, rel=1e-9)
    clusters[0].stress = torch.zeros(1, 3, 3, dtype=torch.float64)
    with pytest.raises(DataError, match="label 'stress' but no volume"):
        trainer(tmp_path).fit(task(terms), Data(mixed, partial=("stress",)))


def test_the_mean_predictor_is_a_fit_of_the_composition():
    graphs = molecules(12)
    for graph in graphs:
        graph.energy = (graph.atomic_number.double() * 2.0 + 1.0).sum().view(1)
    elements, energies = composition_energies(graphs)
    assert elements.tolist() == [1, 8] and energies.tolist() == pytest.approx([3.0, 17.0])
    model = task()
    model.objectives[0].fields = ("energy", "forces")
    errors = model.mean_predictor(graphs[:6], graphs[6:])
    forces = torch.cat([graph.forces for graph in graphs[6:]])
    assert errors["energy_mae"] == pytest.approx(0.0, abs=1e-10)
    assert errors["forces_rmse"] == pytest.approx(float(forces.square().mean().sqrt()))


def test_biases_and_vectors_can_do_without_decay(tmp_path):
    model = PotentialTask(ToyPotential(["H", "O"]), TERMS, decay_vectors=False)
    model.net.net.matrix = torch.nn.Parameter(torch.zeros(2, 2))
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, Data(molecules(4)))
    groups = run.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [1e-3, 0.0]
    assert len(groups[0]["params"]) == 1


def test_a_task_without_an_active_term_is_refused():
    with pytest.raises(ConfigError, match="no loss term"):
        task([Term("energy", weight=0.0)])


def test_typed_values_hold_over_a_checkpoint_and_are_said(tmp_path, caplog):
    data = Data(molecules(4))
    run = trainer(tmp_path, max_steps=2)
    run.fit(task(lr=1e-2), data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    other, again = task(lr=0.5), trainer(tmp_path, max_steps=3)
    again.fit(other, Data(molecules(4)), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.optimizers[0].param_groups[0]["lr"] == 0.5
    said = [row.message for row in caplog.records if row.name.startswith("geomlib")]
    assert "learning rate at step 2: the checkpoint has 0.01, the configuration 0.5; the configuration holds" in said
    caplog.clear()
    same = trainer(tmp_path, max_steps=3)
    same.fit(task(lr=1e-2), Data(molecules(4)), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert not [row for row in caplog.records if row.name.startswith("geomlib") and row.levelname == "WARNING"]


def test_the_moments_of_the_optimizer_can_be_dropped(tmp_path, caplog):
    run = trainer(tmp_path, max_steps=2)
    run.fit(task(), Data(molecules(4)))
    run.save_checkpoint(tmp_path / "a.ckpt")
    for drop, steps in ((False, 3.0), (True, 1.0)):
        model, again = task(), trainer(tmp_path, max_steps=3)
        model.reset_optimizer = drop
        again.fit(model, Data(molecules(4)), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
        state = next(iter(again.optimizers[0].state.values()))
        assert float(state["step"]) == steps
    assert "start afresh" in caplog.text


def test_predictions_are_written_beside_the_labels(tmp_path):
    graphs, writer = molecules(7, seed=2), Predictions()
    run = trainer(tmp_path, callbacks=[writer])
    run.test(task(), Data(molecules(6), test=graphs), verbose=False)
    found = np.load(tmp_path / "predictions.npz", allow_pickle=False)
    assert found["sample_id"].tolist() == list(range(7))
    assert found["n_atoms"].tolist() == [graph.num_nodes for graph in graphs]
    assert np.array_equal(found["forces_reference"], torch.cat([graph.forces for graph in graphs]).numpy())
    error = np.abs(found["forces_prediction"] - found["forces_reference"]).mean()
    written = json.loads((tmp_path / "test_metrics.json").read_text())
    assert written["metrics"]["forces_mae"] == pytest.approx(error, rel=1e-12)
    assert written["graphs"] == 7 and set(written["mean_predictor"]) == set(written["metrics"])


def test_predictions_of_several_processes_come_into_the_order_of_the_store():
    rows = [
        {"sample_id": np.array([3, 1]), "n_atoms": np.array([1, 2]), "forces_prediction": np.array([30.0, 10.0, 11.0])},
        {"sample_id": np.array([2]), "n_atoms": np.array([1]), "forces_prediction": np.array([20.0])},
    ]
    joined = in_order(rows)
    assert joined["sample_id"].tolist() == [1, 2, 3] and joined["n_atoms"].tolist() == [2, 1, 1]
    assert joined["forces_prediction"].tolist() == [10.0, 11.0, 20.0, 30.0]
