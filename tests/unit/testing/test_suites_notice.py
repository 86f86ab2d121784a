"""Every check of the public suites fails when the physics that it guards is wrong. Budget: 15 s."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from geomlib.apply.ase import Calculator
from geomlib.errors import DataError
from geomlib.nn.derivative import Derivatives
from geomlib.nn.reduce import segment_sum
from geomlib.testing import CalculatorTests, NetTests, ToyPotential


def structures() -> dict[str, Atoms]:
    water = molecule("H2O")
    water.rattle(0.08, seed=0)
    box = molecule("H2O")
    box.set_cell([[3.3, 0, 0], [0.6, 3.1, 0], [-0.5, 0.8, 3.6]])
    box.set_pbc(True)
    box.rattle(0.08, seed=1)
    return {"water": water, "box": box}


class Wrong(ToyPotential):
    """Adds a term to the energy of each atom."""

    def term(self, batch, vector):
        raise NotImplementedError

    def forward(self, batch):
        out = super().forward(batch)
        atom_energy = out["atom_energy"] + self.term(batch, batch.edge_vectors())
        return {"energy": segment_sum(atom_energy, batch.node_graph, batch.num_graphs), "atom_energy": atom_energy}


class Anisotropic(Wrong):
    def term(self, batch, vector):
        weight = (1 - (vector.norm(dim=1) / 4.5).clamp(max=1)).pow(3)
        return segment_sum(0.01 * weight * vector[:, 2].square(), batch.edge_index[1], batch.num_nodes)


class Chiral(Wrong):
    def term(self, batch, vector):
        weight = (1 - (vector.norm(dim=1) / 4.5).clamp(max=1)).pow(3)[:, None]
        center = batch.edge_index[1]
        number = batch.atomic_number.double()[batch.edge_index[0]][:, None]
        sums = [segment_sum(weight**power * vector * number, center, batch.num_nodes) for power in (1, 2, 3)]
        return 0.1 * torch.linalg.det(torch.stack(sums, dim=1))


class Placed(Wrong):
    def term(self, batch, vector):
        return 1e-4 * batch.pos[:, 0].sin()


class Ordered(Wrong):
    def term(self, batch, vector):
        return 1e-3 * torch.arange(batch.num_nodes) * batch.atomic_number.double()


class Crowded(Wrong):
    """Every atom knows how many there are: not extensive, and batches leak."""

    def term(self, batch, vector):
        return 1e-3 * batch.num_nodes * torch.ones(batch.num_nodes, dtype=torch.float64)


class Leaky(Wrong):
    def term(self, batch, vector):
        return 1e-6 * batch.pos.square().sum() * torch.ones(batch.num_nodes, dtype=torch.float64)


class Abrupt(Wrong):
    def term(self, batch, vector):
        return segment_sum(1e-4 / vector.norm(dim=1), batch.edge_index[1], batch.num_nodes)


class Kinked(Wrong):
    """Goes to zero at the cutoff, its slope does not."""

    def term(self, batch, vector):
        return segment_sum(1e-3 * (4.5 - vector.norm(dim=1)), batch.edge_index[1], batch.num_nodes)


class CellMinded(Wrong):
    """Feels the cell itself, as a net whose padding leaks would."""

    def term(self, batch, vector):
        size = batch.cell.square().sum((1, 2)).sqrt()
        return 1e-4 * (size / (1 + size)).index_select(0, batch.node_graph)


class NoImages(Wrong):
    """Forgets the shifts of the cell."""

    def forward(self, batch):
        batch = batch.clone()
        batch.edge_shift = torch.zeros_like(batch.edge_shift)
        far = batch.edge_vectors().norm(dim=1) > 0.3
        batch.edge_index, batch.edge_shift = batch.edge_index[:, far], batch.edge_shift[far]
        self.spec.complete(batch)
        return ToyPotential.forward(self, batch)


class Lonely(Wrong):
    """Pushes atoms that have no neighbours."""

    def term(self, batch, vector):
        alone = torch.bincount(batch.edge_index[1], minlength=batch.num_nodes) == 0
        return alone * batch.pos[:, 2]


class Seeded(ToyPotential):
    def forward(self, batch):
        torch.manual_seed(3)
        return super().forward(batch)


class Detached(ToyPotential):
    """Loses a part of the derivative."""

    def _angle_energy(self, vector, length, lines):
        return super()._angle_energy(vector.detach(), length, lines)


class NoCellStrain(Derivatives):
    """Strains positions, not the cell."""

    def forward(self, batch):
        out = super().forward(batch)
        out["virial"] = -torch.einsum("na,nb->ab", batch.pos, out["forces"]).unsqueeze(0).expand_as(out["virial"])
        return out


class Hoarder(ToyPotential):
    kept: list = []

    def forward(self, batch):
        self.kept.append(batch)
        return super().forward(batch)


def elements(net: type[ToyPotential]) -> ToyPotential:
    return net(["H", "O"])


CALCULATORS = [
    (Detached, "forces_are_minus_the_gradient"),
    (Detached, "stress_is_the_strain_derivative"),
    (Anisotropic, "rotation"),
    (Chiral, "reflection"),
    (Placed, "translation"),
    (Ordered, "permutation"),
    (Placed, "wrapping_and_images"),
    (NoImages, "wrapping_and_images"),
    (CellMinded, "other_lattice_vectors"),
    (Crowded, "supercell"),
    (NoImages, "supercell"),
    (Abrupt, "smooth_at_the_cutoffs"),
    (Kinked, "smooth_at_the_cutoffs"),
    (CellMinded, "slabs"),
    (CellMinded, "wires"),
    (CellMinded, "zero_and_dummy_cells"),
    (Lonely, "single_atoms"),
    (Crowded, "far_fragments"),
    (Crowded, "batches_equal_single_evaluations"),
    (Hoarder, "memory_is_flat_in_a_simulation"),
    (Seeded, "process_state_is_untouched"),
]


def suite(calculator) -> CalculatorTests:
    class Suite(CalculatorTests):
        cutoffs = (4.5, 3.5)
        reach = 10.0
        memory_steps = 200

        def make_calculator(self):
            return calculator()

        def structures(self):
            return structures()

    return Suite()


@pytest.mark.parametrize(("net", "check"), CALCULATORS, ids=lambda value: getattr(value, "__name__", value))
def test_calculator_suite_notices(net, check):
    state = torch.get_rng_state()
    with pytest.raises(AssertionError):
        getattr(suite(lambda: Calculator(elements(net))), f"test_{check}")()
    torch.set_rng_state(state)


def test_calculator_suite_accepts_what_is_right():
    right = suite(lambda: Calculator(elements(ToyPotential)))
    for check in {check for _, check in CALCULATORS}:
        getattr(right, f"test_{check}")()


def test_notices_a_cell_that_is_not_strained():
    with pytest.raises(AssertionError, match="stress against differences"):
        suite(lambda: Calculator(NoCellStrain(elements(ToyPotential)))).test_stress_is_the_strain_derivative()


def test_notices_a_neighbor_list_that_is_never_renewed(monkeypatch):
    from geomlib.apply.verlet import VerletList

    monkeypatch.setattr(VerletList, "_holds", lambda self, old, new: len(old.pos) == len(new.pos))
    with pytest.raises(AssertionError, match="anew"):
        suite(lambda: Calculator(elements(ToyPotential), skin=0.1)).test_results_follow_the_structure()


def test_notices_results_that_outlive_their_structure(monkeypatch):
    monkeypatch.setattr(Calculator, "check_state", lambda self, atoms, tol=0: [] if self.results else ["positions"])
    with pytest.raises(AssertionError):
        suite(lambda: Calculator(elements(ToyPotential))).test_results_follow_the_structure()


def test_notices_stress_without_volume(monkeypatch):
    calculate = Calculator.calculate

    def careless(self, atoms=None, properties=("energy",), system_changes=()):
        calculate(self, atoms, ["energy"], system_changes)
        self.results.setdefault("stress", np.zeros(6))

    monkeypatch.setattr(Calculator, "calculate", careless)
    with pytest.raises(AssertionError, match="no volume"):
        suite(lambda: Calculator(elements(ToyPotential))).test_no_stress_without_volume()


def test_notices_energies_that_do_not_add_up(monkeypatch):
    predict = Calculator._predict

    def wrong(self, *args):
        results = predict(self, *args)
        results[0]["energies"][0] += 1e-3
        return results

    monkeypatch.setattr(Calculator, "_predict", wrong)
    with pytest.raises(AssertionError, match="energies of atoms"):
        suite(lambda: Calculator(elements(ToyPotential))).test_energies_of_atoms_sum_to_the_energy()


class Forgetful(ToyPotential):
    """Its config does not say all."""

    def __init__(self, elements, strength=1.0, **options):
        super().__init__(elements, **options)
        self.strength = strength

    def forward(self, batch):
        return {name: self.strength * value for name, value in super().forward(batch).items()}


class Rounded(ToyPotential):
    def forward(self, batch):
        return {name: value.to(self.depth.dtype) for name, value in super().forward(batch).items()}


class Idle(ToyPotential):
    def __init__(self, elements):
        super().__init__(elements)
        self.spare = torch.nn.Parameter(torch.ones(1))


class Misshapen(ToyPotential):
    def forward(self, batch):
        return {name: value.unsqueeze(-1) for name, value in super().forward(batch).items()}


class ChiralWhenPerturbed(Chiral):
    def __init__(self, elements):
        super().__init__(elements)
        self.gate = torch.nn.Parameter(torch.zeros(()))

    def term(self, batch, vector):
        return self.gate * super().term(batch, vector)


class Nothing(Wrong):
    """Is no number for an atom without neighbours."""

    def term(self, batch, vector):
        degree = torch.bincount(batch.edge_index[1], minlength=batch.num_nodes).double()
        return 0.0 / degree


NETS = [
    (lambda: elements(Misshapen), "outputs_are_fields"),
    (lambda: Forgetful(["H", "O"], strength=2.0), "config_round_trip"),
    (lambda: elements(Crowded), "batching_equals_a_loop"),
    (lambda: elements(Leaky), "no_leakage_between_structures"),
    (lambda: elements(Rounded), "dtype"),
    (lambda: elements(Anisotropic), "symmetries_when_fresh"),
    (lambda: elements(ChiralWhenPerturbed), "symmetries_after_perturbing_every_parameter"),
    (lambda: elements(Idle), "every_parameter_counts"),
    (lambda: elements(Nothing), "isolated_nodes"),
]


@pytest.mark.parametrize(("make", "check"), NETS, ids=[check for _, check in NETS])
def test_net_suite_notices(make, check):
    class Suite(NetTests):
        def make_net(self):
            return make()

        def structures(self):
            return structures()

    with pytest.raises((AssertionError, DataError)):
        getattr(Suite(), f"test_{check}")()
