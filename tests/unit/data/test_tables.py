"""Tables of molecules: what is read, what is missing, and what bad rows say."""

import gzip

import pytest
import torch

from geomlib.data.molecules import to_smiles
from geomlib.data.stores import SubsetStore
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning

TABLE = 'id,smiles,a,b,part\n1,CCO,1.5,0,train\n2,c1ccccc1,,1,val\n\n3,"C#N",-2e1,nan,test\n'
MIXTURES = "s1,s2,x1,x2,T\nCCO,O,0.25,0.75,298.15\nCCO,,1,,300\nO,CC,0,1,310\n"


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return str(path)

    return write


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_rows_become_text_graphs(table, name):
    store = TableStore(table(TABLE, name), targets=["a", "b"])
    assert len(store) == 3 and store.partial == ("target",)
    assert [to_smiles(graph) for graph in store] == [["CCO"], ["c1ccccc1"], ["C#N"]]
    expected = torch.tensor([[1.5, 0.0], [torch.nan, 1.0], [-20.0, torch.nan]], dtype=torch.float64)
    torch.testing.assert_close(torch.cat([graph.target for graph in store]), expected, equal_nan=True)
    assert store.sizes.tolist() == [3, 8, 3]
    assert store.describe(2).endswith("row 2 (line 5)")
    assert set(store[0].keys()) == set(store.fields)
    for graph in store:
        graph.validate(partial=store.partial)
    assert to_smiles(store.batch([2, 0])) == ["C#N", "CCO"]


def test_columns_and_late_targets(table):
    store = TableStore(table(TABLE))
    assert "target" not in store.fields and store.column("part") == ["train", "val", "test"]
    before = store.content_hash
    store.read_targets(["b"])
    assert store.targets == ("b",) and store.content_hash != before
    assert SubsetStore(store, [1])[0].target.item() == 1.0
    with pytest.raises(ConfigError, match="no column 'c', which the net"):
        store.read_targets(["c"])
    with pytest.raises(DataError, match=r"row 0 \(line 2\): column 'part' holds 'train'"):
        store.read_targets(["part"])


def test_mixtures(table):
    path = table(MIXTURES)
    store = TableStore(path, smiles=["s1", "s2"], fractions=["x1", "x2"], temperature="T")
    assert [to_smiles(graph) for graph in store] == [["CCO", "O"], ["CCO"], ["O", "CC"]]
    assert store[0].mole_fraction.tolist() == [0.25, 0.75] and store[1].mole_fraction.tolist() == [1.0]
    assert store[2].temperature.tolist() == [310.0]
    rest = TableStore(path, smiles=["s1", "s2"], fractions=["x1"], temperature="T")
    assert [graph.mole_fraction.tolist() for graph in rest] == [graph.mole_fraction.tolist() for graph in store]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4,CC(,1,0,", "'CC\\(' is no molecule"),
        ("4,C(C)(C)(C)(C)C,1,0,", "valence"),
        ("4,,1,0,", "has no SMILES in column 'smiles'"),
        ("4,CC,high,0,", "column 'a' holds 'high', which is no number"),
        ("4,CC,inf,0,", "column 'a' holds 'inf'"),
        ("4,CC,1", "has 3 cells, the header 5"),
        (b"4,CC,1,0,\xff", "not written in UTF-8"),
    ],
)
def test_bad_rows_say_where(table, line, message):
    path = table(TABLE.encode() + (line if isinstance(line, bytes) else line.encode()) + b"\n5,CN,1,1,train\n")
    with pytest.raises(DataError, match=rf"table.csv, row 3 \(line 6\): .*{message}"):
        TableStore(path, targets=["a", "b"])
    with pytest.warns(GeomlibWarning, match="1 of 5 rows are left out; the first: .*row 3"):
        store = TableStore(path, targets=["a", "b"], errors="skip")
    assert store.rows.tolist() == [0, 1, 2, 4] and len(store.skipped) == 1
    assert store.column("id") == ["1", "2", "3", "5"] and store.describe(3).endswith("row 4 (line 7)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("CCO,O,0.5,0.4,300", "sum to 1"),
        ("CCO,,0.5,0.5,300", "mole fraction 0.5, but no molecule in column 's2'"),
        ("CCO,O,0.5,,300", "no mole fraction of the molecule in column 's2'"),
        ("CCO,O,0.5,0.5,", "has no temperature"),
    ],
)
def test_bad_mixtures(table, line, message):
    with pytest.raises(DataError, match=message):
        TableStore(table(MIXTURES + line + "\n"), smiles=["s1", "s2"], fractions=["x1", "x2"], temperature="T")


def test_unusable_files(table, tmp_path):
    with pytest.raises(ConfigError, match=r"no column .SMILES..*smiles"):
        TableStore(table(TABLE), smiles="SMILES")
    with pytest.raises(ConfigError, match="2 columns of SMILES and 0 of mole fractions"):
        TableStore(table(MIXTURES), smiles=["s1", "s2"])
    with pytest.raises(FileFormatError, match="can't be read"):
        TableStore(str(tmp_path / "none.csv"))
    with pytest.raises(FileFormatError, match="is empty"):
        TableStore(table(""))
    with pytest.raises(FileFormatError, match="twice"):
        TableStore(table("smiles,a,a\nC,1,2\n"))
    with pytest.raises(DataError, match="no row can be used"):
        TableStore(table("smiles,a\n"))
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(TABLE.encode())[:20])
    with pytest.raises(FileFormatError, match="can't be read"):
        TableStore(str(broken))
