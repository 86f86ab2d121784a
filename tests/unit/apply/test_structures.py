"""Structures from what a user types. Budget: 2 s."""

import pytest
from ase.build import bulk, molecule
from ase.io import write

from geomlib.apply.structures import read_structure, read_structures
from geomlib.data import cards
from geomlib.data.atoms import from_atoms
from geomlib.data.stores import MemoryStore
from geomlib.errors import DataError, FileFormatError


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "three.extxyz"
    write(path, [molecule("H2O"), molecule("CH4"), bulk("Cu")])
    return str(path)


def test_frames(three):
    assert [atoms.get_chemical_formula() for atoms in read_structures(three)] == ["H2O", "CH4", "Cu"]
    assert [atoms.get_chemical_formula() for atoms in read_structures(f"{three}@:2")] == ["H2O", "CH4"]
    assert [atoms.get_chemical_formula() for atoms in read_structures(f"{three}@1")] == ["CH4"]
    assert read_structure(three).get_chemical_formula() == "Cu"
    assert read_structure(f"{three}@0").get_chemical_formula() == "H2O"


def test_other_formats(tmp_path):
    for name in ("cu.cif", "POSCAR", "cu.traj"):
        write(tmp_path / name, bulk("Cu"))
        assert read_structure(str(tmp_path / name)).get_chemical_formula() == "Cu"


def test_cards(monkeypatch):
    graphs = [from_atoms(atoms) for atoms in (molecule("H2O"), molecule("NH3"))]
    monkeypatch.setattr(cards, "CardStore", lambda name: MemoryStore(graphs, name))
    assert [len(atoms) for atoms in read_structures("card:small")] == [3, 4]
    assert read_structure("card:small").get_chemical_formula() == "H3N"
    assert read_structure("card:small:0").get_chemical_formula() == "H2O"
    assert read_structure("card:small:-1").get_chemical_formula() == "H3N"
    with pytest.raises(DataError, match="has 2 structures, there is none at 2"):
        read_structures("card:small:2")
    with pytest.raises(DataError, match="'x' is no index"):
        read_structures("card:small:x")


def test_what_is_no_structure(tmp_path, three):
    with pytest.raises(DataError, match="has no frame '7'"):
        read_structures(f"{three}@7")
    with pytest.raises(FileNotFoundError):
        read_structures(str(tmp_path / "missing.xyz"))
    (tmp_path / "notes.txt").write_text("not atoms\n")
    (tmp_path / "cut.extxyz").write_text("3\n\nH 0 0 0\n")
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "POSCAR").write_text("Cu\nx\n")
    for name in ("notes.txt", "cut.extxyz", "empty.xyz", "POSCAR"):
        with pytest.raises((FileFormatError, DataError), match=name):
            read_structures(str(tmp_path / name))
