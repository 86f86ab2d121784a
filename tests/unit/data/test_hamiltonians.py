"""Files of Kohn-Sham matrices: what they hold, and what is wrong with bad ones."""

import h5py
import numpy as np
import pytest
import torch

from geomlib.data.hamiltonians import HamiltonianStore, triangle_to_square
from geomlib.data.orbitals import OrbitalLayout, known_basis_sets, shells_of
from geomlib.errors import ConfigError, DataError, FileFormatError, UnknownElement


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
    ],
)
def test_what_is_wrong_is_said(tmp_path, options, message):
    write(tmp_path / "a.h5", **options)
    with pytest.raises(FileFormatError, match=message):
        HamiltonianStore(str(tmp_path / "a.h5"))


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


def test_unknown_orbitals_are_said():
    layout = OrbitalLayout("def2-svp", ("H", "C"))
    with pytest.raises(UnknownElement, match="element N is not among those of the layout, H, C"):
        layout.orbitals(torch.tensor([7]))
    with pytest.raises(DataError, match=r"a matrix of shape \[4, 4\] does not fit 5 orbitals"):
        layout.to_blocks(torch.zeros(4, 4), torch.tensor([1]))
    with pytest.raises(ConfigError, match="basis set 'sto-3g' has no Xe here"):
        OrbitalLayout("sto-3g", ("Xe",))
