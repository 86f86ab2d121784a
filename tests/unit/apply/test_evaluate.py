"""Errors on labelled structures. Budget: 3 s."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.stress import full_3x3_to_voigt_6_stress

from geomlib.apply.ase import Calculator
from geomlib.apply.evaluate import evaluate
from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData
from geomlib.data.stores import MemoryStore, Store
from geomlib.errors import DataError
from geomlib.testing import ToyPotential

LABELS = ("energy", "forces", "stress")


class Rows(Store):
    """Graphs that need not have the same fields, as rows of a file."""

    def __init__(self, graphs: list[GraphData]) -> None:
        self.graphs, self.fields = graphs, ("pos",)

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, index: int) -> GraphData:
        graph = self.graphs[index]
        if graph is None:
            raise DataError("broken row")
        return graph

    def describe(self, index: int) -> str:
        return f"rows, frame {index}"


@pytest.fixture
def calculator() -> Calculator:
    return Calculator(ToyPotential(["H", "O", "Cu"]))


def labelled(calculator: Calculator, atoms: Atoms, energy: float = 0.0, force: float = 0.0, stress: float = 0.0):
    """The structure with the model's own labels, off by the given amounts."""
    (results,) = calculator.evaluate([atoms])
    graph = from_atoms(atoms)
    graph.energy = torch.tensor([results["energy"] + energy], dtype=torch.float64)
    forces = results["forces"].copy()
    forces[0, 0] += force
    graph.forces = torch.from_numpy(forces)
    if "stress" in results:
        full = np.array(results["stress"])[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(1, 3, 3)
        graph.stress = torch.from_numpy(full + stress * np.eye(3))
    return graph


def structures() -> list[Atoms]:
    box = molecule("H2O")
    box.set_cell([4, 4.2, 4.4])
    box.pbc = True
    frames = [molecule("H2O"), box, bulk("Cu", cubic=True)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


def test_a_perfect_model_has_no_errors(calculator):
    store = Rows([labelled(calculator, atoms) for atoms in structures()])
    result = evaluate(calculator, store)
    assert result.structures == 3 and result.skipped == []
    assert set(result.errors) == set(LABELS)
    assert all(row.mae < 1e-9 and row.rmse < 1e-9 for row in result.errors.values())
    assert {name: row.unit for name, row in result.errors.items()} == {
        "energy": "meV/atom",
        "forces": "meV/Å",
        "stress": "GPa",
    }
    assert {name: row.count for name, row in result.errors.items()} == {"energy": 3, "forces": 30, "stress": 18}
    assert {name: row.count for name, row in result.forces_by_element.items()} == {"H": 12, "O": 6, "Cu": 12}


def test_errors_by_hand(calculator):
    water, box, _ = structures()
    store = Rows([
        labelled(calculator, water, energy=0.3, force=0.6),
        labelled(calculator, box, energy=-0.6, stress=0.01),
    ])  # fmt: skip
    result = evaluate(calculator, store)
    energy, forces, stress = (result.errors[name] for name in LABELS)
    assert energy.mae == pytest.approx(150.0) and energy.rmse == pytest.approx(np.sqrt((100**2 + 200**2) / 2))
    assert forces.mae == pytest.approx(600 / 18) and forces.rmse == pytest.approx(600 / np.sqrt(18))
    assert stress.mae == pytest.approx(0.01 * 160.21766208 * 3 / 9)
    oxygen = result.forces_by_element["O"]
    assert oxygen.mae == pytest.approx(100.0) and result.forces_by_element["H"].mae == pytest.approx(0, abs=1e-9)
    labels = np.concatenate([graph.forces.numpy().ravel() for graph in store.graphs])
    assert forces.spread == pytest.approx(1e3 * labels.std())


def test_a_virial_serves_as_stress(calculator):
    graph = labelled(calculator, structures()[2], stress=0.02)
    volume = abs(float(torch.linalg.det(graph.cell[0])))
    with_virial = graph.clone()
    with_virial.virial = -graph.stress * volume
    del with_virial["stress"]
    first, second = (evaluate(calculator, Rows([each])).errors["stress"] for each in (graph, with_virial))
    assert first.mae == pytest.approx(second.mae)


def test_bad_rows_are_listed_and_skipped(calculator):
    good = [labelled(calculator, atoms) for atoms in structures()]
    nan_energy, nan_force, nan_place = (good[0].clone() for _ in range(3))
    nan_energy.energy = torch.tensor([np.inf], dtype=torch.float64)
    nan_force.forces[1, 2] = torch.nan
    nan_place.pos[2, 0] = torch.nan
    alien = from_atoms(molecule("CH4"))
    alien.energy, alien.forces = torch.zeros(1, dtype=torch.float64), torch.zeros(5, 3, dtype=torch.float64)
    close = from_atoms(Atoms("H2", [[0, 0, 0], [0, 0, 0]]))
    close.energy, close.forces = torch.zeros(1, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    store = Rows([good[0], nan_energy, nan_force, nan_place, alien, None, good[1], close, good[2]])
    result = evaluate(calculator, store)
    assert result.structures == 3
    reasons = dict(result.skipped)
    assert set(reasons) == {f"rows, frame {k}" for k in (1, 2, 3, 4, 5, 7)}
    assert "'energy' is NaN or infinite" in reasons["rows, frame 1"]
    assert "'forces' is NaN or infinite at atom 1" in reasons["rows, frame 2"]
    assert "position of atom 2 (H)" in reasons["rows, frame 3"]
    assert "contains C" in reasons["rows, frame 4"]
    assert reasons["rows, frame 5"] == "broken row"
    assert "not finite" in reasons["rows, frame 7"]
    clean = evaluate(calculator, Rows(good))
    assert clean.errors == result.errors


def test_labels_may_be_missing_in_places(calculator):
    """A row without stress, which a store gives as NaN, takes no part in the errors of the stress."""
    graphs = [labelled(calculator, atoms) for atoms in structures()[1:]]
    graphs[0].stress = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    result = evaluate(calculator, MemoryStore(graphs, "rows", ("stress",)))
    assert result.errors["stress"].count == 9 and result.structures == 2


@pytest.mark.parametrize("max_atoms", [1, 4, 1000])
def test_batches_do_not_matter(calculator, max_atoms):
    store = Rows([labelled(calculator, atoms, energy=0.1, force=0.2) for atoms in structures()])
    result, expected = evaluate(calculator, store, max_atoms), evaluate(calculator, store)
    for name in LABELS:
        assert result.errors[name].mae == pytest.approx(expected.errors[name].mae, abs=1e-9)


def test_predictions_beside_labels(calculator, tmp_path):
    frames = structures()
    store = Rows([labelled(calculator, atoms, energy=0.1) for atoms in frames])
    seen = []
    evaluate(calculator, store, output=tmp_path / "out.extxyz", progress=lambda *values: seen.append(values))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    written = read(tmp_path / "out.extxyz", index=":")
    for atoms, frame, graph in zip(frames, written, store.graphs, strict=True):
        (results,) = calculator.evaluate([atoms])
        assert isinstance(frame.calc, SinglePointCalculator)
        assert frame.get_potential_energy() == pytest.approx(results["energy"], abs=1e-7)
        assert frame.info["reference_energy"] == pytest.approx(float(graph.energy), abs=1e-7)
        assert np.allclose(frame.get_forces(), results["forces"], atol=1e-7)
        assert np.allclose(frame.arrays["reference_forces"], graph.forces.numpy(), atol=1e-7)
        if "stress" in graph:
            assert np.allclose(frame.get_stress(), results["stress"], atol=1e-7)
            reference = full_3x3_to_voigt_6_stress(np.array(frame.info["reference_stress"]))
            assert np.allclose(reference, full_3x3_to_voigt_6_stress(graph.stress[0].numpy()), atol=1e-7)


def test_nothing_to_compare(calculator):
    with pytest.raises(DataError, match="no energy, forces, stress or virial to compare with"):
        evaluate(calculator, Rows([from_atoms(molecule("H2O"))]))
    with pytest.raises(DataError, match=r"none of 1 structures could be used; the first: rows, frame 0: .*contains C"):
        evaluate(calculator, Rows([from_atoms(molecule("CH4"))]))
