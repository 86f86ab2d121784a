"""Training on matrices: what the test reports, beside numbers made here from the file of the model."""

import csv
import json

import pytest
import torch

import geomlib
from geomlib.cli import main
from geomlib.data.cards import CardStore
from geomlib.data.graph import collate
from geomlib.errors import ConfigError, DataError
from geomlib.files.manifest import manifest_of
from geomlib.models import SPHNet
from geomlib.nn.orbitals import generalised_eigenproblem
from geomlib.tasks import HamiltonianTask
from geomlib.tasks.hamiltonian_terms import HamiltonianTerm
from geomlib.tasks.matrices import matrices, occupied_orbitals


def test_reported_errors_are_those_of_the_model_and_the_net_knew_the_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "-c",
        "sphnet/smoke",
        "--folder",
        "out",
        "--trainer.max_epochs",
        "2",
        "--trainer.enable_progress_bar",
        "false",
    ]
    words += ["--model.net.path_sparsity", "0.5", "--model.net.path_steps", "[3, 20]", "--model.net.channels", "8"]
    assert main(["fit", *words]) == 0
    assert main(["test", "out"]) == 0
    found = json.loads((tmp_path / "out" / "test_metrics.json").read_text())
    metrics, store = found["metrics"], CardStore("water-orbitals", "test")
    last = geomlib.load("out/checkpoints/last.ckpt")
    steps = {int(value) for name, value in last.state_dict().items() if name.endswith("schedule.step")}
    assert steps == {9}  # of ten, the last one began with nine done
    net = geomlib.load("out/model.safetensors", dtype="float32")
    sums = {name: [] for name in ("entries", "initial", "occupied", "homo", "gap")}
    for graph in store:
        predicted = net(net.spec.build(graph))["hamiltonian"].detach()
        sums["entries"].append((predicted - graph.hamiltonian).abs())
        sums["initial"].append((graph.initial_hamiltonian - graph.hamiltonian).abs())
        overlap = graph.overlap.view(7, 7)
        mine = generalised_eigenproblem(predicted.view(7, 7), overlap).energies
        true = generalised_eigenproblem(graph.hamiltonian.view(7, 7), overlap).energies
        sums["occupied"].append((mine - true)[:5].abs())
        sums["homo"].append((mine - true)[4:5].abs())
        sums["gap"].append(((mine - true)[5:6] - (mine - true)[4:5]).abs())
    means = {name: float(torch.cat(values).mean()) for name, values in sums.items()}
    assert metrics["hamiltonian_mae"] == pytest.approx(means["entries"], rel=1e-4)
    assert found["mean_predictor"]["hamiltonian_mae"] == pytest.approx(means["initial"], rel=1e-9)
    for name in ("occupied", "homo", "gap"):
        assert metrics[f"{name}_energy_mae"] == pytest.approx(means[name], rel=1e-3)
    assert 0.9 < metrics["orbital_subspace"] <= 1.0


def test_matrices_of_a_batch_are_those_of_its_graphs():

    net = SPHNet(["H", "O"], basis="sto-3g", channels=8)
    graphs = [net.spec.build(CardStore("water-orbitals", "test")[k]) for k in range(3)]
    batch = collate(graphs)
    for matrix, graph in zip(matrices(batch.hamiltonian, batch), graphs, strict=True):
        assert torch.equal(matrix, graph.hamiltonian.view(7, 7))


def test_open_shells_are_refused():
    assert occupied_orbitals(torch.tensor([8, 1, 1])) == 5
    assert occupied_orbitals(torch.tensor([8, 1, 1, 1]), charge=1) == 5
    with pytest.raises(DataError, match="9 electrons make no closed shell"):
        occupied_orbitals(torch.tensor([8, 1]))


def test_losses_are_chosen_in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    terms = [
        {"field": "hamiltonian", "loss": "rmse", "compare": "blocks"},
        {"field": "hamiltonian", "loss": "mae", "compare": "levels", "weight": 0.3},
    ]
    words = ["-c", "sphnet/smoke", "--folder", "out", "--trainer.max_epochs", "1", "--model.net.channels", "8"]
    assert main(["fit", *words, "--model.terms", json.dumps(terms), "--trainer.enable_progress_bar", "false"]) == 0
    net = geomlib.load("out/model.safetensors", dtype="float32")
    batch = collate([net.spec.build(graph) for graph in CardStore("water-orbitals", "val")])
    prediction = net(batch)["hamiltonian"]
    expected = 0.0
    for term in (
        HamiltonianTerm(loss="rmse", compare="blocks"),
        HamiltonianTerm(loss="mae", compare="levels", weight=0.3),
    ):
        total, count = term.sums(prediction, batch)
        expected += term.weight * term.of_mean(float(total / count))
    with (tmp_path / "out" / "metrics.csv").open() as file:
        (found,) = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_ion_has_the_orbitals_of_its_electrons(monkeypatch):
    from geomlib.tasks import hamiltonian as module
    from geomlib.tasks.base import Task

    seen = []
    compare = module.compare_orbitals
    monkeypatch.setattr(module, "compare_orbitals", lambda *args: seen.append(args[-1]) or compare(*args))
    net = SPHNet(["H", "O"], basis="sto-3g", channels=8)
    graphs = [net.spec.build(CardStore("water-orbitals", "test")[k]) for k in range(2)]
    for graph, charge in zip(graphs, (0, 2), strict=True):
        graph.charge = torch.tensor([charge])
    monkeypatch.setattr(Task, "test_step", lambda self, batch, _: self.net(batch))  # what logs needs a trainer
    HamiltonianTask(net).test_step(collate(graphs), 0)
    assert seen == [5, 4]


def smoke(*words, verb="fit"):
    common = ["-c", "sphnet/smoke", "--trainer.max_epochs", "1", "--model.net.channels", "8"]
    return main([verb, *common, "--trainer.enable_progress_bar", "false", *words])


def test_data_of_another_functional_are_refused_wherever_they_come_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refusal = "were made with the functional 'b3lyp5', the net is for 'pbe'"
    assert smoke("--folder", "other", "--model.net.functional", "pbe") == 1
    assert refusal in capsys.readouterr().err
    assert smoke("--folder", "out") == 0
    assert main(["test", "out"]) == 0
    capsys.readouterr()
    assert main(["test", "out", "--model.net.functional", "pbe"]) == 1
    assert refusal in capsys.readouterr().err
    start = ("--model.weights", "out/model.safetensors")
    assert smoke("--folder", "refused", *start, "--model.net.functional", "pbe") == 1
    assert refusal in capsys.readouterr().err
    assert smoke("--folder", "tuned", *start, "--model.net.functional", "B3LYPV5") == 0
    capsys.readouterr()
    assert smoke("--folder", "third", *start, "--model.net.basis", "def2-svp") == 1
    assert "with the basis set 'sto-3g', the net is for 'def2-svp'" in capsys.readouterr().err


def sample(functional):
    """The sample of water in memory, with or without a word on its functional."""
    from geomlib.data.stores import MemoryStore

    store = MemoryStore([CardStore("water-orbitals", "train")[k] for k in range(4)])
    store.basis, store.functional = "sto-3g", functional
    return store


def fitted(functional, store, checkpoint=None, **options):
    import lightning

    from geomlib.data.module import GraphDataModule

    torch.manual_seed(0)
    task = HamiltonianTask(SPHNet(["H", "O"], basis="sto-3g", functional=functional, channels=8), **options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_steps=1, accelerator="cpu", **quiet)
    trainer.fit(task, datamodule=GraphDataModule(store, batch_size=4), ckpt_path=checkpoint)
    return trainer


@pytest.mark.filterwarnings("ignore")  # Lightning's, on few workers and batches
def test_files_of_another_functional_and_stores_that_say_none(tmp_path, monkeypatch, caplog):

    monkeypatch.chdir(tmp_path)
    trainer = fitted("pbe", sample(""))
    trainer.lightning_module.setup("fit")
    assert sum("does not say the functional" in row.message for row in caplog.records) == 1
    geomlib.save(trainer.lightning_module.net, "pbe.safetensors")
    trainer.save_checkpoint("pbe.ckpt")
    caplog.clear()
    fitted("b3lyp5", sample("b3lyp5"), weights="pbe.safetensors")
    assert [row.message for row in caplog.records if "functional" in row.message] == [
        "pbe.safetensors: its net has the functional 'pbe', the configured one 'b3lyp5'"
    ]
    geomlib.save(SPHNet(["H", "O"], basis="def2-svp", channels=8), "svp.safetensors")
    with pytest.raises(ConfigError, match=r"svp\.safetensors: its net has the basis 'def2-svp', the configured"):
        fitted("b3lyp5", sample("b3lyp5"), weights="svp.safetensors")
    with pytest.raises(ConfigError, match="the checkpoint: its net has the functional 'pbe', the configured one"):
        fitted("b3lyp5", sample("b3lyp5"), checkpoint="pbe.ckpt")


def test_paths_of_a_checkpoint_with_other_irreps_are_left_alone():
    options = {"basis": "sto-3g", "channels": 8, "heads": 2, "path_sparsity": 0.5}
    every = [[0, 14], [1], [2], [3]]  # 15 paths with all irreps, 13 with those that blocks need
    manifest = manifest_of(SPHNet(["H", "O"], pair_irreps="all", **options))
    old = {key: value for key, value in manifest["config"].items() if key not in ("pair_irreps", "gate_width")}
    manifest = {**manifest, "family_version": 1, "config": {**old, "kept_paths": every}}
    for irreps, kept in (("needed", None), ("all", every)):
        net = SPHNet(["H", "O"], pair_irreps=irreps, **options)
        HamiltonianTask(net).take_shape_of(manifest)
        assert net.config["kept_paths"] == kept
