"""Splits of molecules beside shipped ones, and what leaks."""

from pathlib import Path

import pytest
import torch

from geomlib.data.molecules import from_smiles
from geomlib.data.splits import RandomSplit
from geomlib.data.stores import MemoryStore
from geomlib.data.table_splits import CheckedSplit, ColumnSplit, ScaffoldSplit, TimeSplit, check_leaks, find_leaks
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning

MOLNET = Path(__file__).parents[4] / "shared" / "data" / "molnet"
TABLE = """smiles,y,part,when
CC,0,train,2020-01-01
c1ccccc1C,1,train,2019-05-01
OCC,1,val,2022-01-01
c1ccccc1CC,0,,2021-01-01
C1CC1,1,test,2021-01-01
CCO,0,test,2023-06-01
"""


@pytest.fixture
def store(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE)
    return TableStore(str(tmp_path / "table.csv"), targets=["y"])


def listed(parts):
    return {name: rows.tolist() for name, rows in parts.items()}


@pytest.mark.skipif(not MOLNET.is_dir(), reason=f"needs the tables in {MOLNET}")
@pytest.mark.parametrize("name", ["freesolv", "esol", "bbbp"])
def test_scaffold_split_is_that_of_moleculenet(name):
    file = next(MOLNET.glob(f"{name}*.csv.gz"))
    whole = TableStore(str(file), check=False)
    shipped = ColumnSplit("scaffold", str(MOLNET / "splits" / f"{name}.csv.gz")).indices(whole)
    assert listed(ScaffoldSplit().indices(whole)) == listed(shipped)
    if name == "freesolv":
        assert find_leaks(whole, shipped, scaffolds=True) == []


def test_columns(store, tmp_path):
    assert listed(ColumnSplit("part").indices(store)) == {"train": [0, 1], "val": [2], "test": [4, 5]}
    other = tmp_path / "split.csv"
    other.write_text("row,s\n5,train\n4,test\n3,test\n2,train\n1,train\n0,val\n")
    assert listed(ColumnSplit("s", str(other)).indices(store)) == {"train": [1, 2, 5], "val": [0], "test": [3, 4]}
    other.write_text("row,s\n5,train\n")
    with pytest.raises(FileFormatError, match="does not say where row 0 belongs, nor 4 more"):
        ColumnSplit("s", str(other)).indices(store)
    with pytest.raises(FileFormatError, match=r"row 0 \(line 2\): column 'smiles' holds 'CC'; expected train"):
        ColumnSplit("smiles").indices(store)
    with pytest.raises(ConfigError, match="not of a MemoryStore"):
        ColumnSplit("part").indices(MemoryStore([from_smiles("C")]))


def test_rows_that_were_skipped_keep_their_numbers(tmp_path):
    (tmp_path / "table.csv").write_text(TABLE.replace("CC,0", "C(,0", 1))
    (tmp_path / "split.csv").write_text("s\ntest\n" + "train\n" * 5)
    with pytest.warns(GeomlibWarning, match="1 of 6 rows"):
        short = TableStore(str(tmp_path / "table.csv"), errors="skip")
    assert listed(ColumnSplit("s", str(tmp_path / "split.csv")).indices(short)) == {"train": [0, 1, 2, 3, 4]}


def test_time(store):
    parts = listed(TimeSplit("when", train=0.5, val=0.2).indices(store))
    assert parts == {"train": [0, 1], "val": [3, 4], "test": [2, 5]}  # rows of one day stay together
    with pytest.raises(DataError, match=r"row 0 .*column 'part' holds 'train'; expected a number or a date"):
        TimeSplit("part").indices(store)


def test_leaks_are_told(store):
    words = find_leaks(store, ColumnSplit("part").indices(store))
    assert any("1 molecule is in two parts: CCO (val: " in sentence for sentence in words)
    assert any("val part has not both classes of 'y'" in sentence for sentence in words)
    assert not any("test part" in sentence for sentence in words)
    straddling = {"train": torch.tensor([0, 1, 2]), "test": torch.tensor([3, 4])}
    assert find_leaks(store, straddling) == []
    (sentence,) = find_leaks(store, straddling, scaffolds=True)
    assert sentence.startswith("1 scaffold is in two parts: c1ccccc1 (train: ")
    with pytest.warns(GeomlibWarning, match="the split leaks: 1 scaffold"):
        check_leaks(store, straddling, scaffolds=True)
    with pytest.raises(DataError, match="the split leaks: 1 molecule"):
        CheckedSplit(ColumnSplit("part")).indices(store)
    assert "train" in CheckedSplit(RandomSplit(val=0)).indices(store)
