"""Pretraining on hidden tokens: loss, metrics, descriptors, callbacks, resuming."""

import math

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.files.modelfile import load, save
from geomlib.models.mist.net import MIST
from geomlib.tasks.language import LanguageTask
from geomlib.testing.toy import ToyPotential
from geomlib.training.callbacks import Checkpoints
from geomlib.training.callbacks_pretraining import GradientNorm, LossSpikes, TokenRate
from geomlib.training.schedules import Cosine

SIZES = {"layers": 1, "width": 16, "heads": 2, "feedforward": 32, "positions": 32, "dropout": 0.0}
NAMES = ["MolWt", "TPSA"]


def net_of(**arguments):
    torch.manual_seed(0)
    return MIST(**{**SIZES, **arguments})


def batch_of(seed, molecules=12, described=False):
    """Molecules of a language whose tokens count up, so that a neighbour tells what is hidden."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 12, (molecules,), generator=generator)
    first = torch.randint(1, 20, (molecules,), generator=generator)
    component = torch.repeat_interleave(torch.arange(molecules), lengths)
    place = torch.cat([torch.arange(int(length)) for length in lengths])
    ids = first[component] + place
    chosen = torch.rand(len(ids), generator=generator) < 0.2
    chosen[0] = True
    batch = GraphData(
        token_id=torch.where(chosen, 164, ids),
        token_component=component,
        token_label=torch.where(chosen, ids, -100),
        component_graph=torch.arange(molecules),
    )
    if described:
        batch.descriptors = torch.stack([100.0 * lengths, 5.0 + first], 1)
    batch.__dict__["_num_graphs"] = molecules
    return batch


class Language(LightningDataModule):
    def __init__(self, batches=20, described=False):
        super().__init__()
        self.train = [batch_of(seed, described=described) for seed in range(batches)]
        self.val = [batch_of(1000 + seed, molecules=5 + 6 * seed, described=described) for seed in range(2)]

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.train, batch_size=None, shuffle=False)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.val, batch_size=None)


def fit(task, folder, data=None, epochs=4, callbacks=(), **arguments):
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=arguments.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(row, Checkpoints) for row in callbacks),
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **{key: value for key, value in arguments.items() if key != "ckpt_path"},
    )
    trainer.fit(task, datamodule=data or Language(), ckpt_path=arguments.get("ckpt_path"), weights_only=True)
    return trainer


def adam(params):
    return torch.optim.AdamW(params, lr=1e-2, weight_decay=0.01)


def expected_loss(net, batches):
    total = count = hits = 0.0
    for batch in batches:
        mask = batch.token_label >= 0
        logits = net(batch)["token_logit"][mask]
        total += float(F.cross_entropy(logits, batch.token_label[mask], reduction="sum"))
        hits += float((logits.argmax(1) == batch.token_label[mask]).sum())
        count += int(mask.sum())
    return total / count, hits / count


def test_learns_and_reports_means_over_the_chosen_tokens(tmp_path):
    data, net = Language(), net_of()
    with torch.no_grad():
        before, _ = expected_loss(net, data.val)
    trainer = fit(LanguageTask(net, adam, Cosine(stop_lr_ratio=0.1)), tmp_path, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with torch.no_grad():
        loss, accuracy = expected_loss(net.eval(), data.val)
    assert loss < 0.65 * before
    assert metrics["val/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx(accuracy, rel=1e-5)
    assert metrics["val/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert metrics["train/loss"] < before


def test_gradient_is_that_of_the_mean_over_the_batch(tmp_path):
    data, net = Language(batches=1), net_of().double()
    task = LanguageTask(net, lambda params: torch.optim.SGD(params, lr=1.0))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    fit(task, tmp_path, data, epochs=1, limit_val_batches=0)
    reference = net_of().double()
    batch = data.train[0]
    mask = batch.token_label >= 0
    F.cross_entropy(reference(batch)["token_logit"][mask], batch.token_label[mask]).backward()
    for name, parameter in reference.named_parameters():
        moved = state[name] - dict(net.named_parameters())[name].detach()
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_descriptors_are_a_second_objective(tmp_path):
    data, net = Language(described=True), net_of(descriptors=NAMES, pool="mean")
    trainer = fit(LanguageTask(net, adam, descriptor_weight=2.0), tmp_path, data, epochs=6)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert metrics["val/descriptor_mse"] < 0.5
    assert metrics["val/loss"] == pytest.approx(metrics["val/token_loss"] + 2.0 * metrics["val/descriptor_mse"])
    values = torch.cat([batch.descriptors for batch in data.train])
    torch.testing.assert_close(net.normalizer.mean, values.mean(0))
    with torch.no_grad():
        found = net.eval()(data.val[1])["descriptors"]
    assert torch.corrcoef(torch.stack([found[:, 0], data.val[1].descriptors[:, 0]]))[0, 1] > 0.8


def test_descriptors_of_a_molecule_are_calculated_once(tmp_path, monkeypatch):
    asked = []

    def calculate(molecule, names):
        asked.append(molecule.GetNumAtoms())
        return np.arange(len(names)) + float(asked[-1])

    monkeypatch.setattr("geomlib.tasks.language.calculate_descriptors", calculate)
    net, data = net_of(descriptors=NAMES), Language()
    batch = net.spec.build(collate([from_smiles(text) for text in ("C", "CCO", "CCCC")]))
    batch.token_label = torch.where(torch.arange(len(batch.token_id)) % 3 == 0, batch.token_id, -100)
    data.train, data.val = [batch.clone() for _ in range(3)], [batch.clone()]
    fit(LanguageTask(net, adam, descriptor_weight=1.0), tmp_path, data, epochs=2)
    assert sorted(asked) == [1, 3, 4]
    torch.testing.assert_close(net.normalizer.mean, torch.tensor([8 / 3, 11 / 3]))


@pytest.mark.parametrize("text", [True, False])
def test_descriptors_are_calculated_where_a_batch_has_none(tmp_path, text):
    net, batches = net_of(template=True), []
    for smiles in (["CCO", "c1ccccc1"], ["CC(=O)O", "CCCCCC"]):
        batch = net.spec.build(collate([from_smiles(text) for text in smiles]))
        chosen = (batch.token_id < 159) & (torch.arange(len(batch.token_id)) % 3 == 0)
        batch.token_label = torch.where(chosen, batch.token_id, -100)
        batch.token_id = torch.where(chosen, 164, batch.token_id)
        if not text:
            del batch.smiles, batch.character_component
        batches.append(batch)
    data = Language()
    data.train, data.val = batches, batches
    net = net_of(descriptors=["MolWt", "NumHDonors"])
    fit(LanguageTask(net, adam, descriptor_weight=1.0), tmp_path, data, epochs=1)
    torch.testing.assert_close(net.normalizer.mean, torch.tensor([67.602, 0.5]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(tmp_path, precision):
    trainer = fit(LanguageTask(net_of(), adam), tmp_path, epochs=3, precision=precision)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.15


def test_callbacks_log_rate_norm_and_total(tmp_path):
    data, rate = Language(), TokenRate()
    logger = lightning.pytorch.loggers.CSVLogger(tmp_path)
    fit(LanguageTask(net_of(), adam), tmp_path, data, 2, [rate, GradientNorm(), LossSpikes()], logger=logger)
    assert rate.tokens == 2 * sum(len(batch.token_id) for batch in data.train)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    header = rows.splitlines()[0].split(",")
    assert {"tokens", "tokens_per_second", "gradient_norm"} <= set(header)
    norms = [row.split(",")[header.index("gradient_norm")] for row in rows.splitlines()[1:]]
    assert sum(bool(value) and float(value) > 0 for value in norms) == 40
    again = TokenRate()
    again.load_state_dict(rate.state_dict())
    assert again.tokens == rate.tokens


def test_spikes_are_told_from_noise():
    spikes = LossSpikes(threshold=5.0, window=10)
    assert not any(spikes.is_spike(1.0 + 0.01 * (-1) ** step) for step in range(30))
    assert spikes.is_spike(3.0) and spikes.is_spike(math.nan) and not spikes.is_spike(1.0)
    assert (spikes.spikes, spikes.in_a_row) == (2, 0)
    again = LossSpikes(threshold=5.0, window=10)
    again.load_state_dict(spikes.state_dict())
    assert again.is_spike(3.0) and again.spikes == 3


def test_spikes_stop_the_run_when_asked(tmp_path, caplog):
    data = Language(batches=30)
    for batch in data.train[15:]:
        batch.token_label = torch.where(batch.token_label >= 0, 150, -100)  # another language from here on
    callback = LossSpikes(threshold=4.0, window=5, action="stop", patience=2)
    trainer = fit(LanguageTask(net_of(), adam), tmp_path, data, epochs=1, callbacks=[callback])
    assert callback.spikes >= 2 and trainer.global_step < 30
    assert "the loss jumped to" in caplog.text and "resume with a lower learning rate" in caplog.text


def test_starts_from_a_model_file(tmp_path):
    net = net_of()
    fit(LanguageTask(net, adam), tmp_path, epochs=1)
    file = save(net, tmp_path / "model.safetensors")
    fresh = net_of(dropout=0.1)
    fit(LanguageTask(fresh, lambda params: torch.optim.SGD(params, lr=0.0), weights=str(file)), tmp_path, epochs=1)
    for name, value in load(file).state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    with pytest.raises(ConfigError, match="has width 16, the net to be trained 32"):
        fit(LanguageTask(net_of(width=32), adam, weights=str(file)), tmp_path, epochs=1)


def test_resumed_run_equals_the_whole(tmp_path):
    states = []
    for stop in (None, 2):
        folder = tmp_path / str(stop)
        for epochs in (4,) if stop is None else (stop, 4):
            net = net_of()
            last = folder / "checkpoints" / "last.ckpt"
            fit(
                LanguageTask(net, adam),
                folder,
                epochs=epochs,
                callbacks=[Checkpoints()],
                ckpt_path=str(last) if last.exists() else None,
            )
        states.append(net.state_dict())
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name


def test_vectors_are_not_decayed(tmp_path):
    task = LanguageTask(net_of(), adam)
    trainer = fit(task, tmp_path, epochs=1)
    matrices, vectors = trainer.optimizers[0].param_groups
    assert matrices["weight_decay"] == 0.01 and vectors["weight_decay"] == 0.0
    assert all(parameter.dim() < 2 for parameter in vectors["params"])


def test_what_can_not_be_trained_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a ToyPotential"):
        LanguageTask(ToyPotential(["H"]))
    with pytest.raises(ConfigError, match="set both"):
        LanguageTask(net_of(), descriptor_weight=1.0)
    with pytest.raises(ConfigError, match="set both"):
        LanguageTask(net_of(descriptors=NAMES))
    data = Language()
    for batch in data.train:
        del batch.token_label
    with pytest.raises(DataError, match="no token is hidden"):
        fit(LanguageTask(net_of(), adam), tmp_path, data, epochs=1)
