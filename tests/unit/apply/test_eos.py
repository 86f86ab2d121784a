"""Equations of state. Budget: 3 s."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.eos import birchmurnaghan

from geomlib.apply.ase import Calculator
from geomlib.apply.eos import equation_of_state, plot
from geomlib.errors import ConfigError, DataError
from geomlib.testing import ToyPotential


class Curve(EMT):
    """A material that obeys Birch and Murnaghan."""

    def calculate(self, atoms=None, *args):
        super().calculate(atoms, *args)
        energy = birchmurnaghan(atoms.get_volume(), -7.0, 130 * units.GPa, 4.7, 46.0)
        self.results["energy"] = self.results["free_energy"] = energy


def test_finds_the_curve_that_is_there():
    atoms = bulk("Cu", cubic=True, a=3.6)
    state = equation_of_state(atoms, Curve(), points=9)
    assert state.volume == pytest.approx(46.0, rel=1e-6)
    assert state.energy == pytest.approx(-7.0, abs=1e-9)
    assert state.bulk_modulus == pytest.approx(130.0, rel=1e-5)
    assert state.bulk_modulus_derivative == pytest.approx(4.7, rel=1e-3)
    assert state.residual < 1e-6
    assert state.scale == pytest.approx((46.0 / 3.6**3) ** (1 / 3))
    assert np.allclose(state.curve(state.volumes), state.energies)
    assert len(state.volumes) == 9 and state.atoms == 4


def test_copper():
    """The numbers known for EMT: 3.590 Å and 134 GPa."""
    state = equation_of_state(bulk("Cu", a=3.6), EMT())
    assert (4 * state.volume) ** (1 / 3) == pytest.approx(3.5898, abs=1e-3)
    assert state.bulk_modulus == pytest.approx(134.0, abs=1.5)


def test_batched_energies_are_the_same_and_the_structure_stays():
    atoms = bulk("Cu", a=3.42)
    before = atoms.copy()
    calculator = Calculator(ToyPotential(["Cu"]))
    state = equation_of_state(atoms, calculator, points=5)
    singles = []
    for volume in state.volumes:
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
        scaled.calc = calculator
        singles.append(scaled.get_potential_energy())
    assert np.allclose(state.energies, singles, atol=1e-10)
    assert atoms == before and atoms.calc is None


def test_relaxed_atoms_have_lower_energies():
    atoms = bulk("Cu", cubic=True, a=3.6)
    atoms.positions[1] += [0.1, 0.05, 0]
    seen = []
    held = equation_of_state(atoms, EMT(), points=5)
    loose = equation_of_state(
        atoms, EMT(), points=5, relax_positions=True, progress=lambda done, total: seen.append((done, total))
    )
    assert (loose.energies < held.energies).all()
    assert seen == [(k, 5) for k in range(1, 6)]


def test_no_minimum_within_reach():
    with pytest.raises(DataError, match=r"lowest at the end of the volumes.*geomlib relax --cell full.*--strain"):
        equation_of_state(bulk("Cu", a=4.2), EMT())


def test_what_has_no_volume():
    with pytest.raises(DataError, match="needs three periodic directions"):
        equation_of_state(molecule("H2O"), EMT())
    with pytest.raises(DataError, match="needs three periodic directions"):
        equation_of_state(Atoms("Cu", cell=[3, 3, 3], pbc=[1, 1, 0]), EMT())


@pytest.mark.parametrize("options", [{"points": 4}, {"strain": 0.0}, {"strain": 0.6}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match="at least 5 points"):
        equation_of_state(bulk("Cu"), EMT(), **options)


def test_plot(tmp_path):
    state = equation_of_state(bulk("Cu", a=3.6), EMT(), points=5)
    path = plot(state, tmp_path / "eos.svg", "Cu")
    text = path.read_text()
    assert text.startswith("<?xml") and len(text) > 5000
