"""ASE both ways. Budget: 5 s."""

import io

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.geometry import cellpar_to_cell

from geomlib.data.atoms import from_atoms, to_atoms
from geomlib.errors import DataError, UnitError, UnknownField

STRUCTURES = {
    "molecule without a cell": ase.build.molecule("C2H6"),
    "zero cell vectors": Atoms("He2", [[0, 0, 0], [0, 0, 3]], cell=np.zeros((3, 3)), pbc=False),
    "slab": ase.build.fcc111("Cu", (1, 1, 3), vacuum=None, periodic=False),
    "slab with one zero vector": Atoms("Cu", cell=[[2, 0, 0], [0, 2, 0], [0, 0, 0]], pbc=(True, True, False)),
    "left-handed": Atoms("NaCl", [[0, 0, 0], [1, 1, 1]], cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True),
    "skewed": Atoms("H", cell=cellpar_to_cell([2, 3, 4, 50, 60, 75]), pbc=True),
    "outside the cell": Atoms("H2", [[-5, 0.5, 12], [9, 9, 9]], cell=[2, 2, 2], pbc=True),
    "single atom": Atoms("U"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_round_trip_changes_nothing(name):
    atoms = STRUCTURES[name]
    before = atoms.copy()
    graph = from_atoms(atoms).validate(("pos", "atomic_number", "cell", "pbc"))
    assert graph.pos.dtype == graph.cell.dtype == torch.float64
    back = to_atoms(graph)
    for one in (atoms, back):
        assert np.array_equal(one.positions, before.positions)
        assert np.array_equal(one.cell.array, before.cell.array)
        assert np.array_equal(one.pbc, before.pbc)
        assert np.array_equal(one.numbers, before.numbers)


def test_the_graph_is_a_copy():
    atoms = ase.build.bulk("Cu")
    graph = from_atoms(atoms)
    atoms.positions += 1
    atoms.cell *= 2
    assert graph.pos.abs().max() == 0
    assert graph.cell.abs().max() < 2


def labelled():
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.calc = SinglePointCalculator(
        atoms, energy=-3.0, forces=np.arange(12.0).reshape(4, 3), stress=[1, 2, 3, 4, 5, 6], energies=np.arange(4.0)
    )
    return atoms


def test_labels_from_a_calculator_and_back():
    graph = from_atoms(labelled(), ("energy", "forces", "stress", "atom_energy"))
    assert graph.energy.tolist() == [-3.0]
    assert graph.energy.dtype == torch.float64
    assert graph.stress.tolist() == [[[1, 6, 5], [6, 2, 4], [5, 4, 3]]]
    assert graph.atom_energy.tolist() == [0, 1, 2, 3]
    back = to_atoms(graph)
    assert back.get_potential_energy() == -3.0
    assert back.get_stress().tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(back.get_forces(), labelled().get_forces())
    again = from_atoms(back, ("energy", "forces", "stress", "atom_energy"))
    assert all(torch.equal(graph[name], again[name]) for name in graph.keys())  # noqa: SIM118


def test_labels_survive_ases_extxyz():
    file = io.StringIO()
    ase.io.write(file, labelled(), format="extxyz")
    file.seek(0)
    graph = from_atoms(ase.io.read(file, format="extxyz"), ("energy", "forces", "stress"))
    assert graph.energy.tolist() == [-3.0]
    assert graph.forces[3].tolist() == [9, 10, 11]
    assert graph.stress[0, 0].tolist() == [1, 6, 5]


def test_keys_units_and_full_stress():
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.info["E0"], atoms.info["S"] = 1.0, np.diag([1.0, 2.0, 3.0])
    atoms.arrays["F"] = np.ones((4, 3))
    graph = from_atoms(
        atoms,
        ("energy", "forces", "stress"),
        keys={"energy": "E0", "forces": "F", "stress": "S"},
        units={"energy": "Hartree", "forces": "Hartree/Bohr", "stress": "GPa"},
    )
    assert graph.energy.item() == pytest.approx(27.211386245988)
    assert graph.forces[0, 0].item() == pytest.approx(51.42206747)
    assert graph.stress[0, 2, 2].item() == pytest.approx(3 / 160.21766208)
    assert from_atoms(atoms, units={"pos": "nm"}).cell[0, 0, 0].item() == pytest.approx(36.1)


def test_wrong_dimension():
    with pytest.raises(UnitError, match="can't be converted"):
        from_atoms(labelled(), ("energy",), units={"energy": "eV/Å"})


def test_missing_label_says_where_and_what_there_is():
    atoms = ase.build.molecule("H2O")
    atoms.info["dft_energy"] = 1.0
    with pytest.raises(DataError, match=r"set\.xyz, frame 7: no label 'energy' .* keys there are \['dft_energy'\]"):
        from_atoms(atoms, ("energy",), where="set.xyz, frame 7")
    graph = from_atoms(atoms, ("energy", "forces", "stress"), partial=("energy", "forces", "stress"))
    assert graph.energy.isnan().all()
    assert graph.forces.shape == (3, 3)
    assert graph.stress.shape == (1, 3, 3)


def test_unknown_field():
    with pytest.raises(UnknownField, match="did you mean 'forces'"):
        from_atoms(ase.build.molecule("H2O"), ("force",))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_labels_that_are_not_finite(bad):
    atoms = labelled()
    atoms.calc.results["forces"][2, 1] = bad
    with pytest.raises(DataError, match="frame 3: 'forces' is NaN or infinite at atom 2"):
        from_atoms(atoms, ("forces",), where="frame 3")
    from_atoms(atoms, ("forces",), partial=("forces",))
    atoms.positions[0, 0] = bad
    with pytest.raises(DataError, match="'pos' is NaN"):
        from_atoms(atoms)


def test_wrong_shapes_and_kinds():
    atoms = ase.build.molecule("H2O")
    atoms.info["forces"] = np.zeros(4)
    atoms.info["energy"] = "much"
    with pytest.raises(DataError, match=r"'forces' has shape \[4\], expected \[3, 3\]"):
        from_atoms(atoms, ("forces",))
    with pytest.raises(DataError, match="'energy' is not a number"):
        from_atoms(atoms, ("energy",))


def test_charge_and_spin():
    atoms = ase.build.molecule("H2O")
    assert "charge" not in from_atoms(atoms)
    atoms.info.update(charge=-1, spin=2.0)
    graph = from_atoms(atoms)
    assert (graph.charge.tolist(), graph.spin_multiplicity.tolist()) == ([-1], [2])
    assert graph.charge.dtype == torch.int64
    assert to_atoms(graph).info == {"charge": -1, "spin": 2}
    atoms.info["charge"] = 0.5
    with pytest.raises(DataError, match=r"'charge' is 0\.5; charge must be one whole number"):
        from_atoms(atoms)


def test_hessian():
    atoms = ase.build.molecule("H2O")
    flat = np.arange(81.0).reshape(9, 9)
    atoms.info["hessian"] = flat
    graph = from_atoms(atoms, ("hessian",))
    assert graph.hessian.shape == (3, 3, 3, 3)
    assert graph.hessian[1, 2, 0, 1].item() == flat[3 * 1 + 0, 3 * 2 + 1]


def test_no_atoms_and_dummies():
    with pytest.raises(DataError, match="there are no atoms"):
        from_atoms(Atoms())
    with pytest.raises(DataError, match="atom 1 has the atomic number 0"):
        from_atoms(Atoms("HX"))


def test_batch_is_refused(store):
    with pytest.raises(DataError, match="batch of 2"):
        to_atoms(store.batch([0, 1]))
