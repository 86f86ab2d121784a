"""A fit that is killed in the middle of an epoch goes on bit for bit. Budget: 15 s (each run is a process)."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, warnings
warnings.filterwarnings("ignore")
import torch
import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from geomlib.data import BlockSplit, FlatStore, GraphDataModule
from geomlib.testing.toy import ToyPotential

store, folder, workers, kill_at, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]


class Energies(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ToyPotential(["H", "C", "O"], cutoff=4.0, angle_cutoff=3.0)

    def training_step(self, batch, batch_idx):
        print("saw", batch.sample_id.tolist(), flush=True)
        return (self.net(batch)["energy"] - batch.energy).square().mean() * 1e-4

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Kill(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


torch.manual_seed(0)
module = Energies()
data = GraphDataModule(
    FlatStore(store), BlockSplit(val=5), batch_size=4, num_workers=workers, augment=True, seed=3, max_atoms=None
)
pl.Trainer(
    accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False,
    callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0, save_last=True), Kill()],
).fit(module, datamodule=data, ckpt_path=None if resume == "-" else resume, weights_only=True)
print("final", [p.detach().double().numpy().tobytes().hex() for p in module.parameters()])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    import ase.build

    from geomlib.data.atoms import from_atoms
    from geomlib.data.flat import FlatStore
    from geomlib.data.stores import MemoryStore

    graphs = []
    for seed in range(30):
        atoms = ase.build.molecule(("CH3OH", "H2O", "CH4")[seed % 3])
        atoms.rattle(0.1, seed=seed)
        atoms.info["energy"] = float(seed % 7)
        graphs.append(from_atoms(atoms, ("energy",)))
    folder = tmp_path_factory.mktemp("store") / "flat"
    FlatStore.write(MemoryStore(graphs), folder)
    return folder


def fit(store, folder, workers, kill_at=-1, resume="-"):
    words = [sys.executable, "-c", PROGRAM, store, folder, workers, kill_at, resume]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == (-signal.SIGKILL if kill_at >= 0 else 0), done.stderr
    lines = done.stdout.splitlines()
    return [line for line in lines if line.startswith("saw")], [line for line in lines if line.startswith("final")]


@pytest.fixture(scope="module")
def straight(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("straight"), 0)


@pytest.mark.parametrize(
    ("workers", "kill_at"),
    [(2, 9), pytest.param(0, 3, marks=pytest.mark.slow), pytest.param(0, 7, marks=pytest.mark.slow)],
)
def test_killed_run_goes_on_bit_for_bit(store, straight, tmp_path, workers, kill_at):
    seen, final = fit(store, tmp_path, workers, kill_at)
    assert len(seen) == kill_at
    assert final == []
    rest, final = fit(store, tmp_path, workers, resume=tmp_path / "last.ckpt")
    assert seen + rest == straight[0]
    assert final == straight[1] != []
