import math

import lightning
import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.data.module import GraphDataModule
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, FileFormatError
from geomlib.files.modelfile import load
from geomlib.models import FAMILIES
from geomlib.tasks.potential import PotentialTask
from geomlib.tasks.terms import Term
from geomlib.testing.toy import ToyPotential
from geomlib.training.callbacks import EMA, Checkpoints
from geomlib.training.outputs import ModelFile


@pytest.fixture(autouse=True)
def _toy_family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")


def data(count=8):
    """Water-like triangles with energies of a spring."""
    graphs = []
    for k in range(count):
        length = 0.9 + 0.05 * k
        graphs.append(
            GraphData(
                pos=torch.tensor([[0.0, 0, 0], [length, 0, 0], [0, length, 0]], dtype=torch.float64),
                atomic_number=torch.tensor([8, 1, 1]),
                energy=torch.tensor([(length - 1.0) ** 2], dtype=torch.float64),
            )
        )
    return GraphDataModule(MemoryStore(graphs), val_store=MemoryStore(graphs[:3]), batch_size=4)


def fit(folder, *callbacks, epochs=3, ckpt_path=None, lr=1e-2):
    task = PotentialTask(ToyPotential(["H", "O"]), [Term("energy")], lambda rows: torch.optim.AdamW(rows, lr=lr))
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(row, Checkpoints) for row in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        max_epochs=epochs,
        use_distributed_sampler=False,
    )
    trainer.fit(task, data(), ckpt_path=ckpt_path, weights_only=True)
    return task, trainer


class Watch(lightning.Callback):
    """The weights after every step, and those at hand in each validation."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.trained.append(pl_module.net.net.depth.detach().clone())

    def on_validation_batch_end(self, trainer, pl_module, *args):
        self.validated.append(pl_module.net.net.depth.detach().clone())


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_recursion_and_is_what_is_validated_and_kept(tmp_path, warmup):
    watch = Watch()
    task, _ = fit(tmp_path, EMA(decay=0.6, warmup=warmup), Checkpoints(), watch)
    average, at_epoch_end = watch.trained[0], []
    for count, weights in enumerate(watch.trained[1:], start=1):
        decay = min(0.6, (1 + count) / (10 + count)) if warmup else 0.6
        average = decay * average + (1 - decay) * weights
        if count % 2 == 1:
            at_epoch_end.append(average)
    assert torch.allclose(torch.stack(watch.validated[-3:]), torch.stack(at_epoch_end), rtol=1e-12)
    assert torch.allclose(task.net.net.depth, average, rtol=1e-12)
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.allclose(content["state_dict"]["net.net.depth"], average, rtol=1e-12)
    assert torch.equal(content["current_model_state"]["net.net.depth"], watch.trained[-1])


def test_an_average_can_start_from_a_checkpoint_without_one(tmp_path, caplog):
    fit(tmp_path, Checkpoints(), epochs=1)
    task, _ = fit(tmp_path, EMA(), Checkpoints(), epochs=2, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert "the average starts from its weights" in caplog.text
    assert torch.isfinite(task.net.net.depth).all()


def test_the_best_checkpoint_is_that_of_the_lowest_metric(tmp_path):
    class Script(lightning.Callback):
        """Validation errors as if measured."""

        errors = iter([3.0, 1.0, 2.0])

        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("val/score", 9.0 if trainer.sanity_checking else next(self.errors))

    checkpoints, model_file = Checkpoints(monitor="val/score"), ModelFile()
    fit(tmp_path, Script(), checkpoints, model_file)
    assert (checkpoints.best_score, checkpoints.best_step) == (1.0, 4)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 4
    assert torch.equal(load(tmp_path / "model.safetensors").net.depth, best["state_dict"]["net.net.depth"])
    assert model_file.choice == "best weights by val/score, step 4"


def test_a_run_without_a_checkpoint_keeps_the_last_weights(tmp_path):
    model_file = ModelFile()
    task, _ = fit(tmp_path, model_file)
    assert model_file.choice == "last weights, step 6"
    assert torch.equal(load(model_file.path).net.depth, task.net.net.depth)


def test_the_best_checkpoint_goes_along_with_a_resume(tmp_path):
    first = Checkpoints()
    fit(tmp_path / "a", first, epochs=2)
    second = Checkpoints(every_n_epochs=5)
    fit(tmp_path / "b", second, epochs=3, ckpt_path=tmp_path / "a" / "checkpoints" / "last.ckpt", lr=0.0)
    assert second.best_score == first.best_score and second.monitor == "val/energy_mae"
    assert (tmp_path / "b" / "checkpoints" / "best.ckpt").is_file()
    (tmp_path / "a" / "checkpoints" / "best.ckpt").unlink()
    third = Checkpoints()
    fit(tmp_path / "c", third, epochs=3, ckpt_path=tmp_path / "a" / "checkpoints" / "last.ckpt", lr=0.0)
    assert third.best_path == str(tmp_path / "c" / "checkpoints" / "best.ckpt")


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"monitors 'val/gone', but the validation reports \['val/energy_mae'"):
        fit(tmp_path, Checkpoints(monitor="val/gone"), epochs=1)


@pytest.mark.parametrize("make", [lambda: EMA(decay=1.0), lambda: EMA(decay=math.nan), lambda: Checkpoints(mode="low")])
def test_wrong_options_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_net_that_no_file_could_name_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(FileFormatError, match="model family 'toy' is unknown"):
        fit(tmp_path, ModelFile())
    assert not (tmp_path / "model.safetensors").exists()
