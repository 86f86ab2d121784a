"""Fine-tuning of nets of properties: where they start from, what is thawed when, LoRA in files."""

import lightning
import pytest
import torch

from geomlib.data.module import GraphDataModule
from geomlib.data.molecules import from_smiles
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError
from geomlib.files.modelfile import load, save
from geomlib.models.mist.net import MIST
from geomlib.models.mist.property import MISTProperty
from geomlib.tasks.property import PropertyTask
from geomlib.tasks.starting import Start, start_property
from geomlib.training.thawing import GradualThawing

TINY = {"layers": 2, "width": 8, "heads": 2, "feedforward": 16, "positions": 32}


class Tokens(MISTProperty):
    """Tokens are characters, without a tokenizer."""

    family = "mist-property"

    def embed(self, batch):
        if "token_id" not in batch:
            batch.token_id = batch.smiles % 160
            batch.token_component = batch.character_component
        return super().embed(batch)


def net(targets=("a",), seed=0, **options):
    torch.manual_seed(seed)
    made = Tokens(list(targets), **{**TINY, **options})
    made.spec = type(made.spec)(())
    return made


def graphs(width=1):
    return [from_smiles("C" * k, target=torch.full((1, width), float(k)).double()) for k in range(1, 9)]


def store():
    return MemoryStore(graphs(), partial=("target",))


def fit(folder, task, **options):
    arguments = {
        **{"default_root_dir": folder, "accelerator": "cpu", "logger": False, "enable_checkpointing": False},
        **{"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1},
    }
    lightning.Trainer(**{**arguments, **options}).fit(task, datamodule=GraphDataModule(store(), batch_size=4))


def test_encoder_of_a_pretrained_net():
    torch.manual_seed(1)
    source = MIST(**TINY)
    target = net()
    start_property(target, source, Start("mist.safetensors"), store())
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(value, target.encoder.state_dict()[name])
    assert float(target.normalizer.mean[0]) == 4.5
    with pytest.raises(ConfigError, match=r"family 'mist', from which .* 'encoder.embedding.token.weight' is"):
        start_property(net(width=16), source, Start("mist.safetensors"), store())


@pytest.mark.parametrize(
    ("targets", "fitting", "kept"), [(["a"], "keep", True), (["a"], "random", False), (["b"], "keep", False)]
)
def test_head_of_the_same_targets(targets, fitting, kept):
    source, target = net(["a"], seed=1), net(targets, seed=2)
    source.normalizer.mean.fill_(-3.0)
    own = target.head[-1].weight.clone()
    start_property(target, source, Start("a.safetensors", fitting=fitting), store())
    assert torch.equal(target.head[-1].weight, source.head[-1].weight if kept else own)
    assert float(target.normalizer.mean[0]) == (-3.0 if kept else 4.5)
    assert torch.equal(target.encoder.norm.weight, source.encoder.norm.weight)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
class TestFit:
    def test_stages_thaw_one_after_the_other(self, tmp_path):
        task = PropertyTask(net(), freeze=["encoder.embedding.position"])
        seen = []

        class Watch(lightning.Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                seen.append({name for name, value in task.net.named_parameters() if value.requires_grad})

        fit(tmp_path, task, max_epochs=6, callbacks=[GradualThawing(epochs=1), Watch()])
        stages = task.net.thaw_stages()
        assert len(stages) == 4 and seen[3] == seen[4] == seen[5]
        for k in range(4):
            names = tuple(f"{name}." for stage in stages[: k + 1] for name in stage)
            expected = {name for name, _ in task.net.named_parameters() if name.startswith(names)}
            assert seen[k] == expected - {"encoder.embedding.position.weight"}, k

    def test_what_is_not_thawed_stays(self, tmp_path):
        task = PropertyTask(net())
        before = {name: value.clone() for name, value in task.net.state_dict().items()}
        fit(tmp_path, task, max_epochs=3, callbacks=[GradualThawing(epochs=1, depth=2)])
        changed = {name for name, value in task.net.named_parameters() if not torch.equal(value, before[name])}
        assert "head.2.weight" in changed and "encoder.embedding.token.weight" in changed
        assert not any(name.startswith(("encoder.blocks", "encoder.norm")) for name in changed)

    def test_freeze_encoder(self, tmp_path):
        for choice, trained in ((True, ("head.",)), ("encoder", ("head.", "encoder.embedding."))):
            task = PropertyTask(net(), freeze_encoder=choice)
            names = {name for name, value in task.net.named_parameters() if value.requires_grad}
            assert names == {name for name, _ in task.net.named_parameters() if name.startswith(trained)}

    def test_lora_learns_and_goes_merged_into_files(self, tmp_path):
        task = PropertyTask(net(lora={"rank": 2}), optimizer=lambda rows: torch.optim.AdamW(rows, lr=0.05))
        before = {name: value.clone() for name, value in task.net.state_dict().items()}
        fit(tmp_path, task, max_epochs=3)
        changed = {name for name, value in task.net.named_parameters() if not torch.equal(value, before[name])}
        assert {name.split(".")[0] for name in changed} == {"head", "encoder"}
        assert all("lora" in name for name in changed if name.startswith("encoder"))
        batch = store().batch(range(8))
        expected = task.net.eval()(batch)["target"]
        made = task.net.for_file()
        assert made.config["lora"] is None and not any("lora" in name for name in made.state_dict())
        torch.testing.assert_close(made(batch)["target"], expected, rtol=1e-5, atol=1e-6)
        again = load(save(task.net, tmp_path / "m.safetensors"))
        assert type(again) is MISTProperty and again.config["lora"] is None
        for name, value in made.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)
        third = net(seed=5, lora={})
        start_property(third, again, Start("m.safetensors"), store())
        torch.testing.assert_close(third.eval()(batch)["target"], expected, rtol=1e-5, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="lora has no ranks"):
        net(lora={"ranks": 2})
    with pytest.raises(ConfigError, match="epochs 0"):
        GradualThawing(epochs=0)
