"""Phonons. Budget: 10 s."""

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.emt import EMT

from geomlib.apply.ase import Calculator
from geomlib.apply.phonons import default_supercell, phonons, plot
from geomlib.errors import ConfigError, DataError, GeomlibWarning, MissingExtra
from geomlib.testing import ToyPotential


class Chain(AseCalculator):
    """Atoms in a row along x, joined by springs k to the next ones, a distance a apart, and to their places."""

    implemented_properties = ["energy", "forces"]
    k, a, tether = 3.0, 2.0, 0.0

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        count = len(atoms)
        places = self.a * np.arange(count)
        moves = atoms.positions.copy()
        moves[:, 0] -= places
        forces = self.k * (np.roll(moves, 1, axis=0) + np.roll(moves, -1, axis=0) - 2 * moves) - self.tether * moves
        self.results = {"forces": forces, "energy": -0.5 * float((forces * moves).sum())}


def chain() -> Atoms:
    return Atoms("Cu", cell=[2.0, 6, 6], pbc=[True, False, False])


def test_a_chain_of_springs():
    """ω(q) = 2 √(k/m) |sin(qa/2)|, for each of the three directions."""
    result = phonons(chain(), Chain(), supercell=(9, 1, 1), path="GX", points=11, mesh=40)
    top = 2 * np.sqrt(3.0 / 63.546 * units._e / units._amu) * 1e10 / (2 * np.pi) * 1e-12
    expected = top * np.abs(np.sin(np.pi * result.points[:, 0]))
    assert np.allclose(result.frequencies, expected[:, None], atol=1e-4 * top)
    assert [name for _, name in result.labels] == ["Γ", "X"]
    assert np.trapezoid(result.dos, result.dos_frequencies) == pytest.approx(3.0, abs=0.03)
    assert result.largest_force < 1e-12 and result.supercell == (9, 1, 1)
    assert 0 < result.lowest < 0.1 * top


def test_imaginary_modes_are_negative_and_warned_of():
    class Unstable(Chain):
        k = -0.5

    with pytest.warns(GeomlibWarning, match=r"imaginary modes: the lowest frequency is -.* THz .*\(-?0\.[45]"):
        result = phonons(chain(), Unstable(), supercell=(5, 1, 1), path="GX", points=5)
    assert result.lowest < -1 and result.frequencies.min() == pytest.approx(result.lowest, rel=0.1)


def test_structures_that_are_not_relaxed_are_warned_of():
    atoms = bulk("Cu", cubic=True, a=3.59)
    atoms.positions[0] += [0.08, 0, 0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = phonons(atoms, EMT(), supercell=(2, 2, 2), points=5, mesh=2)
    assert result.largest_force > 0.05
    assert any("not relaxed" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("engine", ["ase", "phonopy"])
def test_copper(engine):
    """The numbers known for EMT, 3 × 3 × 3: 5.34, 5.38 and 7.85 THz at X."""
    if engine == "phonopy":
        pytest.importorskip("phonopy")
    seen = []
    result = phonons(
        bulk("Cu", a=3.61),
        EMT(),
        supercell=(3, 3, 3),
        path="GX",
        points=6,
        mesh=5,
        engine=engine,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert np.allclose(result.frequencies[-1], [5.34, 5.38, 7.85], atol=0.04)
    assert np.allclose(result.frequencies[0], 0, atol=0.01)
    total = 7 if engine == "ase" else 2  # symmetry leaves one displacement and the structure itself
    assert seen == [(k, total) for k in range(1, total + 1)]


def test_our_calculator_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", a=3.4195)
    before = atoms.copy()
    result = phonons(atoms, Calculator(ToyPotential(["Cu"])), supercell=(3, 3, 3), points=10, mesh=3)
    assert result.lowest > 0 and result.frequencies.max() > 1
    assert list(tmp_path.iterdir()) == [] and atoms == before


def test_default_supercell():
    assert default_supercell(bulk("Cu", cubic=True, a=3.6)) == (3, 3, 3)
    assert default_supercell(chain()) == (5, 1, 1)
    assert default_supercell(Atoms("H", cell=[12, 4, 0], pbc=[1, 1, 0])) == (1, 3, 1)


def test_what_is_not_periodic_is_refused():
    with pytest.raises(DataError, match="phonons need a periodic structure"):
        phonons(molecule("H2O"), EMT())


def test_options_out_of_range():
    with pytest.raises(ConfigError, match="engine 'phono' is unknown"):
        phonons(chain(), Chain(), engine="phono")
    with pytest.raises(ConfigError, match="displacement is 0"):
        phonons(chain(), Chain(), displacement=0)
    with pytest.raises(DataError, match="path 'GQ' does not exist"):
        phonons(chain(), Chain(), supercell=(2, 1, 1), path="GQ")


def test_a_missing_phonopy_is_explained(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phonopy", None)
    with pytest.raises(MissingExtra, match=r"pip install 'geomlib\[md\]'"):
        phonons(chain(), Chain(), engine="phonopy")


def test_plot(tmp_path):
    result = phonons(chain(), Chain(), supercell=(5, 1, 1), path="GX", points=5)
    text = plot(result, tmp_path / "bands.svg", "chain").read_text()
    assert text.startswith("<?xml") and len(text) > 5000
