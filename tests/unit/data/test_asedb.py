"""ASE databases. Budget: 4 s."""

import ase.build
import ase.db
import numpy as np
import pytest
from ase.calculators.emt import EMT

from geomlib.data.asedb import AseDbStore
from geomlib.errors import DataError, FileFormatError


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "set.db"
    with ase.db.connect(path) as db:
        for strain in (0.98, 1.0, 1.02):
            atoms = ase.build.bulk("Cu", cubic=True)
            atoms.rattle(0.05, seed=1)
            atoms.set_cell(atoms.cell * strain, scale_atoms=True)
            atoms.calc = EMT()
            atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
            db.write(atoms, strain=strain, gap=1.5, data={"target": np.array([1.0, 2.0])})
    return path


def test_labels(database):
    store = AseDbStore(database, fields=["energy", "forces", "stress"])
    assert len(store) == 3
    atoms = ase.db.connect(database).get(2).toatoms()
    assert store[1].energy.item() == atoms.get_potential_energy()
    assert np.allclose(store[1].forces, atoms.get_forces(), atol=0)
    assert store[1].stress[0, 1, 2].item() == atoms.get_stress()[3]
    assert store.describe(1) == f"{database}, row 2"


def test_key_value_pairs_data_and_selection(database):
    store = AseDbStore(database, fields=["energy", "target"], keys={"energy": "gap"}, selection="strain>0.99")
    assert len(store) == 2
    assert store[0].energy.tolist() == [1.5]
    assert store[0].target.tolist() == [[1.0, 2.0]]


def test_missing_label(database):
    with pytest.raises(DataError, match=r"set\.db, row 1: no label 'dipole'"):
        AseDbStore(database, fields=["dipole"])
    with pytest.raises(DataError, match="holds no structures"):
        AseDbStore(database, selection="strain>2")


def test_damaged(tmp_path, database):
    with pytest.raises(FileFormatError, match="no such file"):
        AseDbStore(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello, this is no database at all\n" * 100)
    with pytest.raises(FileFormatError, match="can't be read as an ASE database"):
        AseDbStore(tmp_path / "text.db")
    data = database.read_bytes()
    (tmp_path / "short.db").write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError, match="can't be read as an ASE database"):
        AseDbStore(tmp_path / "short.db")
