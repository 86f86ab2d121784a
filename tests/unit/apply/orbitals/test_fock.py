"""What follows from a predicted matrix, beside PySCF's own SCF, and what is refused."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

import geomlib
from geomlib.cli import main
from geomlib.errors import ConfigError, DataError, GeomlibWarning, MissingExtra, UnknownElement
from geomlib.models import DPA3, SPHNet

SMALL = {"basis": "sto-3g", "channels": 4, "bottleneck": 2, "functions": 4, "heads": 2, "vector_functions": 4}


def test_missing_pyscf_is_one_line(monkeypatch):
    from geomlib.apply.orbitals import FockPredictor

    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(MissingExtra, match=r"needs the package 'pyscf': pip install 'geomlib\[dft\]'"):
        FockPredictor(SPHNet(["H", "O"], short_layers=1, **SMALL))


def test_surface_of_a_ball():
    from geomlib.apply.orbitals.shape import isosurface

    axis = np.arange(-10, 11.0)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    triangles = isosurface(-np.linalg.norm(grid, axis=-1), -7.0) - 10.0
    assert np.allclose(np.linalg.norm(triangles, axis=2), 7.0, atol=0.06)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert 0.5 * np.linalg.norm(normals, axis=1).sum() == pytest.approx(4 * np.pi * 49, rel=0.01)
    assert ((normals * triangles.mean(1)).sum(1) >= 0).all()
    # closed: every edge belongs to two triangles
    ends = np.round(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 6)
    edges = {}
    for a, b in ends:
        if not np.array_equal(a, b):
            key = tuple(sorted([tuple(a), tuple(b)]))
            edges[key] = edges.get(key, 0) + 1
    assert all(count % 2 == 0 for count in edges.values())
    assert isosurface(np.zeros((3, 3, 3)), 1.0).shape == (0, 3, 3)


class TestBesidePySCF:
    """All that needs PySCF."""

    @pytest.fixture(autouse=True)
    def pyscf(self):
        return pytest.importorskip("pyscf", reason="needs geomlib[dft]")

    @pytest.fixture
    def exact(self, monkeypatch):
        """A predictor whose net is exact, and the SCF of water it should give."""
        from geomlib.apply.orbitals.fock import FockPredictor, mean_field

        predictor = FockPredictor(SPHNet(["H", "O"], short_layers=1, **SMALL).double())
        water = predictor.molecule(molecule("H2O"))
        field = mean_field(water, predictor.functional)
        field.conv_tol = 1e-12
        field.kernel()
        monkeypatch.setattr(predictor, "fock", lambda mol, initial=None: np.asarray(field.get_fock()))
        return predictor, water, field

    def test_orbitals_charges_dipole_energy(self, exact):
        predictor, water, field = exact
        report = predictor.report(water)
        assert np.allclose(report.energies, field.mo_energy, atol=1e-8)
        assert report.occupied == 5
        assert np.allclose(report.density, field.make_rdm1(), atol=1e-6)
        assert np.allclose(report.charges, field.mulliken_pop(verbose=0)[1], atol=1e-6)
        dipole = field.dip_moment(unit="AU", verbose=0) * 0.529177210903
        assert np.allclose(report.dipole, dipole, atol=1e-6)
        assert predictor.total_energy(water) == pytest.approx(field.e_tot, abs=1e-8)
        energies, states = report.density_of_states(points=2000)
        shown = report.energies[(27.2114 * report.energies > -40) & (np.arange(7) <= 5)]
        assert np.trapezoid(states, energies) == pytest.approx(2 * len(shown), rel=0.35)

    def test_an_scf_from_the_exact_matrix_is_done_at_once(self, exact):
        from geomlib.apply.orbitals.fock import initial_guess, mean_field

        predictor, water, field = exact
        again = mean_field(water, predictor.functional)
        energy = again.kernel(dm0=initial_guess(predictor, water))
        assert energy == pytest.approx(field.e_tot, abs=1e-9)
        assert again.cycles < field.cycles

    def test_a_good_prediction_is_taken(self, exact):
        from geomlib.apply.orbitals.fock import choose_guess

        predictor, water, field = exact
        guess = choose_guess(predictor, water)
        assert guess.taken == "prediction" and 0.93 < guess.shared < 1.0
        assert np.allclose(guess.density, field.make_rdm1(), atol=1e-6)

    def test_a_wrongly_occupied_orbital_gives_way_to_the_initial_density(self, exact, monkeypatch):
        """The prediction is exact but for the HOMO, which it puts above the LUMO."""
        from geomlib.apply.orbitals.fock import choose_guess, initial_guess, mean_field

        predictor, water, field = exact
        raised = water.intor_symmetric("int1e_ovlp") @ field.mo_coeff[:, 4]
        false = np.asarray(field.get_fock()) + 2.0 * np.outer(raised, raised)
        monkeypatch.setattr(predictor, "fock", lambda mol, initial=None: false)
        with pytest.warns(GeomlibWarning, match="only 0 % lie in the occupied space of the initial matrix"):
            density = initial_guess(predictor, water)
        minao = mean_field(water, predictor.functional).get_init_guess(key="minao")
        assert np.allclose(density, minao)
        unguarded = initial_guess(predictor, water, guard=False)
        assert np.allclose(unguarded, predictor.report(water).density) and not np.allclose(unguarded, minao, atol=0.1)
        assert predictor.total_energy(water) > field.e_tot + 0.3  # Hartree
        assert choose_guess(predictor, water).taken == "minao"

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_a_net_of_random_weights_gives_way(self, seed, monkeypatch):
        """Its change of the initial matrix is brought to 1 Hartree, so that it does not matter how a net begins."""
        from geomlib.apply.orbitals import FockPredictor, choose_guess

        torch.manual_seed(seed)
        predictor = FockPredictor(SPHNet(["H", "O"], short_layers=1, **{**SMALL, "basis": "def2-svp"}).double())
        water = predictor.molecule(molecule("H2O"))
        initial = predictor.initial_fock(water)
        change = predictor.fock(water) - initial
        bad = initial + change / np.sqrt(np.mean(change**2))
        monkeypatch.setattr(predictor, "fock", lambda mol, initial=None: bad)
        guess = choose_guess(predictor, water)
        assert guess.taken == "minao" and guess.shared < 0.2

    def test_a_matrix_that_is_not_finite_is_refused(self):
        from geomlib.apply.orbitals import FockPredictor, initial_guess

        net = SPHNet(["H", "O"], short_layers=1, **SMALL).double()
        for parameter in net.diagonal_blocks.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
        predictor = FockPredictor(net)
        with pytest.raises(DataError, match="numbers that are not finite"):
            initial_guess(predictor, predictor.molecule(molecule("H2O")))

    @pytest.mark.parametrize("delta", [True, False])
    def test_the_guard_builds_no_matrix_that_the_prediction_does_not_need(self, delta, monkeypatch):
        from pyscf.dft.rks import RKS

        from geomlib.apply.orbitals import FockPredictor, choose_guess, initial_guess

        built = []
        build = RKS.get_veff
        monkeypatch.setattr(RKS, "get_veff", lambda *args, **kwargs: built.append(1) or build(*args, **kwargs))
        predictor = FockPredictor(SPHNet(["H", "O"], short_layers=1, delta=delta, **SMALL).double())
        water = predictor.molecule(molecule("H2O"))
        initial_guess(predictor, water, guard=False)
        assert len(built) == delta
        built.clear()
        choose_guess(predictor, water)
        assert len(built) == 1

    def test_delta_is_added_to_the_initial_matrix(self):
        from geomlib.apply.orbitals import FockPredictor

        net = SPHNet(["H", "O"], short_layers=1, **SMALL).double()
        for parameter in (*net.diagonal_blocks.parameters(), *net.pair_blocks.parameters()):
            torch.nn.init.zeros_(parameter)
        predictor = FockPredictor(net)
        water = predictor.molecule(molecule("H2O"))
        assert np.allclose(predictor.fock(water), predictor.initial_fock(water), atol=1e-12)

    def test_ase_gets_the_energy_of_one_matrix(self, exact):
        from geomlib.apply.orbitals.ase import HamiltonianCalculator

        predictor, _, field = exact
        atoms = molecule("H2O")
        atoms.calc = HamiltonianCalculator(predictor)
        assert atoms.get_potential_energy() == pytest.approx(27.211386245981 * field.e_tot, abs=1e-6)
        assert np.allclose(
            atoms.get_dipole_moment(), 0.529177210903 * field.dip_moment(unit="AU", verbose=0), atol=1e-6
        )
        assert np.allclose(atoms.get_charges(), field.mulliken_pop(verbose=0)[1], atol=1e-6)
        values = atoms.calc.results
        assert values["gap"] == pytest.approx(27.211386245981 * (field.mo_energy[5] - field.mo_energy[4]), abs=1e-6)
        assert values["gap"] == pytest.approx(values["lumo"] - values["homo"])
        with pytest.raises(NotImplementedError):
            atoms.get_forces()
        before = atoms.calc.results
        atoms.get_potential_energy()
        assert atoms.calc.results is before  # nothing changed, nothing is done
        atoms.info["charge"] = 1
        with pytest.raises(DataError, match="9 electrons"):
            atoms.get_potential_energy()

    def test_energy_of_a_wrong_matrix_is_above(self, exact, monkeypatch):
        predictor, water, field = exact
        wrong = np.asarray(field.get_fock()) + 0.02 * np.diag(np.arange(7.0) % 2)
        monkeypatch.setattr(predictor, "fock", lambda mol, initial=None: wrong)
        assert field.e_tot + 1e-6 < predictor.total_energy(water) < field.e_tot + 1e-2

    def test_molecules_of_pyscf_that_are_refused(self, pyscf):
        from geomlib.apply.orbitals import FockPredictor, initial_guess

        predictor = FockPredictor(SPHNet(["H", "O"], short_layers=1, **SMALL))
        hydrogen, basis = "H 0 0 0; H 0 0 0.7", {"basis": "sto-3g", "verbose": 0}
        for options, error, message in (
            ({"atom": hydrogen, "spin": 2}, DataError, "2 electrons, 2 of them unpaired"),
            ({"atom": "O 0 0 0; H 0 0 1", "spin": 1}, DataError, "9 electrons, 1 of them unpaired"),
            ({"atom": "H 0 0 0; H 0 0 0.01"}, DataError, r"atoms 0 and 1 are 0\.010 Å apart"),
            ({"atom": "He 0 0 0"}, UnknownElement, "the molecule has He; the model knows H, O"),
            ({"atom": hydrogen, "cart": True}, ConfigError, "Cartesian orbitals"),
            ({"atom": hydrogen, "basis": {"H": "sto-3g"}}, ConfigError, "the model knows 'sto-3g'"),
        ):
            with pytest.raises(error, match=message):
                initial_guess(predictor, pyscf.gto.M(**{**basis, **options}))

    @pytest.mark.parametrize(
        ("atoms", "message"),
        [
            (Atoms("OH", [[0, 0, 0], [0, 0, 1]]), "OH|HO.*9 electrons"),
            (Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), "atoms 0 and 1 are 0.010 Å apart"),
            (Atoms("He", [[0, 0, 0]], cell=[5, 5, 5], pbc=True), "is periodic"),
        ],
    )
    def test_molecules_that_are_refused(self, atoms, message):
        from geomlib.apply.orbitals import FockPredictor

        predictor = FockPredictor(SPHNet(["H", "He", "O"], short_layers=1, **SMALL))
        with pytest.raises(DataError, match=message):
            predictor.molecule(atoms)

    def test_other_models_and_basis_sets_are_refused(self, pyscf):
        from geomlib.apply.orbitals import FockPredictor

        with pytest.raises(ConfigError, match="not 'hamiltonian'"):
            FockPredictor(DPA3(["H"], layers=1))
        predictor = FockPredictor(SPHNet(["H", "O"], short_layers=1, **SMALL))
        with pytest.raises(ConfigError, match="has the basis set def2-svp, the model knows 'sto-3g'"):
            predictor.fock(pyscf.gto.M(atom="H 0 0 0; H 0 0 0.7", basis="def2-svp", verbose=0))

    def test_command(self, tmp_path, capfd, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(0)
        file = geomlib.save(SPHNet(["H", "O"], short_layers=1, **SMALL), tmp_path / "model.safetensors")
        write(tmp_path / "water.xyz", molecule("H2O"))
        words = [str(file), str(tmp_path / "water.xyz"), "-o", str(tmp_path / "out"), "--cubes", "--energy", "--json"]
        assert main(["orbitals", *words]) == 0
        values = json.loads(capfd.readouterr().out)
        assert values["orbitals"] == 7
        assert values["gap_eV"] == pytest.approx(values["lumo_eV"] - values["homo_eV"])
        assert sum(values["charges_e"]) == pytest.approx(0.0, abs=1e-9)
        with (tmp_path / "out.csv").open() as rows:
            levels = list(csv.DictReader(rows))
        assert [row["occupation"] for row in levels] == ["2"] * 5 + ["0"] * 2
        assert np.load(tmp_path / "out-fock.npy", allow_pickle=False).shape == (7, 7)
        with (tmp_path / "out-dos.csv").open() as rows:
            states = list(csv.DictReader(rows))
        assert len(states) == 400 and set(states[0]) == {"energy_eV", "states_per_eV"}
        for name in ("out.png", "out-homo.cube", "out-lumo.cube", "out-frontier.png"):
            assert (tmp_path / name).stat().st_size > 1000
        write(tmp_path / "radical.xyz", molecule("OH"))
        assert main(["orbitals", str(file), str(tmp_path / "radical.xyz")]) == 1
        assert "closed shells only" in capfd.readouterr().err
        ion = molecule("OH")
        write(tmp_path / "ion.xyz", ion)
        assert main(["orbitals", str(file), str(tmp_path / "ion.xyz"), "--charge", "-1", "--json"]) == 0
        assert sum(json.loads(capfd.readouterr().out)["charges_e"]) == pytest.approx(-1.0, abs=1e-9)
        write(tmp_path / "other.xyz", molecule("CH4"))
        assert main(["orbitals", str(file), str(tmp_path / "other.xyz")]) == 1
        assert "the molecule has C; the model knows H, O" in capfd.readouterr().err
