"""The adapter for torch-sim: what it computes, and torch-sim itself where it is installed. Budget: 3 s."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.relax import relax_batched
from geomlib.apply.relax import RelaxSettings
from geomlib.apply.torchsim import torchsim_model
from geomlib.errors import DataError, MissingExtra
from geomlib.testing import ToyPotential

pytestmark = pytest.mark.filterwarnings("ignore")  # torch-sim's own


@pytest.fixture
def interface(monkeypatch):
    """torch-sim's base class, or something like it."""
    try:
        importlib.import_module("torch_sim.models.interface")
    except ImportError:
        names = ("torch_sim", "torch_sim.models", "torch_sim.models.interface")
        for name in names:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[names[-1]].ModelInterface = torch.nn.Module
    return torchsim_model


def state(structures: list[Atoms], pbc) -> dict:
    """As torch-sim has it: lattice vectors as columns."""
    sizes = torch.tensor([len(atoms) for atoms in structures])
    return {
        "positions": torch.from_numpy(np.concatenate([atoms.positions for atoms in structures])),
        "cell": torch.from_numpy(np.stack([atoms.cell.array.T for atoms in structures])),
        "pbc": pbc,
        "atomic_numbers": torch.from_numpy(np.concatenate([atoms.numbers for atoms in structures])),
        "system_idx": torch.repeat_interleave(torch.arange(len(structures)), sizes),
    }


def crystals() -> list[Atoms]:
    frames = []
    for seed in range(2):
        atoms = bulk("Cu", a=3.6 + 0.1 * seed) * (1, 1, 1 + seed)
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.05 * np.random.default_rng(seed).normal(size=(3, 3))), True)
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("pbc", [True, torch.tensor(True), torch.ones(3, dtype=torch.bool)])
def test_predictions_are_those_of_the_calculator(interface, pbc):
    calculator = Calculator(ToyPotential(["Cu"]))
    model = interface(calculator)
    for step in range(3):  # the list is kept, then not
        frames = crystals()
        for atoms in frames:
            atoms.rattle(0.02 * step**3, seed=step)
        found = model.forward(state(frames, pbc))
        expected = calculator.evaluate(frames)
        assert torch.allclose(found["energy"], torch.tensor([row["energy"] for row in expected]).double())
        assert np.allclose(found["forces"], np.concatenate([row["forces"] for row in expected]), atol=1e-10)
        stress = [row["stress"][[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) for row in expected]
        assert np.allclose(found["stress"], np.stack(stress), atol=1e-12)
    one = model.forward(state(frames[1:], pbc))  # other systems than before
    assert float(one["energy"]) == pytest.approx(expected[1]["energy"])


def test_molecules_have_no_stress_and_states_their_own_precision(interface):
    model = interface(ToyPotential(["H", "O"]), dtype=torch.float32)
    found = model.forward(state([molecule("H2O"), molecule("H2O")], False))
    assert found["stress"].abs().max() == 0 and found["stress"].shape == (2, 3, 3)
    assert {value.dtype for value in found.values()} == {torch.float32}
    broken = molecule("H2O")
    broken.positions[1] = broken.positions[0]
    with pytest.raises(DataError, match=r"system 1: .*overlap"):
        model.forward(state([molecule("H2O"), broken], False))


def test_without_torch_sim(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    with pytest.raises(MissingExtra, match=r"torch-sim-atomistic.*geomlib\[torchsim\]"):
        torchsim_model(ToyPotential(["H"]))


def test_torch_sim_relaxes_with_it():
    torch_sim = pytest.importorskip("torch_sim", exc_type=ImportError)
    calculator = Calculator(ToyPotential(["Cu"]))
    model = torchsim_model(calculator)
    from torch_sim.models.interface import validate_model_outputs

    validate_model_outputs(torchsim_model(ToyPotential(["Si", "Fe"])), torch.device("cpu"), torch.float64)
    frames = crystals()
    converged = torch_sim.generate_force_convergence_fn(force_tol=0.01, include_cell_forces=False)
    final = torch_sim.optimize(
        frames, model, optimizer=torch_sim.optimizers.fire, convergence_fn=converged, steps_between_swaps=1
    )
    ours = relax_batched(frames, calculator, RelaxSettings(optimizer="fire", fmax=0.01))
    assert final.energy.tolist() == pytest.approx([row.energy for row in ours], abs=1e-3)
