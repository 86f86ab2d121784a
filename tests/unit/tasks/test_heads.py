"""One task for several data sets: losses, errors and refusals by head. Budget: 8 s."""

import json

import lightning
import numpy as np
import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.data.module import GraphDataModule
from geomlib.data.multi import MultiDataModule
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, DataError
from geomlib.files.checkpoint import load_checkpoint_net
from geomlib.files.modelfile import load
from geomlib.models import DPA3, MultiHeadDPA3
from geomlib.tasks.potential import PotentialTask
from geomlib.tasks.terms import Term
from geomlib.training.callbacks import Checkpoints
from geomlib.training.outputs import ModelFile, Predictions

SMALL = {
    **{"layers": 1, "node_dim": 8, "edge_dim": 6, "angle_dim": 4, "fitting_layers": [9], "precision": "float64"},
    **{"cutoff": 3.5, "cutoff_smooth": 3.0, "angle_cutoff": 2.5, "angle_cutoff_smooth": 2.0},
}
TERMS = [Term("energy", weight=1.0), Term("forces", weight=10.0)]


def graphs(count, symbol, seed=0, stress=False):
    """Clusters or crystals with random labels."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    out = []
    for k in range(count):
        nodes = 2 + k % 3
        graph = GraphData(
            pos=torch.cartesian_prod(*[torch.tensor([0.0, 1.4])] * 2).double()[:nodes].repeat(1, 2)[:, :3]
            + 0.1 * random(nodes, 3),
            atomic_number=torch.tensor([symbol if i % 2 else 1 for i in range(nodes)]),
            energy=random(1),
            forces=random(nodes, 3),
        )
        if stress:
            graph.cell, graph.pbc = 5 * torch.eye(3).double()[None], torch.ones(1, 3, dtype=torch.bool)
            graph.stress = random(1, 3, 3) + 0.0
        out.append(graph)
    return out


def data(**options):
    crystals, clusters = graphs(9, 29, stress=True), graphs(12, 8, seed=1)
    return MultiDataModule(
        {
            "crystals": GraphDataModule(
                MemoryStore(crystals[:6], "crystals"),
                val_store=MemoryStore(crystals[6:], "crystals val"),
                test_store=MemoryStore(crystals[6:8], "crystals test"),
                batch_size=2,
            ),
            "clusters": GraphDataModule(
                MemoryStore(clusters[:8], "clusters"),
                val_store=MemoryStore(clusters[8:], "clusters val"),
                test_store=MemoryStore(clusters[8:], "clusters test"),
                batch_size=4,
            ),
        },
        **options,
    )


def task(fitting="separate", heads=("clusters", "crystals"), **options):
    torch.manual_seed(0)
    net = MultiHeadDPA3(list(heads), elements=["H", "O", "Cu"], fitting=fitting, **SMALL)
    return PotentialTask(net, TERMS, lambda parameters: torch.optim.AdamW(parameters, lr=1e-2), **options)


def trainer(folder, **options):
    arguments = {"default_root_dir": folder, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    arguments |= {"enable_progress_bar": False, "enable_model_summary": False, "inference_mode": False}
    return lightning.Trainer(**{**arguments, "max_epochs": 1, "log_every_n_steps": 1, **options})


def test_errors_are_told_by_head_and_their_mean_decides(tmp_path):
    model, module, run = task(), data(), trainer(tmp_path)
    run.fit(model, module)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert "val/crystals/stress_mae" in logged and "val/clusters/stress_mae" not in logged
    assert model.monitor == "val/forces_mae"
    for name in ("forces_mae", "energy_rmse", "loss"):
        mean = 0.5 * (logged[f"val/clusters/{name}"] + logged[f"val/crystals/{name}"])
        assert logged[f"val/{name}"] == pytest.approx(mean)
    for position, head in enumerate(model.net.net.heads):
        own = [graph for graph in module.part("val") if int(graph.head[0]) == position]
        model.eval()
        errors = [model.net(model.net.spec.build(graph.clone()))["forces"] - graph.forces for graph in own]
        assert logged[f"val/{head}/forces_mae"] == pytest.approx(float(torch.cat(errors).abs().mean()))
    assert {name for name in logged if name.startswith("train/") and "loss" in name} >= {
        "train/clusters/forces_loss",
        "train/crystals/energy_loss",
    }


def test_heads_may_have_terms_of_their_own(tmp_path):
    own = {"crystals": [Term("forces", weight=3.0, loss="mae"), Term("stress", weight=7.0)]}
    model, run = task(head_terms=own), trainer(tmp_path)
    run.fit(model, data())
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    loss = 3.0 * logged["val/crystals/forces_mae"] + 7.0 * logged["val/crystals/stress_rmse"] ** 2
    assert logged["val/crystals/loss"] == pytest.approx(loss)
    other = logged["val/clusters/energy_rmse"] ** 2 + 10.0 * logged["val/clusters/forces_rmse"] ** 2
    assert logged["val/clusters/loss"] == pytest.approx(other)
    with pytest.raises(ConfigError, match=r"head_terms names 'crystal' \(did you mean 'crystals'\?\)"):
        task(head_terms={"crystal": TERMS})
    with pytest.raises(ConfigError, match="above zero for head 'crystals'"):
        task(head_terms={"crystals": [Term("energy", weight=0.0)]})
    with pytest.raises(ConfigError, match="names 'a'; the net has no heads"):
        PotentialTask(DPA3(["H"], **SMALL), TERMS, head_terms={"a": TERMS})


def test_a_missing_label_names_the_set(tmp_path):
    with pytest.raises(DataError, match="loss has a term 'stress', but clusters, graph 0 carries no such label"):
        trainer(tmp_path).fit(task(head_terms={"clusters": [Term("stress")]}), data())


def test_data_sets_have_to_be_the_heads(tmp_path):
    with pytest.raises(ConfigError, match=r"heads clusters, molecules, but data.sets are clusters, crystals"):
        trainer(tmp_path).fit(task(heads=("clusters", "molecules")), data())
    with pytest.raises(ConfigError, match="has one set only"):
        trainer(tmp_path).fit(task(), GraphDataModule(MemoryStore(graphs(4, 8))))
    plain = PotentialTask(DPA3(["H", "O", "Cu"], **SMALL), TERMS)
    with pytest.raises(ConfigError, match=r"the net has no heads, but data.sets are clusters, crystals"):
        trainer(tmp_path).fit(plain, data())


def test_statistics_of_a_fresh_fit_are_those_of_each_head(tmp_path):
    model, module = task(), data()
    trainer(tmp_path, max_steps=1).fit(model, module)
    for position, head in enumerate(model.net.net.heads):
        plain = DPA3(["H", "O", "Cu"], **SMALL)
        plain.fit_statistics(module.head_part(head, "train"))
        assert torch.equal(model.net.net.energy_bias[position], plain.energy_bias)


@pytest.mark.parametrize("fitting", ["separate", "shared"])
def test_files_of_a_run_hold_all_heads(tmp_path, fitting):
    model, module = task(fitting), data()
    callbacks = [Checkpoints(), ModelFile()]
    trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True).fit(model, module)
    path = callbacks[1].path
    whole = load(path, head="*")
    assert whole.net.heads == ["clusters", "crystals"]
    best = load_checkpoint_net(tmp_path / "checkpoints" / "best.ckpt")
    for name, value in best.net.state_dict().items():
        assert torch.equal(whole.net.state_dict()[name], value)
    graph = whole.spec.build(graphs(1, 8)[0])
    single = load(f"{path}#clusters")(graph)["energy"]
    graph.head = torch.tensor([0])
    assert torch.equal(whole(graph)["energy"], single)
    assert load(tmp_path / "checkpoints" / "last.ckpt", head="crystals").net.heads == ()
    from geomlib.files.header import read_manifest

    manifest = read_manifest(path)
    assert manifest["heads"] == ["clusters", "crystals"]
    assert manifest["trained_on"]["heads"]["clusters"]["sizes"] == {"train": 8, "val": 4, "test": 4}


def test_predictions_are_written_for_each_head(tmp_path):
    model, module = task(), data()
    run = trainer(tmp_path, callbacks=[Predictions()])
    run.fit(model, module)
    run.test(model, module, verbose=False)
    everything = np.load(tmp_path / "predictions.npz", allow_pickle=False)
    assert everything["head"].tolist() == [0] * 4 + [1] * 2 and "stress_prediction" not in everything.files
    crystals = np.load(tmp_path / "predictions-crystals.npz", allow_pickle=False)
    assert crystals["stress_prediction"].shape == (2, 3, 3)
    found = json.loads((tmp_path / "test_metrics.json").read_text())
    error = np.abs(crystals["forces_prediction"] - crystals["forces_reference"]).mean()
    assert found["metrics"]["crystals/forces_mae"] == pytest.approx(error)
    labels = [graph.forces for graph in module.head_part("crystals", "test")]
    assert found["mean_predictor"]["crystals/forces_mae"] == pytest.approx(float(torch.cat(labels).abs().mean()))
    assert found["units"]["crystals/energy_mae"] == "eV/atom" and found["units"]["crystals/stress_mae"] == "eV/Å^3"


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_every_cache_gives_the_same_training(tmp_path, cache):
    model = task("shared")
    module = data(cache=cache, cache_folder=str(tmp_path / "cache"), augment=True, seed=3)
    trainer(tmp_path, max_epochs=2).fit(model, module)
    reference = task("shared")
    trainer(tmp_path, max_epochs=2).fit(reference, data(cache="none", augment=True, seed=3))
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-9, atol=1e-11)
