"""The calculator beyond its physics (see tests/unit/testing): caching, skin, errors, committees. Budget: 10 s."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

import geomlib
from geomlib.apply.ase import Calculator
from geomlib.apply.budget import Budget, Size
from geomlib.errors import ConfigError, DataError, FileFormatError, UnknownElement
from geomlib.graphs.spec import GraphSpec
from geomlib.models import DPA3
from geomlib.nn.derivative import Derivatives
from geomlib.testing import ToyPotential, perturb_parameters


def tiny_dpa3(**options) -> DPA3:
    settings = {
        "layers": 1,
        "node_dim": 8,
        "edge_dim": 8,
        "angle_dim": 8,
        "fitting_layers": [8],
        "precision": "float64",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DPA3(["H", "O"], **{**settings, **options})


@pytest.fixture
def counted(monkeypatch):
    """Number of evaluations of any net."""
    calls = []
    forward = Derivatives.forward
    monkeypatch.setattr(
        Derivatives, "forward", lambda self, batch: calls.append(batch.num_graphs) or forward(self, batch)
    )
    return calls


@pytest.fixture
def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=0)
    return atoms


def test_is_the_name_on_top():
    assert geomlib.Calculator is Calculator


def test_one_evaluation_gives_everything(counted):
    atoms = bulk("Cu")
    atoms.calc = Calculator(ToyPotential(["Cu"]))
    for _ in range(2):
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
        assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert len(counted) == 1
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=False)
    atoms.get_stress()
    assert len(counted) == 2


def test_charge_and_spin_count_as_changes():
    net = tiny_dpa3(charge_spin_embedding=True)
    atoms = molecule("H2O")
    atoms.calc = Calculator(net)
    with pytest.raises(DataError, match="charge"):
        atoms.get_potential_energy()
    energies = []
    for charge, spin in ((0, 1), (1, 2), (0, 1), (0, 3)):
        atoms.info.update(charge=charge, spin=spin)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[2] and len(set(energies)) == 3
    batched = Calculator(tiny_dpa3(charge_spin_embedding=True, default_charge_spin=[0, 1]))
    plain = molecule("H2O")
    results = batched.evaluate([plain, atoms, plain], max_atoms=100)  # with and without charge, not in one batch
    assert results[0]["energy"] == results[2]["energy"] != results[1]["energy"]


def test_charge_is_no_matter_to_a_net_without():
    atoms = molecule("H2O")
    atoms.info.update(charge=1, spin=2)
    calculator = Calculator(ToyPotential(["H", "O"]))
    first, second = calculator.evaluate([atoms, molecule("H2O")])
    assert first["energy"] == second["energy"]


def test_frame_parameters_come_from_info():
    net = tiny_dpa3(frame_parameters=2)
    atoms = molecule("H2O")
    atoms.calc = Calculator(net)
    with pytest.raises(DataError, match="frame_parameters"):
        atoms.get_potential_energy()
    energies = []
    for value in ([0.0, 1.0], [0.5, 1.0], [0.0, 1.0]):
        atoms.info["frame_parameters"] = np.array(value)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[2] != energies[1]


def test_loads_a_file(tmp_path, water):
    net = tiny_dpa3()
    path = geomlib.save(net, tmp_path / "water.safetensors")
    for model in (path, str(path)):
        water.calc = Calculator(model)
        expected = Calculator(net).evaluate([water])[0]["energy"]
        assert water.get_potential_energy() == expected
    with pytest.raises((FileFormatError, OSError), match=r"missing\.safetensors"):
        Calculator(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("dtype", ["float32", torch.float32])
def test_dtype(water, dtype):
    net = tiny_dpa3()
    exact, rounded = Calculator(net), Calculator(net, dtype=dtype)
    assert next(rounded.nets[0].parameters()).dtype == torch.float32
    assert next(net.parameters()).dtype == torch.float64  # a net that is given is copied
    (a,), (b,) = exact.evaluate([water]), rounded.evaluate([water])
    assert 0 < abs(a["energy"] - b["energy"]) < 1e-3
    assert b["forces"].dtype == np.float64
    with pytest.raises(ConfigError, match="float33"):
        Calculator(net, dtype="float33")
    with pytest.raises(ConfigError, match="device"):
        Calculator(net, device="nowhere")


def test_training_on_does_not_change_the_calculator(water):
    net = ToyPotential(["H", "O"]).train()
    water.calc = Calculator(net)
    before = water.get_potential_energy()
    perturb_parameters(net)
    water.calc.reset()
    assert water.get_potential_energy() == before
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())


def test_unknown_elements_are_named_with_those_of_the_model():
    calculator = Calculator(ToyPotential(["H", "O"]))
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    with pytest.raises(UnknownElement, match=r"C2H6O.* contains C, which .* knows H, O"):
        atoms.get_potential_energy()
    with pytest.raises(UnknownElement, match=r"structure 1 .*contains C"):
        calculator.evaluate([molecule("H2O"), atoms])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_no_numbers_are_named(water, value):
    water.calc = Calculator(ToyPotential(["H", "O"]))
    water.get_potential_energy()
    water.positions[1, 2] = value
    with pytest.raises(DataError, match=r"position of atom 1 \(H\)"):
        water.get_forces()
    with pytest.raises(DataError, match=r"structure 0: the position of atom 1"):
        water.calc.evaluate([water])


def test_no_atoms():
    with pytest.raises(DataError, match="no atoms"):
        Calculator(ToyPotential(["H"])).evaluate([Atoms()])
    assert Calculator(ToyPotential(["H"])).evaluate([]) == []


def test_predictions_that_are_no_numbers_are_refused(water):
    net = ToyPotential(["H", "O"])
    with torch.no_grad():
        net.depth[1] = torch.nan
    water.calc = Calculator(net)
    with pytest.raises(DataError, match="predicts energies or forces that are not finite at atom 0"):
        water.get_potential_energy()


def test_stress_that_does_not_exist_is_explained_without_an_evaluation(water, counted):
    water.calc = Calculator(ToyPotential(["H", "O"]))
    water.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match=r"stress needs a periodic direction.*H2O has pbc \[False"):
        water.get_stress()
    assert len(counted) == 1


def test_nets_without_an_energy_are_refused():
    class Dipoles(ToyPotential):
        outputs = ("dipole",)

    with pytest.raises(ConfigError, match=r"Dipoles predicts .*'energy'"):
        Calculator(Dipoles(["H"]))


# -- skin ------------------------------------------------------------------------------------------------------------


def wander(atoms: Atoms, calculator: Calculator, steps: int, cell: bool) -> list[tuple]:
    rng = np.random.default_rng(0)
    current, results = atoms.copy(), []
    current.calc = calculator
    for step in range(steps):
        current.positions += 0.04 * rng.normal(size=current.positions.shape)
        if cell and step % 3 == 0:
            deformation = np.eye(3) + 0.004 * rng.normal(size=(3, 3))
            current.set_cell(current.cell.array @ deformation, scale_atoms=bool(step % 2))
        stress = current.get_stress() if current.pbc.any() else np.zeros(6)
        results.append((current.get_potential_energy(), current.get_forces(), stress))
    return results


@pytest.mark.parametrize("cell", [False, True], ids=["fixed cell", "moving cell"])
@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)], ids=str)
def test_results_do_not_depend_on_the_skin_in_any_bit(pbc, cell):
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = np.array(pbc, dtype=bool)
    kept, anew = Calculator(ToyPotential(["Cu"]), skin=0.6), Calculator(ToyPotential(["Cu"]), skin=0.0)
    for first, second in zip(wander(atoms, kept, 25, cell), wander(atoms, anew, 25, cell), strict=True):
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a, b)
    assert anew.neighbors.builds == 25
    assert kept.neighbors.builds < 15


def test_list_is_kept_under_translation_and_small_strain_and_renewed_when_needed():
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    calculator = Calculator(ToyPotential(["Cu"]), skin=0.5)
    atoms.calc = calculator
    for expected, change in (
        (1, lambda: None),
        (1, lambda: setattr(atoms, "positions", atoms.positions + 7.0)),
        (1, lambda: atoms.set_cell(atoms.cell * 1.05, scale_atoms=True)),
        (1, lambda: atoms.set_cell(atoms.cell * 0.97, scale_atoms=True)),
        (2, lambda: atoms.set_cell(atoms.cell * 0.85, scale_atoms=True)),
        (3, lambda: atoms.rattle(0.3, seed=1)),
        (4, lambda: atoms.set_pbc([True, True, False])),
        (5, lambda: atoms.pop()),
        (6, lambda: atoms.wrap(center=(0.2, 0.2, 0.2))),
    ):
        change()
        atoms.get_forces()
        assert calculator.neighbors.builds == expected


def test_skin_must_be_a_length():
    with pytest.raises(DataError, match="skin is -1"):
        Calculator(ToyPotential(["Cu"]), skin=-1.0)


def test_max_neighbors_holds_with_a_skin():
    net = tiny_dpa3(max_neighbors=4, max_angle_neighbors=2)
    atoms = molecule("H2O2")
    rng = np.random.default_rng(0)
    kept, anew = Calculator(net, skin=1.0), Calculator(net, skin=0.0)
    for _ in range(5):
        atoms.positions += 0.05 * rng.normal(size=(4, 3))
        energies = []
        for calculator in (kept, anew):
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy())
        assert energies[0] == energies[1]
    assert kept.neighbors.builds < anew.neighbors.builds


def test_nets_without_edges():
    class Ideal(ToyPotential):
        def __init__(self, elements):
            super().__init__(elements)
            self.spec = GraphSpec(())

        def forward(self, batch):
            energy = self.energy_bias[self.types(batch.atomic_number)] + 0 * batch.pos.sum(1)
            return {"energy": energy.sum().view(1), "atom_energy": energy}

    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], calculator=Calculator(Ideal(["H"])))
    assert atoms.get_potential_energy() == pytest.approx(-0.2)


# -- committees ------------------------------------------------------------------------------------------------------


def test_a_committee_gives_mean_and_spread(water):
    nets = [ToyPotential(["H", "O"]) for _ in range(3)]
    for seed, net in enumerate(nets):
        perturb_parameters(net, seed=seed)
    singles = [Calculator(net).evaluate([water])[0] for net in nets]
    committee = Calculator(nets)
    water.calc = committee
    energies = [result["energy"] for result in singles]
    forces = np.stack([result["forces"] for result in singles])
    assert water.get_potential_energy() == pytest.approx(np.mean(energies), rel=1e-12)
    assert committee.results["energy_std"] == pytest.approx(np.std(energies), rel=1e-9)
    assert np.allclose(water.get_forces(), forces.mean(0), atol=1e-12)
    assert np.allclose(committee.get_property("forces_std", water), forces.std(0), atol=1e-12)
    assert "forces_std" not in Calculator(nets[0]).implemented_properties


def test_members_of_a_committee_need_the_same_graph():
    with pytest.raises(ConfigError, match=r"model 1 has .*4\.0.*model 0"):
        Calculator([ToyPotential(["H"]), ToyPotential(["H"], cutoff=4.0)])
    with pytest.raises(ConfigError, match="at least one model"):
        Calculator([])


def test_a_committee_knows_what_all_members_know():
    committee = Calculator([ToyPotential(["H", "O"]), ToyPotential(["O", "Cu"])])
    assert committee.elements == ["O"]
    with pytest.raises(UnknownElement, match="contains H"):
        committee.evaluate([molecule("H2O")])


class _SmallMemory(ToyPotential):
    """Runs out of memory beyond 12 atoms."""

    def forward(self, batch):
        if batch.num_nodes > 12:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return super().forward(batch)


def test_evaluate_by_what_fits(counted):
    structures = [molecule(name) for name in ("H2O", "CH4", "CH3OH", "H2O", "C2H6", "H2O")]
    calculator = Calculator(ToyPotential(["H", "C", "O"]))
    expected = calculator.evaluate(structures, max_atoms=1)
    assert len(counted) == 6
    counted.clear()
    for limit in ("auto", Budget(100, max_edges=60), Budget(100, max_angles=150)):
        for one, other in zip(calculator.evaluate(structures, limit), expected, strict=True):
            assert one["energy"] == pytest.approx(other["energy"], abs=1e-12)
            assert np.allclose(one["forces"], other["forces"], atol=1e-12)
    assert counted[0] == 6 and len(counted) > 5  # all at once where only memory counts
    counted.clear()
    budget = Budget("auto")
    small = Calculator(_SmallMemory(["H", "C", "O"])).evaluate(structures, budget)
    assert max(counted) == 6 and len(counted) > 3
    assert not budget.fits(Size(20), calculator.device)
    for one, other in zip(small, expected, strict=True):
        assert np.allclose(one["forces"], other["forces"], atol=1e-12)
    with pytest.raises(DataError, match=r"structure 1 \(C60, 60 atoms\) does not fit in memory"):
        Calculator(_SmallMemory(["H", "C", "O"])).evaluate([structures[0], molecule("C60")], "auto")
    with pytest.raises(ConfigError, match="max_atoms is 'many'"):
        calculator.evaluate(structures, "many")
