"""Extended XYZ. Budget: 3 s."""

import gzip

import ase.io
import numpy as np
import pytest
import torch

from geomlib.data.extxyz import ExtxyzStore
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning, UnitError

WATER = """3
Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:forces:R:3 energy=-10.5 pbc="T T F"
O 0.0 0.0 0.1 0.1 0.2 0.3
H 0.0 0.8 -0.5 0.0 0.0 -0.1
H 0.0 -0.8 -0.5 0.0 0.0 -0.2
"""
ATOM = """1
Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"
H 0.0 0.0 0.0 0.0 0.0 0.0
"""


@pytest.fixture
def write(tmp_path):
    def make(text, name="set.extxyz"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_frames(write):
    path = write(WATER + ATOM + "\n" + WATER + "\n\n")
    store = ExtxyzStore(path)
    assert len(store) == 3  # a blank line between frames ends ASE's own reading silently
    assert store.sizes.tolist() == [3, 1, 3]
    assert store[0].energy.tolist() == [-10.5]
    assert store[0].pbc.tolist() == [[True, True, False]]
    assert store[1].cell.abs().max() == 0
    assert store[2].forces[0].tolist() == [0.1, 0.2, 0.3]
    assert store.describe(1) == f"{path}, frame 1"
    assert store.batch([0, 1]).forces.shape == (4, 3)


def test_compressed(write, tmp_path):
    with gzip.open(tmp_path / "set.xyz.gz", "wt") as file:
        file.write(WATER)
    assert len(ExtxyzStore(tmp_path / "set.xyz.gz")) == 1


def test_index(write):
    path = write(WATER + ATOM + WATER)
    assert ExtxyzStore(path, index="1:").sizes.tolist() == [1, 3]
    assert ExtxyzStore(path, index="::2").describe(1).endswith("frame 2")
    assert len(ExtxyzStore(path, index="-1")) == 1
    with pytest.raises(ConfigError, match="'0:4' reaches beyond the 3 graphs"):
        ExtxyzStore(path, index="0:4")


def test_keys_and_units(write):
    path = write(WATER.replace("energy=", "REF_energy=").replace(":forces:", ":REF_forces:"))
    store = ExtxyzStore(
        path,
        keys={"energy": "REF_energy", "forces": "REF_forces"},
        units={"energy": "kcal/mol", "forces": "kcal/mol/Å"},
    )
    assert store[0].energy.item() == pytest.approx(-10.5 * 0.0433641, rel=1e-5)
    assert store[0].forces[0, 2].item() == pytest.approx(0.3 * 0.0433641, rel=1e-5)
    with pytest.raises(DataError, match=r"frame 0: no label 'energy' .*\['REF_energy', 'REF_forces'\]"):
        ExtxyzStore(path)
    with pytest.raises(UnitError, match="unknown"):
        ExtxyzStore(path, keys={"energy": "REF_energy"}, units={"energy": "eVV"}, fields=["energy"])


def test_missing_in_one_frame(write):
    path = write(WATER + ATOM.replace(" energy=-1.5", ""))
    with pytest.raises(DataError, match="frame 1: no label 'energy'"):
        ExtxyzStore(path)
    store = ExtxyzStore(path, partial=["energy"])
    assert store[1].energy.isnan().all()
    assert store[0].energy.tolist() == [-10.5]
    assert store.partial == ("energy",)


@pytest.mark.parametrize("bad", ["nan", "inf", "NaN", "-Infinity"])
def test_not_finite(write, bad):
    with pytest.raises(DataError, match=r"frame 1: 'forces' is NaN or infinite at atom 0"):
        ExtxyzStore(write(WATER + WATER.replace("0.3", bad)))
    with pytest.raises(DataError, match="frame 1: 'energy' is NaN or infinite"):
        ExtxyzStore(write(WATER + WATER.replace("-10.5", bad)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WATER + WATER[:-30], "frame 1: holds 2 of 3 atoms|frame 1: not extended XYZ"),
        (WATER + "\n".join(WATER.split("\n")[:3]), "frame 1: holds 1 of 3 atoms"),
        (WATER + "3\n", "frame 1: holds 0 of 3 atoms"),
        (WATER + "three\n", "frame 1: expected the number of atoms, found 'three'"),
        (WATER + ATOM + "H 0 0 0 0 0 0\n", "frame 2: expected the number of atoms, found 'H 0 0"),
        (WATER.replace("0.8 ", "zero "), "frame 0: not extended XYZ"),
        (WATER.replace("O 0.0", "Qq 0.0"), "frame 0: not extended XYZ"),
        (WATER.replace(":forces:R:3", ":forces:R:4"), "frame 0: not extended XYZ"),
        ("", "holds no frames"),
        ("-3\n\n", "frame 0: expected the number of atoms"),
    ],
)
def test_damaged_files_are_one_line(write, text, message):
    with pytest.raises(FileFormatError, match=message) as error:
        ExtxyzStore(write(text))
    assert "set.extxyz" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileFormatError, match="no such file"):
        ExtxyzStore(tmp_path / "nothing.xyz")
    (tmp_path / "binary.xyz").write_bytes(b"\x80\x81\x00" * 100)
    with pytest.raises(FileFormatError, match="can't be read"):
        ExtxyzStore(tmp_path / "binary.xyz")
    (tmp_path / "short.xyz.gz").write_bytes(gzip.compress(WATER.encode())[:-12])
    with pytest.raises(FileFormatError, match="can't be read"):
        ExtxyzStore(tmp_path / "short.xyz.gz")


def test_charge_of_all_or_none(write):
    charged = WATER.replace("energy", "charge=1 spin=2 energy")
    store = ExtxyzStore(write(charged + charged))
    assert store[1].spin_multiplicity.tolist() == [2]
    with pytest.warns(GeomlibWarning, match="only 1 of 2 frames say") as caught:
        store = ExtxyzStore(write(charged + WATER))
    assert len(caught) == 2  # charge and spin multiplicity
    assert "charge" not in store.fields
    with pytest.raises(DataError, match="frame 1: no label 'charge'"):
        ExtxyzStore(write(charged + WATER), fields=["charge"])


def test_real_sets(shared_data):
    folder = shared_data / "mlip_extxyz"
    store = ExtxyzStore(folder / "mlearn_Si_train.extxyz")
    assert (len(store), int(store.sizes.sum())) == (214, 13233)
    frames = ase.io.read(folder / "mlearn_Si_train.extxyz", ":")
    for index in (0, 100, 213):
        assert np.array_equal(store[index].forces.numpy(), frames[index].get_forces())
        assert store[index].energy.item() == frames[index].get_potential_energy()
        assert np.array_equal(store[index].cell[0].numpy(), frames[index].cell.array)
    isolated = ExtxyzStore(folder / "3bpa_iso_atoms.extxyz", fields=["energy"])
    assert isolated.sizes.tolist() == [1, 1, 1, 1]
    assert isolated[0].pos.dtype == torch.float64
