"""The public suites, inherited for a toy net, for DPA3 and for a calculator that is not ours. Budget: 40 s."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from geomlib.apply.ase import Calculator
from geomlib.models import DPA3
from geomlib.testing import CalculatorTests, NetTests, ToyPotential, perturb_parameters


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.08, seed=seed)
    return atoms


def water_box() -> Atoms:
    """Six atoms in a skewed box thinner than the cutoffs."""
    box = molecule("H2O")
    other = molecule("H2O")
    other.rotate(70, (1, 2, 3))
    other.positions += [1.9, 1.7, 1.4]
    box += other
    box.set_cell([[4.3, 0, 0], [0.6, 4.1, 0], [-0.5, 0.8, 4.6]])
    box.set_pbc(True)
    return rattled(box)


def copper() -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.6) * (1, 1, 2)
    atoms.set_cell(atoms.cell.array @ [[1.01, 0.02, 0], [0, 0.98, 0.01], [0.03, 0, 1.0]], scale_atoms=True)
    return rattled(atoms)


def small_dpa3(**options) -> DPA3:
    torch.manual_seed(0)
    settings = {
        "layers": 2,
        "node_dim": 12,
        "edge_dim": 8,
        "angle_dim": 8,
        "cutoff": 4.0,
        "cutoff_smooth": 3.4,
        "angle_cutoff": 3.2,
        "angle_cutoff_smooth": 2.6,
        "max_neighbors": 200,
        "max_angle_neighbors": 100,
        "fitting_layers": [12, 12],
        "precision": "float64",
    }
    net = DPA3(["H", "O", "Cu"], **{**settings, **options})
    perturb_parameters(net)  # so that nothing is zero or constant by initialisation
    return net


@pytest.fixture(autouse=True)
def keep_random_state():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


class TestToyCalculator(CalculatorTests):
    cutoffs = (4.5, 3.5)
    reach = 10.0

    def make_calculator(self):
        return Calculator(ToyPotential(["H", "O", "Cu"]))

    def structures(self):
        return {"water": rattled(molecule("H2O")), "box": water_box(), "copper": copper()}


class TestDpa3Calculator(CalculatorTests):
    cutoffs = (4.0, 3.2)
    reach = 10.0
    energy_jump = 1e-7  # the exponential switch is tiny, not zero, at its cutoff
    force_jump = 1e-5
    net = small_dpa3()

    def make_calculator(self):
        return Calculator(self.net)

    def structures(self):
        return {"water": rattled(molecule("H2O")), "box": water_box(), "copper": copper()}


class TestQuinticDpa3Calculator(CalculatorTests):
    cutoffs = (4.0, 3.2)
    reach = 10.0
    memory_steps = 200
    net = small_dpa3(switch="quintic", layers=1)

    def make_calculator(self):
        return Calculator(self.net)

    def structures(self):
        return {"water": rattled(molecule("H2O")), "copper": copper()}


class TestEmt(CalculatorTests):
    """ASE's effective medium theory: the suite is about physics, not about geomlib."""

    reach = 20.0
    memory_steps = 400

    def make_calculator(self):
        return EMT()

    def structures(self):
        dimer = Atoms("CuAlCu", positions=[[0, 0, 0], [2.5, 0.1, 0], [1.1, 2.3, 0.4]])
        return {"copper": copper(), "cluster": dimer}


class TestToyNet(NetTests):
    def make_net(self):
        return ToyPotential(["H", "O", "Cu"])

    def structures(self):
        return {"water": rattled(molecule("H2O")), "box": water_box(), "copper": copper()}


class TestDpa3Net(NetTests):
    # as published, the last block updates bonds and angles that nothing reads, and the angles it is given too
    idle_parameters = ("blocks.1.edge_self*", "blocks.1.edge_angle*", "blocks.1.edge_res*", "blocks.?.angle_*")

    def make_net(self):
        return small_dpa3()

    def structures(self):
        return {"water": rattled(molecule("H2O")), "box": water_box(), "copper": copper()}
