"""Pretraining on two processes with batches of unequal size is that of one process with both. Budget: 40 s."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import lightning, torch
from geomlib.data.graph import GraphData
from geomlib.models import MIST
from geomlib.tasks import LanguageTask
from geomlib.training.callbacks_pretraining import GradientNorm, LossSpikes, TokenRate

out, ranks = sys.argv[1], int(sys.argv[2])


def batch_of(seeds):
    ids, owner, label, rows, sizes = [], [], [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for length in range(4, 7 + 5 * (seed % 2)):
            token = torch.randint(1, 159, (length,), generator=generator)
            hidden = torch.rand(length, generator=generator) < 0.3
            ids.append(torch.where(hidden, 164, token))
            label.append(torch.where(hidden, token, -100))
            owner.append(torch.full((length,), len(owner)))
            rows.append([100.0 * length, float(seed % 5)])
    batch = GraphData(
        token_id=torch.cat(ids), token_label=torch.cat(label), token_component=torch.cat(owner),
        component_graph=torch.arange(len(owner)), descriptors=torch.tensor(rows),
    )
    batch.__dict__["_num_graphs"] = len(owner)
    return batch


class Data(lightning.LightningDataModule):
    def loader(self, first):
        rank = self.trainer.global_rank if self.trainer else 0
        own = [(first + 2 * k + rank,) if ranks == 2 else (first + 2 * k, first + 2 * k + 1) for k in range(6)]
        return torch.utils.data.DataLoader([batch_of(seeds) for seeds in own], batch_size=None)

    def train_dataloader(self):
        return self.loader(0)

    def val_dataloader(self):
        return self.loader(100)


class Task(LanguageTask):
    def on_fit_start(self):  # the statistics of one process, for both
        self.mist.normalizer.mean.copy_(torch.tensor([700.0, 2.0]))
        self.mist.normalizer.scale.copy_(torch.tensor([0.005, 0.5]))


torch.manual_seed(0)
sizes = {"layers": 1, "width": 16, "heads": 2, "feedforward": 32, "positions": 32, "dropout": 0.0}
net = MIST(**sizes, descriptors=["MolWt", "TPSA"]).double()
rate = TokenRate()
trainer = lightning.Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp_find_unused_parameters_true" if ranks > 1 else "auto", max_epochs=2,
    logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    num_sanity_val_steps=0, use_distributed_sampler=False, log_every_n_steps=1,
    callbacks=[rate, GradientNorm(), LossSpikes()],
)
trainer.fit(Task(net, lambda p: torch.optim.SGD(p, lr=0.1), descriptor_weight=0.5), datamodule=Data())
with open(f"{out}/{ranks}-{trainer.global_rank}.json", "w") as file:
    json.dump({
        "parameters": torch.cat([p.detach().flatten() for p in net.parameters()]).tolist(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
        "tokens": rate.tokens,
    }, file)
"""


def test_two_processes_are_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    for ranks in (1, 2):
        run = subprocess.run(
            [sys.executable, str(program), str(tmp_path), str(ranks)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stderr[-3000:]
    one, two, other = (json.loads((tmp_path / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json"))
    assert two["parameters"] == other["parameters"]
    assert two["parameters"] == pytest.approx(one["parameters"], rel=1e-9, abs=1e-12)
    assert two["metrics"] == other["metrics"] == pytest.approx(one["metrics"], rel=1e-9)
    assert one["tokens"] == two["tokens"] > 0
