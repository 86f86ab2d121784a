"""Files of Kohn-Sham matrices: what they hold, and what is wrong with bad ones."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from geomlib.data.elements import SYMBOLS
from geomlib.data.hamiltonians import HamiltonianStore, triangle_to_square
from geomlib.data.orbitals import OrbitalLayout, known_basis_sets, shells_of
from geomlib.errors import ConfigError, DataError, FileFormatError, UnknownElement
from geomlib.nn.tensor_product import Irrep, wigner_matrix


def write(path, *, frames=2, drop=(), change=None, basis="sto-3g"):
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        if basis:
            file.attrs["basis"] = basis
        group = file.create_group("000")
        values = {
            "Z": np.array([8, 1, 1], dtype=np.int16),
            "pos": rng.normal(size=(frames, 3, 3)),
            "fock": rng.normal(size=(frames, 28)),
            "fock_init": rng.normal(size=(frames, 28)),
            "overlap": rng.normal(size=(frames, 28)),
        }
        for name, value in {**values, **(change or {})}.items():
            if name not in drop:
                group[name] = value
    return values


def test_frames_are_whole_matrices(tmp_path):
    values = write(tmp_path / "a.h5")
    store = HamiltonianStore(str(tmp_path / "a.h5"))
    assert len(store) == 2
    assert store.sizes.tolist() == [3, 3]
    graph = store[1].validate()
    matrix = graph.hamiltonian.view(7, 7)
    assert torch.equal(matrix, matrix.T)
    assert np.array_equal(matrix.numpy()[np.tril_indices(7)], values["fock"][1])
    assert np.array_equal(graph.overlap.view(7, 7).numpy()[np.tril_indices(7)], values["overlap"][1])
    assert store.describe(1).endswith("a.h5, group 000, frame 1")
    few = HamiltonianStore(str(tmp_path / "a.h5"), fields=["hamiltonian"])
    assert "overlap" not in few[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": ""}, "the attribute 'basis' is missing"),
        ({"drop": ["fock"]}, r"group 000: lacks 'fock'; it has"),
        ({"change": {"Z": np.array([8, 0, 1])}}, "'Z' holds 0…8; expected atomic numbers"),
        ({"change": {"fock": np.zeros((2, 27))}}, r"'fock' has shape \[2, 27\], expected \[2, 28\] for 3 atoms with 7"),
        ({"change": {"pos": np.zeros((2, 4, 3))}}, r"'pos' has shape \[2, 4, 3\], expected \[2, 3, 3\]"),
        ({"change": {"Z": np.array([8, 1, 2])}}, "group 000: 11 electrons make no closed shell"),
        ({"change": {"Z": np.array([8, 1, 55])}}, "group 000: basis set 'sto-3g' has no Cs here"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, options, message):
    write(tmp_path / "a.h5", **options)
    with pytest.raises(FileFormatError, match=message):
        HamiltonianStore(str(tmp_path / "a.h5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fock": np.full((2, 28), np.nan)}, "its hamiltonian holds numbers that are not finite"),
        ({"pos": np.zeros((2, 3, 3))}, "atoms 0 and 1 are 0.000 Å apart"),
        ({"pos": np.full((2, 3, 3), np.inf)}, "its positions are not 3 finite numbers"),
    ],
)
def test_bad_frames_are_named_when_they_are_read(tmp_path, change, message):
    write(tmp_path / "a.h5", change=change)
    store = HamiltonianStore(str(tmp_path / "a.h5"))
    with pytest.raises(DataError, match=f"a.h5, group 000, frame 1: {message}"):
        store[1]


def test_charges_come_with_the_molecules_and_files_go_to_other_processes(tmp_path):
    write(tmp_path / "a.h5", change={"Z": np.array([7, 1, 1])})
    with pytest.raises(FileFormatError, match="9 electrons make no closed shell"):
        HamiltonianStore(str(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["000"].attrs["charge"] = -1
    store = HamiltonianStore(str(tmp_path / "a.h5"))
    assert "charge" in store.fields
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 as a worker of a data loader gets it
    assert again[0].charge.tolist() == [-1]


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileFormatError, match="there is no such file"):
        HamiltonianStore(str(tmp_path / "none.h5"))
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(FileFormatError, match="is no HDF5 file"):
        HamiltonianStore(str(tmp_path / "text.h5"))
    write(tmp_path / "a.h5")
    with pytest.raises(DataError, match="has no field 'forces'"):
        HamiltonianStore(str(tmp_path / "a.h5"), fields=["forces"])
    with pytest.raises(DataError, match="a triangle of 5 entries"):
        triangle_to_square(np.zeros(5), 3)


# -------------------------------------------------------------------- orbitals


@pytest.mark.parametrize("basis", ["sto-3g", "def2-svp", "def2-tzvp", "cc-pvtz"])
def test_blocks_are_lossless_for_every_element(basis):
    elements = ("H", "He", "C", "N", "O", "F", "P", "S", "Cl")
    layout = OrbitalLayout(basis, elements)
    assert basis in known_basis_sets()
    generator = torch.Generator().manual_seed(0)
    for number in (1, 2, 6, 7, 8, 9, 15, 16, 17):
        atoms = torch.tensor([number, 1, 8])
        count = len(layout.orbitals(atoms)[0])
        assert count == sum(2 * degree + 1 for z in atoms.tolist() for degree in shells_of(basis, z))
        matrix = torch.randn(count, count, generator=generator, dtype=torch.float64)
        matrix = matrix + matrix.T
        assert torch.equal(layout.to_matrix(*layout.to_blocks(matrix, atoms), atoms), matrix)
        for slots in layout.slots.values():
            assert len(set(slots.tolist())) == len(slots)
            assert slots.max() < layout.size


def test_layout_of_hydrogen_takes_the_first_shells():
    layout = OrbitalLayout("def2-svp", ("H", "C"))
    assert layout.shells == (3, 2, 1)
    assert layout.size == 14
    assert layout.slots[1].tolist() == [0, 1, 5, 3, 4]  # px, py, pz stand as (y, z, x)


@pytest.mark.parametrize("basis", known_basis_sets())
def test_every_element_of_every_basis_set_has_its_place(basis):
    elements = tuple(symbol for symbol in SYMBOLS[1:37] if known(basis, symbol))
    assert len(elements) >= 30
    layout = OrbitalLayout(basis, elements)
    atoms = torch.tensor([SYMBOLS.index(symbol) for symbol in elements])
    generator = torch.Generator().manual_seed(0)
    for number in atoms.tolist():
        pair = torch.tensor([number, 1])
        count = len(layout.orbitals(pair)[0])
        matrix = torch.randn(count, count, generator=generator, dtype=torch.float64)
        matrix = matrix + matrix.T
        diagonal, pairs = layout.to_blocks(matrix, pair)
        assert torch.equal(layout.to_matrix(diagonal, pairs, pair), matrix)
        assert torch.cat([diagonal.flatten(), pairs.flatten(), pairs.flatten()]).abs().sum() == pytest.approx(
            float(matrix.abs().sum())
        )


def known(basis, symbol):
    try:
        return bool(shells_of(basis, SYMBOLS.index(symbol)))
    except ConfigError:
        return False


def test_layout_of_def2_tzvp():
    layout = OrbitalLayout("def2-tzvp", ("H", "C", "N", "O", "F", "P", "S", "Cl"))
    assert (layout.shells, layout.size) == ((5, 5, 2, 1), 37)
    assert layout.slots[1].tolist() == [0, 1, 2, 7, 5, 6]
    p = [7, 5, 6, 10, 8, 9, 13, 11, 12]
    assert layout.slots[6].tolist() == [0, 1, 2, 3, 4, *p, *range(20, 37)]
    assert layout.slots[16].tolist() == [0, 1, 2, 3, 4, *p, 16, 14, 15, 19, 17, 18, *range(20, 37)]
    assert [len(layout.slots[z]) for z in (1, 6, 7, 8, 9, 15, 16, 17)] == [6, 31, 31, 31, 31, 37, 37, 37]


class TestOrderOfPySCF:
    """The order of orbitals, against integrals of PySCF."""

    @pytest.fixture(autouse=True)
    def pyscf(self):
        return pytest.importorskip("pyscf", reason="needs geomlib[dft]")

    @pytest.mark.parametrize("basis", ["sto-3g", "6-31g*", "def2-svp", "def2-tzvp", "cc-pvtz", "cc-pvqz"])
    def test_overlaps_turn_as_the_layout_says(self, pyscf, basis):
        atoms = torch.tensor([8, 6, 1])
        layout = OrbitalLayout(basis, ("H", "C", "O"))
        rng = np.random.default_rng(0)
        pos = np.array([[0.1, -0.2, 0.3], [0.9, 0.5, -0.4], [-0.7, 0.6, 0.2]])
        turn = -np.linalg.qr(rng.normal(size=(3, 3)))[0]
        assert np.linalg.det(turn) == pytest.approx(-1.0)  # with a reflection: each degree has its parity
        axes = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])  # harmonics count their axes y, z, x
        irreps = [Irrep(degree, (-1) ** degree) for degree, count in enumerate(layout.shells) for _ in range(count)]
        block = wigner_matrix(irreps, torch.from_numpy(axes @ turn @ axes.T)).numpy()

        def overlap(where):
            rows = [(int(z), place.tolist()) for z, place in zip(atoms, where, strict=True)]
            mol = pyscf.gto.M(atom=rows, basis=basis, spin=None, unit="Angstrom", verbose=0)
            return torch.from_numpy(mol.intor_symmetric("int1e_ovlp"))

        diagonal, pairs = layout.to_blocks(overlap(pos), atoms)
        whole = torch.from_numpy(block)
        turned = layout.to_matrix(whole @ diagonal @ whole.T, whole @ pairs @ whole.T, atoms)
        assert float((turned - overlap(pos @ turn.T)).abs().max()) < 1e-12

    @pytest.mark.parametrize("basis", known_basis_sets())
    def test_shells_that_come_along_are_those_of_pyscf(self, pyscf, basis):
        for number in range(1, 37):
            if not known(basis, SYMBOLS[number]):
                continue
            mol = pyscf.gto.M(atom=[(number, (0, 0, 0))], basis=basis, spin=number % 2, verbose=0)
            found = [int(mol.bas_angular(k)) for k in range(mol.nbas) for _ in range(mol.bas_nctr(k))]
            assert tuple(found) == shells_of(basis, number), SYMBOLS[number]


def test_unknown_orbitals_are_said():
    layout = OrbitalLayout("def2-svp", ("H", "C"))
    with pytest.raises(UnknownElement, match="element N is not among those of the layout, H, C"):
        layout.orbitals(torch.tensor([7]))
    with pytest.raises(DataError, match=r"a matrix of shape \[4, 4\] does not fit 5 orbitals"):
        layout.to_blocks(torch.zeros(4, 4), torch.tensor([1]))
    with pytest.raises(ConfigError, match="basis set 'sto-3g' has no Xe here"):
        OrbitalLayout("sto-3g", ("Xe",))
