"""The task of properties on tables: missing labels, scores, one class, augmentation, resumed epochs."""

import csv
import math

import lightning
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from geomlib.data.module import GraphDataModule
from geomlib.data.molecules import canonical_smiles, from_smiles, parse_molecule, to_smiles
from geomlib.data.splits import RangeSplit
from geomlib.data.stores import MemoryStore
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError, GeomlibWarning
from geomlib.graphs.spec import GraphSpec
from geomlib.models.property import PropertyNet
from geomlib.nn.reduce import segment_sum
from geomlib.tasks.property import PropertyTask
from geomlib.training.callbacks import Checkpoints

SMILES = ["C", "CC", "CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCl", "C#N", "OCCO", "c1ccncc1", "CCCBr", "CC=O"]
TARGETS = [{"name": "size", "unit": "nm"}, {"name": "ring", "kind": "binary"}]


class Letters(PropertyNet):
    """Embeds a molecule as the sum of what its characters are embedded as."""

    family = "letters"
    inputs = ("smiles", "character_component", "component_graph")

    def __init__(self, targets, width=8, **options):
        super().__init__()
        self.config = {"targets": targets, "width": width, **options}
        self.spec = GraphSpec(())
        self.table = nn.Embedding(128, width)
        self.set_head(width, targets, **options)

    def embed(self, batch):
        owner = batch.component_graph.index_select(0, batch.character_component)
        return segment_sum(self.table(batch.smiles), owner, batch.num_graphs)


class Kept(PropertyTask):
    """Keeps the gradient of its first step."""

    def on_after_backward(self):
        self.gradient = self.net.head[-1].bias.grad.clone()


def graphs(rows=SMILES, missing=()):
    out = []
    for k, text in enumerate(rows):
        labels = torch.tensor([[len(text) * 1.0, float("1" in text)]], dtype=torch.float64)
        labels[0, [column for row, column in missing if row == k]] = torch.nan
        out.append(from_smiles(text, target=labels))
    return out


def store(rows=SMILES, missing=()):
    return MemoryStore(graphs(rows, missing), partial=("target",))


def data(source, split="0:8 8:12", **options):
    train, val = split.split()
    return GraphDataModule(source, RangeSplit(train, val), **{"batch_size": 3, **options})


def trainer(folder, **options):
    arguments = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 2,
        "log_every_n_steps": 1,
    }
    return lightning.Trainer(**{**arguments, **options})


def fitted(folder, source, task=None, **options):
    torch.manual_seed(0)
    task = task or PropertyTask(Letters(TARGETS))
    if isinstance(task, Kept):
        torch.manual_seed(0)
        task.net.load_state_dict(Letters(TARGETS).state_dict())
    made = trainer(folder, **{key: options.pop(key) for key in list(options) if key.startswith("max_")})
    made.fit(task, datamodule=data(source, **options))
    return task, made


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
class TestFit:
    def test_scores_are_those_of_all_validation_labels(self, tmp_path):
        task, made = fitted(tmp_path, store(missing=[(9, 0), (11, 1)]))
        found = {name: float(value) for name, value in made.callback_metrics.items()}
        batch = task.net.spec.build(store(SMILES[8:]).batch(range(4)))
        prediction = task.net.eval()(batch)["target"].detach().double().numpy()
        label = np.array([[4.0, 0.0], [8.0, 1.0], [5.0, 0.0], [4.0, 0.0]])
        sizes = prediction[[0, 2, 3], 0] - label[[0, 2, 3], 0]
        assert found["val/size_mae"] == pytest.approx(np.abs(sizes).mean(), rel=1e-6)
        assert found["val/rmse"] == found["val/size_rmse"] == pytest.approx(np.sqrt((sizes**2).mean()), rel=1e-6)
        order = np.argsort(prediction[:3, 1])
        assert found["val/ring_auc"] == list(order).index(1) / 2
        raw = task.net(batch)["target_raw"].detach().double().numpy()
        normalised = (label[:, 0] - float(task.net.normalizer.mean[0])) / float(task.net.normalizer.deviation[0])
        squares = (raw[:, 0] - normalised)[[0, 2, 3]] ** 2
        logits, classes = raw[:3, 1], label[:3, 1]
        entropies = np.logaddexp(0, logits) - classes * logits
        assert found["val/loss"] == pytest.approx((squares.sum() + entropies.sum()) / 6, rel=1e-5)

    def test_missing_labels_teach_nothing(self, tmp_path):
        gaps = store(missing=[(k, 1) for k in (0, 1, 2, 5)])
        step = {"max_epochs": 1, "batch_size": 8}
        with_gaps, _ = fitted(tmp_path, gaps, Kept(Letters(TARGETS)), **step)
        without = store()
        for k in (0, 1, 2, 5):  # what stands there does not matter once it is missing
            without.graphs[k].target[0, 1] = 1.0
        other, _ = fitted(tmp_path, without, Kept(Letters(TARGETS)), **step)
        assert all(bool(torch.isfinite(value).all()) for value in with_gaps.net.state_dict().values())
        gradient, full = (task.gradient for task in (with_gaps, other))
        assert not torch.allclose(gradient[1], full[1])
        # the sum of 12 losses instead of 16: what a regression gets grows by 16/12
        torch.testing.assert_close(gradient[0] * 12, full[0] * 16)

    def test_one_class_gives_nan_and_a_warning(self, tmp_path):
        rows = [*SMILES[:8], "C", "CC", "CCC", "CCCC"]
        with pytest.warns(GeomlibWarning, match=r"auc, ap of 'ring' in the val part .*all 4 labels are 0"):
            _, made = fitted(tmp_path, store(rows))
        assert math.isnan(made.callback_metrics["val/ring_auc"]) and math.isnan(made.callback_metrics["val/auc"])
        assert math.isfinite(made.callback_metrics["val/rmse"])

    def test_learning_lowers_the_loss(self, tmp_path):
        task = PropertyTask(Letters(TARGETS), optimizer=lambda p: torch.optim.AdamW(p, lr=0.02))
        _, made = fitted(tmp_path, store(), task=task, max_epochs=60, split="0:9 9:12")
        assert float(made.callback_metrics["train/size_mae"]) < 0.5

    def test_inverse_counts_weigh_rare_targets(self, tmp_path):
        rare = store(missing=[(k, 1) for k in range(6)])
        task, _ = fitted(tmp_path, rare, PropertyTask(Letters(TARGETS), target_weights="inverse_count"))
        assert task._weights.tolist() == [1.0, 4.0]

    def test_frozen_encoder_stays(self, tmp_path):
        torch.manual_seed(1)
        net = Letters(TARGETS)
        before = net.table.weight.detach().clone()
        fitted(tmp_path, store(), PropertyTask(net, freeze_encoder=True))
        assert torch.equal(net.table.weight, before)
        with pytest.raises(ConfigError, match="has no embedding apart from its encoder"):
            PropertyTask(Letters(TARGETS), freeze_encoder="encoder")

    def test_table_reads_the_targets_of_the_net(self, tmp_path):
        path = tmp_path / "table.csv"
        rows = [[text, len(text), int("1" in text), k] for k, text in enumerate(SMILES)]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["smiles", "size", "ring", "other"], *rows])
        source = TableStore(str(path))
        _, made = fitted(tmp_path, source)
        assert source.targets == ("size", "ring") and "val/ring_auc" in made.callback_metrics
        with pytest.raises(ConfigError, match=r"'rings'.*which the net has as a target"):
            fitted(tmp_path, TableStore(str(path)), PropertyTask(Letters(["rings"])))

    def test_other_labels_than_targets(self, tmp_path):
        with pytest.raises(ConfigError, match="has 2 labels, but the net has the targets size"):
            fitted(tmp_path, store(), PropertyTask(Letters(["size"])))
        with pytest.raises(DataError, match="carries no such label"):
            fitted(tmp_path, MemoryStore([from_smiles(text) for text in SMILES]))

    @pytest.mark.parametrize("augment", [False, True])
    def test_a_resumed_epoch_is_the_same(self, tmp_path, augment):
        source = store()
        straight, _ = fitted(tmp_path, source, max_epochs=2, augment=augment)
        torch.manual_seed(0)
        part = PropertyTask(Letters(TARGETS))
        keep = {"enable_checkpointing": True, "callbacks": [Checkpoints(every_n_steps=4)]}
        first = trainer(
            tmp_path, max_steps=4, max_epochs=-1, enable_checkpointing=True, callbacks=[Checkpoints(every_n_steps=4)]
        )
        first.fit(part, datamodule=data(source, augment=augment))
        torch.manual_seed(9)
        rest = PropertyTask(Letters(TARGETS))
        trainer(tmp_path, **keep).fit(
            rest,
            datamodule=data(source, augment=augment),
            ckpt_path=tmp_path / "checkpoints" / "last.ckpt",
            weights_only=True,
        )
        for name, value in straight.net.state_dict().items():
            assert torch.equal(value, rest.net.state_dict()[name]), name


def test_random_writings_are_of_the_same_molecules(tmp_path):
    task = PropertyTask(Letters(TARGETS))
    made = trainer(tmp_path)
    made.strategy.connect(task)
    module = data(store(), augment=True, batch_size=8)
    module.trainer = made
    loader = module.train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.batch_sampler.sampler.set_epoch(epoch)
        (batch,) = list(loader)
        order = batch.sample_id.argsort().tolist()
        epochs.append([to_smiles(batch)[k] for k in order])
    assert epochs[0] == epochs[2] != epochs[1]
    for texts in epochs:
        assert [canonical_smiles(parse_molecule(text)) for text in texts] == [
            canonical_smiles(parse_molecule(text)) for text in SMILES[:8]
        ]
    (validation, *_) = list(module.val_dataloader())
    assert to_smiles(validation)[:2] == SMILES[8:10]


def test_mean_predictor_and_units():
    task = PropertyTask(Letters(TARGETS))
    found = task.mean_predictor(graphs(SMILES[:2]), graphs(SMILES[2:4]))
    assert found == {"size_mae": 1.5, "size_rmse": 1.5}
    assert task.metric_unit("size") == "nm" and task.monitor == "val/loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "bce"}, "give \\['size'\\] the kind binary"),
        ({"loss": "l3"}, "expected auto"),
        ({"freeze_encoder": "all"}, "true, false or 'encoder'"),
    ],
)
def test_options_that_are_none(options, message):
    with pytest.raises(ConfigError, match=message):
        PropertyTask(Letters(TARGETS), **options)


def test_spearman_beside_scipy():
    from geomlib.data.scores import scores

    generator = np.random.default_rng(0)
    label, prediction = generator.normal(size=(2, 30)).round(1)
    assert scores("regression", label, prediction)["spearman"] == pytest.approx(spearmanr(label, prediction).statistic)
