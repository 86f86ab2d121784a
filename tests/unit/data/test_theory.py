"""Functional and basis set of matrices: which names are one, what stores say, and what is refused."""

import h5py
import numpy as np
import pytest

from geomlib.data.cards import CardStore
from geomlib.data.flat import FlatStore
from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.data.heads import HeadStore
from geomlib.data.stores import ConcatStore, MemoryStore, SubsetStore
from geomlib.data.theory import check_theory, plain_basis, plain_functional
from geomlib.errors import ConfigError


def store(path, functional="b3lyp5"):
    """Two frames of water in a minimal basis, with made-up matrices."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["basis"] = "STO-3G"
        if functional:
            file.attrs["xc"] = functional
        group = file.create_group("000")
        group["Z"], group["pos"] = np.array([8, 1, 1]), rng.normal(size=(2, 3, 3))
        group["fock"] = rng.normal(size=(2, 28))
    return HamiltonianStore(str(path), fields=["hamiltonian"])


@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        ("b3lyp5 (B3LYP with VWN5 correlation)", "b3lyp5", "b3lyp"),
        ("b3lyp5", "B3LYPV5", "b3lyp"),
        ("B3LYP", "b3lypg", "b3lyp5"),
        ("pbe", "PBE,PBE", "pbe0"),
        ("PBE0", "pbe1pbe", "pbe"),
        ("wb97x-d3", "WB97X_D3", "wb97x"),
        ("b3lyp-d3(bj)", "B3LYP-D3(BJ)", "b3lyp-d3"),
    ],
)
def test_names_of_one_functional_are_one(name, same, other):
    assert plain_functional(name) == plain_functional(same) != plain_functional(other)


@pytest.mark.parametrize("name", ["b3lypg", "pbe,pbe", "pbe1pbe", "pbeh"])
def test_names_that_count_as_one_are_so_for_pyscf(name):
    libxc = pytest.importorskip("pyscf.dft.libxc")

    def mixture(text):
        exact, parts = libxc.parse_xc(text)
        return exact, [(int(number), float(share)) for number, share in parts]

    assert mixture(name) == mixture(plain_functional(name))
    assert mixture("b3lyp") != mixture("b3lyp5")


def test_names_of_one_basis_set_are_one():
    assert plain_basis("def2-SVP") == plain_basis("def2svp") != plain_basis("def2-tzvp")


def test_equal_words_pass_and_other_ones_are_refused(tmp_path):
    data = store(tmp_path / "a.h5")
    assert check_theory(data, "sto-3g", "B3LYPV5") == []
    with pytest.raises(ConfigError, match=r"a\.h5: its matrices were made with the functional 'b3lyp5'.*'pbe'"):
        check_theory(data, "sto-3g", "pbe")
    with pytest.raises(ConfigError, match=r"'b3lyp' has VWN_RPA as in PySCF 2\.3 and later"):
        check_theory(data, "sto-3g", "b3lyp")
    with pytest.raises(ConfigError, match=r"with the basis set 'STO-3G', the net is for 'def2-svp'.*model\.net\.basis"):
        check_theory(data, "def2-svp", "b3lyp5")


def test_what_is_not_said_is_named_and_not_guessed(tmp_path):
    silent = store(tmp_path / "b.h5", functional="")
    (line,) = check_theory(silent, "sto-3g", "pbe")
    assert "b.h5: does not say the functional" in line
    assert len(check_theory(MemoryStore([silent[0]]), "sto-3g", "pbe")) == 2


def test_stores_of_stores_are_looked_into(tmp_path):
    one, other = store(tmp_path / "a.h5"), store(tmp_path / "b.h5", "pbe")
    for whole in (ConcatStore([one, other]), HeadStore([(0, one), (1, SubsetStore(other, [1]))])):
        assert whole.members == [one, other]
        with pytest.raises(ConfigError, match=r"b\.h5: its matrices were made with the functional 'pbe'"):
            check_theory(whole, "sto-3g", "b3lyp5")
    with pytest.raises(ConfigError, match=r"sample\.npz: its matrices were made with the functional 'b3lyp5'"):
        check_theory(CardStore("water-orbitals", "train"), "sto-3g", "pbe")


def test_a_flat_store_remembers_what_all_its_graphs_were_made_with(tmp_path):
    one, other = store(tmp_path / "a.h5"), store(tmp_path / "b.h5", "pbe")
    flat = FlatStore.write(SubsetStore(one, [1]), tmp_path / "one")
    assert (flat.basis, flat.functional) == ("STO-3G", "b3lyp5")
    mixed = FlatStore.write(ConcatStore([one, other]), tmp_path / "mixed.npz")
    assert (mixed.basis, mixed.functional) == ("STO-3G", "")
    bare = FlatStore.write(MemoryStore([one[0]]), tmp_path / "bare")
    assert "functional" not in bare.header and bare.functional == ""
