"""Model deviation against the formulas written out. Budget: 5 s."""

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

import geomlib
import geomlib.models
from geomlib.apply.ase import Calculator
from geomlib.apply.committee import DEVIATION_COLUMNS, model_deviation
from geomlib.errors import ConfigError
from geomlib.files.committee import write_committee
from geomlib.testing import ToyPotential
from geomlib.testing.nets import perturb_parameters


def nets(count=4, elements=("Cu", "H", "O")):
    found = [ToyPotential(list(elements), precision="float64") for _ in range(count)]
    for seed, net in enumerate(found):
        perturb_parameters(net, seed=seed)
    return found


def crystal():
    atoms = bulk("Cu", a=3.5, cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def water():
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize("atoms", [crystal(), water()], ids=["crystal", "molecule"])
def test_definitions(atoms):
    members = nets()
    singles = []
    for net in members:
        calculator = Calculator(net)
        (found,) = calculator.evaluate([atoms])
        batch = calculator.spec.complete(calculator.spec.build(calculator._graph(atoms)))
        singles.append((found["energy"], found["forces"], calculator.nets[0](batch)["virial"][0].numpy()))
    energies, forces, virials = (np.stack(rows) for rows in zip(*singles, strict=True))
    count, size = len(members), len(atoms)
    # written out, without numpy's std
    mean_force = sum(forces) / count
    f = np.sqrt(sum(((row - mean_force) ** 2).sum(1) for row in forces) / count)
    mean_virial = sum(virials) / count
    v = np.sqrt(sum((row - mean_virial) ** 2 for row in virials) / count) / size
    e = np.sqrt(sum((row - sum(energies) / count) ** 2 for row in energies) / count) / size
    assert f.min() > 1e-3 and e > 1e-4

    (results,) = Calculator(members).evaluate([atoms])
    found = model_deviation(results)
    assert np.allclose(found.forces, f, rtol=1e-10)
    assert np.allclose(found.virial, v, rtol=1e-9, atol=1e-13)
    assert found.energy == pytest.approx(e, rel=1e-9)
    wanted = [v.max(), v.min(), np.sqrt((v**2).sum() / 9), f.max(), f.min(), f.sum() / size, e]
    assert tuple(found.columns()) == DEVIATION_COLUMNS
    assert np.allclose(list(found.columns().values()), wanted, rtol=1e-9, atol=1e-13)

    relative = model_deviation(results, relative=0.3, relative_virial=0.7)
    assert np.allclose(relative.forces, f / (np.sqrt((mean_force**2).sum(1)) + 0.3), rtol=1e-9)
    norm = np.sqrt((mean_virial**2).sum()) / size
    assert np.allclose(relative.virial, v / (norm + 0.7), rtol=1e-9, atol=1e-13)
    assert relative.energy == found.energy


def test_equal_members_agree_exactly():
    (net,) = nets(1)
    (results,) = Calculator([net, net, net]).evaluate([crystal()])
    columns = model_deviation(results).columns()
    assert set(columns.values()) == {0.0}


def test_rotation_changes_components_but_no_atom():
    committee = Calculator(nets())
    atoms = water()
    turned = atoms.copy()
    rotation = Rotation.from_euler("xyz", [40, 70, 110], degrees=True).as_matrix()
    turned.positions = atoms.positions @ rotation.T
    first, second = committee.evaluate([atoms, turned])
    assert not np.allclose(first["forces_std"], second["forces_std"], atol=1e-2)
    assert np.allclose(model_deviation(first).forces, model_deviation(second).forces, rtol=1e-9)


def test_one_graph_for_all_members():
    committee = Calculator(nets())
    atoms = water()
    atoms.calc = committee
    for _ in range(3):
        atoms.rattle(0.001, seed=0)
        atoms.get_forces()
        assert committee.get_property("virial_std", atoms).shape == (3, 3)
    assert committee.neighbors is not None and committee.neighbors.builds == 1


def test_one_model_has_no_deviation():
    (results,) = Calculator(nets(1)[0]).evaluate([water()])
    with pytest.raises(ConfigError, match="takes a committee of two or more"):
        model_deviation(results)
    (results,) = Calculator(nets(2)).evaluate([water()])
    with pytest.raises(ConfigError, match=r"relative is 0; expected a positive level"):
        model_deviation(results, relative=0)


def test_members_without_a_common_element():
    with pytest.raises(ConfigError, match="know some element together, but they know model 0: H; model 1: O"):
        Calculator([ToyPotential(["H"]), ToyPotential(["O"])])


def test_a_file_of_a_committee_is_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    files = [geomlib.save(net, tmp_path / f"{k}.safetensors") for k, net in enumerate(nets(2))]
    committee = write_committee(tmp_path / "committee.json", files)
    (from_file,) = Calculator(committee).evaluate([water()])
    (from_files,) = Calculator([str(file) for file in files]).evaluate([water()])
    assert from_file["energy"] == from_files["energy"] and from_file["energy_std"] > 0
    (three,) = Calculator([committee, files[0]]).evaluate([water()])
    assert three["energy"] == pytest.approx((2 * from_file["energy"] + single_energy(files[0])) / 3)
    with pytest.raises(ConfigError, match=r"5\.safetensors has .*0\.safetensors"):
        other = geomlib.save(ToyPotential(["Cu", "H", "O"], cutoff=4.0), tmp_path / "5.safetensors")
        Calculator([*files, other])
    assert json.loads(committee.read_text())["members"] == ["0.safetensors", "1.safetensors"]


def single_energy(file) -> float:
    (results,) = Calculator(file).evaluate([water()])
    return results["energy"]
