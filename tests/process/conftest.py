"""A tiny data set and recipe, and ways to run the command on them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

RECIPE = """\
# A tiny potential of small molecules on EMT labels, for tests.
model:
  class_path: PotentialTask
  init_args:
    net:
      class_path: DPA3
      init_args:
        elements: [H, C, O]
        layers: 1
        node_dim: 8
        edge_dim: 8
        angle_dim: 8
        cutoff: 3.5
        cutoff_smooth: 3.0
        angle_cutoff: 2.5
        angle_cutoff_smooth: 2.0
        fitting_layers: [8, 8]
    terms:
      - {field: energy, weight: 1.0, weight_limit: 2.0}
      - {field: forces, weight: 10.0}
    optimizer: {class_path: AdamW, init_args: {lr: 5.0e-3}}
    schedule: {class_path: Exponential, init_args: {stop_lr_ratio: 0.1, decay_steps: 2}}
data:
  class_path: GraphDataModule
  init_args:
    store: {class_path: ExtxyzStore, init_args: {path: data.extxyz}}
    split: {class_path: RangeSplit, init_args: {train: "0:30", val: "30:35", test: "35:40"}}
    batch_size: 4
trainer:
  accelerator: cpu
  max_epochs: 3
  gradient_clip_val: 5.0
  log_every_n_steps: 1
  enable_progress_bar: false
"""


def frames(count=40):
    """Molecules of different sizes, rattled."""
    rng = np.random.default_rng(0)
    names = ["CH4", "H2O", "CH3OH", "C2H4"]
    out = []
    for k in range(count):
        atoms = molecule(names[k % len(names)])
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        out.append(atoms)
    return out


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with `data.extxyz` and `tiny.yaml`."""
    write(tmp_path / "data.extxyz", frames())
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_process(folder: Path, code: str, *, environment=None) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, one thread, in `folder`."""
    path = folder / "driver.py"
    path.write_text(code)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    return subprocess.run(
        [sys.executable, str(path)], cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def process(here):
    """`run_process` in the working directory."""
    return lambda code, **options: run_process(here, code, **options)


@pytest.fixture
def checkpoint():
    """What the last checkpoint of a run holds."""

    def read(folder):
        return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)

    return read


@pytest.fixture
def same():
    """A check that two trees of plain values and tensors are equal bit for bit."""

    def same(a, b, path=""):
        assert type(a) is type(b), path
        if isinstance(a, dict):
            assert a.keys() == b.keys(), path
            for key in a:
                same(a[key], b[key], f"{path}/{key}")
        elif isinstance(a, list | tuple):
            assert len(a) == len(b), path
            for k, (x, y) in enumerate(zip(a, b, strict=True)):
                same(x, y, f"{path}/{k}")
        elif isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), path
        else:
            assert a == b, path

    return same
