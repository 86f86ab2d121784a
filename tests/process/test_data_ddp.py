"""Two processes: the same global batches as one, and an evaluation without padding. Budget: 30 s."""

import json
import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # the default suite shares a whole fit between processes

PROGRAM = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
import lightning.pytorch as pl
from geomlib.data import BlockSplit, FlatStore, GraphDataModule
from geomlib.testing.toy import ToyPotential

store, out, ranks, batch_size, max_atoms = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])


class Energies(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ToyPotential(["H", "C", "O"], cutoff=4.0, angle_cutoff=3.0)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.sample_id.tolist())
        return (self.net(batch)["energy"] - batch.energy).square().mean() * 1e-4

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch.sample_id.tolist())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch.sample_id.tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-2)


torch.manual_seed(0)
module = Energies()
data = GraphDataModule(
    FlatStore(store), BlockSplit(train=16, val=5, test=1), batch_size=batch_size, max_atoms=max_atoms or None,
    eval_batch_size=2, cache="disk", cache_folder=out + "/cache", seed=3,
)
trainer = pl.Trainer(
    accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", max_epochs=2, logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
)
trainer.fit(module, datamodule=data)
trainer.test(module, datamodule=data)
parameters = torch.cat([p.detach().double().flatten() for p in module.parameters()]).tolist()
with open(f"{out}/{ranks}-{trainer.global_rank}.json", "w") as file:
    json.dump({"seen": module.seen, "parameters": parameters}, file)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    import ase.build

    from geomlib.data.atoms import from_atoms
    from geomlib.data.flat import FlatStore
    from geomlib.data.stores import MemoryStore

    graphs = []
    for seed in range(22):
        atoms = ase.build.molecule(("CH3OH", "H2O", "CH4")[seed % 3])
        atoms.rattle(0.1, seed=seed)
        atoms.info["energy"] = float(seed % 7)
        graphs.append(from_atoms(atoms, ("energy",)))
    folder = tmp_path_factory.mktemp("store") / "flat"
    FlatStore.write(MemoryStore(graphs), folder)
    return folder


def fit(store, folder, ranks, batch_size, max_atoms=0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = folder / "program.py"
    program.write_text(PROGRAM)
    words = [sys.executable, program, store, folder, ranks, batch_size, max_atoms]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


def flat(lists):
    return [sample for batch in lists for sample in batch]


def test_two_processes_equal_one(store, tmp_path):
    (one,) = fit(store, tmp_path, 1, 8)
    first, second = fit(store, tmp_path, 2, 4)
    together = [a + b for a, b in zip(first["seen"]["train"], second["seen"]["train"], strict=True)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in one["seen"]["train"]]
    assert first["parameters"] == second["parameters"]
    assert first["parameters"] == pytest.approx(one["parameters"], abs=1e-12)
    # 5 validation graphs and 1 test graph on two processes: nothing twice, and one process has no test graph
    assert sorted(flat(first["seen"]["val"]) + flat(second["seen"]["val"])) == sorted(flat(one["seen"]["val"]))
    assert first["seen"]["test"] + second["seen"]["test"] == one["seen"]["test"] == [[21]]


def test_two_processes_with_a_budget_of_atoms(store, tmp_path):
    first, second = fit(store, tmp_path, 2, 4, max_atoms=20)
    for epoch in range(2):
        batches = len(first["seen"]["train"]) // 2
        part = slice(epoch * batches, (epoch + 1) * batches)
        seen = flat(first["seen"]["train"][part]) + flat(second["seen"]["train"][part])
        assert sorted(seen) == list(range(16))
