"""`GraphDataModule` in Lightning. Budget: 25 s."""

import contextlib
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from geomlib.data.flat import FlatStore
from geomlib.data.module import GraphDataModule
from geomlib.data.splits import BlockSplit, RangeSplit
from geomlib.data.stores import MemoryStore, SubsetStore
from geomlib.errors import ConfigError, DataError
from geomlib.testing.toy import ToyPotential

ELEMENTS = ["H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K"]


class Energies(pl.LightningModule):
    """The least that fits a `net` to energies, and notes which graphs it saw."""

    def __init__(self):
        super().__init__()
        self.net = ToyPotential(ELEMENTS, cutoff=4.0, angle_cutoff=3.0)
        self.seen = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.sample_id.tolist())
        return (self.net(batch)["energy"] - batch.energy).square().mean() * 1e-4

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch.sample_id.tolist())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch.sample_id.tolist())

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch.sample_id.tolist())
        return self.net(batch)["energy"]

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Stop(Exception):
    pass


class StopAfter(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):  # Lightning saves after other callbacks' ends
        if trainer.global_step == self.step:
            raise Stop


def trainer(folder, callbacks=(), **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{"max_epochs": 3, **options},
    )


@pytest.fixture(autouse=True)
def lightnings_own_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield


def data(store, **options):
    return GraphDataModule(store, BlockSplit(val=4, test=3), **{"batch_size": 4, "seed": 1, **options})


def flat(lists):
    return [sample for batch in lists for sample in batch]


def test_all_loops(store, tmp_path):
    module, modules_data = Energies(), data(store)
    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
    run.fit(module, datamodule=modules_data)
    assert sorted(flat(module.seen["train"])) == sorted([*range(17)] * 2)
    assert module.seen["train"][:5] != module.seen["train"][5:]
    assert flat(module.seen["val"]) == [17, 18, 19, 20] * 2
    run.test(module, datamodule=modules_data)
    assert flat(module.seen["test"]) == [21, 22, 23]
    run.validate(module, datamodule=modules_data)
    assert flat(module.seen["val"]) == [17, 18, 19, 20] * 3
    energies = torch.cat(run.predict(module, datamodule=modules_data))
    assert flat(module.seen["predict"]) == [21, 22, 23]
    assert energies.shape == (3,)


def final(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def fit(folder, store, stop=None, resume=None, callbacks=(), trainer_options=None, **options):
    torch.manual_seed(0)
    module = Energies()
    callbacks = [*callbacks, *([StopAfter(stop)] if stop is not None else [])]
    with contextlib.suppress(Stop):
        trainer(folder, callbacks, **(trainer_options or {})).fit(
            module, datamodule=data(store, **options), ckpt_path=resume, weights_only=True
        )
    return module


@pytest.mark.parametrize("options", [{}, {"cache": "none"}, {"cache": "disk"}, {"num_workers": 2}, {"cache": "disk", "num_workers": 1}])  # fmt: skip  # noqa: E501
def test_caches_and_workers_change_nothing(store, tmp_path, options, capsys):
    expected = fit(tmp_path, store, augment=True)
    found = fit(tmp_path, store, augment=True, cache_folder=str(tmp_path / "cache"), **options)
    assert found.seen["train"] == expected.seen["train"]
    assert torch.equal(final(found), final(expected))


def test_disk_cache_is_made_once_and_read_by_others(store, tmp_path):
    options = {"cache": "disk", "cache_folder": str(tmp_path / "cache")}
    fit(tmp_path, store, **options)
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "header.json").stat().st_mtime_ns
    flat_store = FlatStore.write(store, tmp_path / "flat")
    fit(tmp_path, store, **options)
    assert (folder / "header.json").stat().st_mtime_ns == stamp
    assert "edge_index" in FlatStore(folder).fields
    fit(tmp_path, flat_store, **options)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_cutoff_gets_another_disk_cache(store, tmp_path):
    options = {"cache": "disk", "cache_folder": str(tmp_path / "cache")}
    for cutoff in (3.5, 4.0):
        module = Energies()
        module.net = ToyPotential(ELEMENTS, cutoff=cutoff, angle_cutoff=3.0)
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=data(store, **options))
    edges = [len(FlatStore(folder).batch(range(24)).edge_index[0]) for folder in (tmp_path / "cache").iterdir()]
    assert len(set(edges)) == 2


@pytest.mark.parametrize(
    ("stop", "options", "trainer_options"),
    [
        (1, {}, {}),
        (3, {}, {}),
        (5, {}, {}),  # the last batch of the first epoch
        (7, {}, {}),
        (8, {"num_workers": 2}, {}),
        (10, {"num_workers": 2}, {}),
        (6, {"max_atoms": 20, "augment": True}, {}),
        (4, {}, {"max_epochs": -1, "max_steps": 13}),
        (5, {}, {"max_epochs": -1, "max_steps": 13}),
        (6, {"augment": True}, {"val_check_interval": 2}),
        (4, {}, {"val_check_interval": 2}),
    ],
)
def test_resume_in_mid_epoch_equals_a_straight_run(store, tmp_path, stop, options, trainer_options):
    straight = fit(tmp_path, store, trainer_options=trainer_options, **options)
    saving = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=1, save_top_k=0, save_last=True)
    first = fit(tmp_path, store, stop=stop, callbacks=[saving], trainer_options=trainer_options, **options)
    assert len(first.seen["train"]) == stop
    second = fit(tmp_path, store, resume=tmp_path / "saved" / "last.ckpt", trainer_options=trainer_options, **options)
    assert first.seen["train"] + second.seen["train"] == straight.seen["train"]
    assert torch.equal(final(second), final(straight))


def test_resume_from_an_epoch_end(store, tmp_path):
    straight = fit(tmp_path, store)
    saving = ModelCheckpoint(tmp_path / "saved", save_last=True, save_on_train_epoch_end=True)
    first = fit(tmp_path, store, stop=6, callbacks=[saving])
    second = fit(tmp_path, store, resume=tmp_path / "saved" / "last.ckpt")
    assert first.seen["train"][:5] + second.seen["train"] == straight.seen["train"]
    assert torch.equal(final(second), final(straight))


def test_order_does_not_depend_on_the_global_seed(store, tmp_path):
    def order(seed, data_seed):
        torch.manual_seed(seed)
        module = Energies()
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=data(store, seed=data_seed))
        return module.seen["train"]

    assert order(0, 1) == order(5, 1)
    assert order(0, 1) != order(0, 2)


def test_training_graphs(store):
    graphs = data(store).train_graphs()
    assert len(graphs) == 17
    assert [graph.num_nodes for graph in graphs] == store.sizes[:17].tolist()
    assert "edge_index" not in graphs[0]


def test_own_stores(store, tmp_path):
    module = Energies()
    own = SubsetStore(store, [5, 6])
    modules_data = GraphDataModule(store, RangeSplit(train="0:20"), val_store=own, test_store=own, eval_batch_size=1)
    run = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    run.fit(module, datamodule=modules_data)
    run.test(module, datamodule=modules_data)
    assert module.seen["val"] == module.seen["test"] == [[0], [1]]
    with pytest.raises(ConfigError, match="both the split and val_store give 'val' graphs"):
        GraphDataModule(store, BlockSplit(val=3), val_store=own).part("val")


def test_no_validation_part(store, tmp_path):
    module = Energies()
    modules_data = GraphDataModule(store, batch_size=8)
    trainer(tmp_path, max_epochs=1).fit(module, datamodule=modules_data)
    assert len(flat(module.seen["train"])) == 24
    assert module.seen["val"] == []
    with pytest.raises(ConfigError, match=r"no 'val' graphs; the data have \['train'\]: give data.split a part 'val'"):
        trainer(tmp_path).validate(module, datamodule=modules_data)
    with pytest.raises(ConfigError, match=r"or set data\.test_store"):
        trainer(tmp_path).test(module, datamodule=modules_data)
    trainer(tmp_path).predict(module, datamodule=modules_data)
    assert flat(module.seen["predict"]) == list(range(24))


def test_a_net_without_a_spec(store, tmp_path):
    module = Energies()
    del module.net.spec
    with pytest.raises(ConfigError, match=r"trainer\.lightning_module\.net\.spec"):
        trainer(tmp_path).fit(module, datamodule=data(store))


def test_bad_graphs_are_found_before_the_run(store, tmp_path):
    graphs = list(store)
    graphs[18].forces = torch.full_like(graphs[18].forces, torch.nan)
    with pytest.raises(DataError, match="memory, graph 18: 'forces' is not finite at node 0"):
        trainer(tmp_path).fit(Energies(), datamodule=data(MemoryStore(graphs)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"cache": "ram"}, "cache is 'ram'"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"eval_batch_size": 0}, "eval_batch_size 0"),
    ],
)
def test_arguments(store, options, message):
    with pytest.raises(ConfigError, match=message):
        GraphDataModule(store, **options)


def test_a_recipe_can_name_the_parts_shortly(shared_data):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GraphDataModule, "data")
    path = str(shared_data / "mlip_extxyz" / "mlearn_Mo_test.extxyz")
    store = {"class_path": "ExtxyzStore", "init_args": {"path": path, "fields": ["energy"], "index": "0:5"}}
    split = {"class_path": "RandomSplit", "init_args": {"train": 0.6, "val": 2}}
    config = parser.parse_object({"data": {"store": store, "split": split, "max_atoms": 200}})
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in 4.50
    made = instantiate(config).data
    assert len(made.store) == 5
    assert {name: len(part[1]) for name, part in made.parts.items()} == {"train": 3, "val": 2}
