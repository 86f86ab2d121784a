"""Dataset cards. Budget: 3 s."""

import copy
import hashlib

import pytest
import torch
import yaml

import geomlib
from geomlib.data.cards import STORES, Card, CardSplit, CardStore, card_folders, find_card, find_cards
from geomlib.data.checks import check_card
from geomlib.data.flat import FlatStore
from geomlib.data.stores import MemoryStore, SubsetStore
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning, UnitError

UNITS = {"pos": "Å", "cell": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3"}


@pytest.fixture
def folder(tmp_path, store, monkeypatch):
    """A folder of data sets, named in GEOMLIB_DATA, with one data set `tiny`."""
    monkeypatch.setenv("GEOMLIB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    FlatStore.write(store, tmp_path / "data" / "tiny" / "graphs.npz")
    return tmp_path / "data"


@pytest.fixture
def entries(folder):
    data = (folder / "tiny" / "graphs.npz").read_bytes()
    return {
        "name": "tiny",
        "title": "Random structures",
        "licence": "CC0-1.0",
        "files": [{"path": "graphs.npz", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}],
        "store": {"class": "FlatStore", "args": {"path": "graphs.npz"}},
        "fields": {name: {"field": name, "unit": unit} for name, unit in UNITS.items()},
        "graphs": 24,
        "splits": {"train": "0:16", "val": [16, 17, "18:20"], "test": "20:24"},
    }


@pytest.fixture
def write(folder):
    def make(entries, name="tiny"):
        (folder / name).mkdir(exist_ok=True)
        path = folder / name / "card.yaml"
        path.write_text(yaml.safe_dump(entries, allow_unicode=True, sort_keys=False), encoding="utf-8")
        return path

    return make


def test_store_and_split(write, entries, store):
    path = write(entries)
    assert find_cards()["tiny"] == path
    whole = CardStore("tiny")
    assert len(whole) == 24
    assert torch.equal(whole[5].forces, store[5].forces)
    assert torch.equal(whole.batch([1, 2]).pos, store.batch([1, 2]).pos)
    assert whole.describe(2).endswith("graphs.npz, graph 2")
    assert torch.equal(whole.sizes, store.sizes)
    assert len(CardStore("tiny", split="val")) == 4
    assert {name: len(part) for name, part in CardSplit("tiny").indices(whole).items()} == {
        "train": 16,
        "val": 4,
        "test": 4,
    }
    for name in (path, path.parent, str(path)):
        assert find_card(name).name == "tiny"
    with pytest.raises(ConfigError, match=r"no split 'training'"):
        CardStore("tiny", split="training")


def test_named_splits(write, entries):
    write({**entries, "splits": {"all": entries["splits"], "first": {"train": "0:3", "test": "3:6"}}})
    assert len(CardStore("tiny", split="train")) == 16
    assert len(CardStore("tiny", split="first/train")) == 3
    assert set(CardSplit("tiny", "first").indices(CardStore("tiny"))) == {"train", "test"}
    with pytest.raises(ConfigError, match="no split named 'firs' \\(did you mean 'first'"):
        CardSplit("tiny", "firs").indices(CardStore("tiny"))


def test_no_split(write, entries):
    del entries["splits"]
    write(entries)
    with pytest.raises(ConfigError, match="no official split"):
        CardSplit("tiny").indices(CardStore("tiny"))


def test_unknown_name(write, entries):
    write(entries)
    with pytest.raises(DataError, match=r"no data set called 'tinny' \(did you mean 'tiny'\?\); there are \["):
        CardStore("tinny")


def changed(entries, change):
    entries = copy.deepcopy(entries)
    change(entries)
    return entries


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda e: e["fields"]["energy"].pop("unit"), UnitError, "stored key 'energy' has no unit; add one, e.g. 'eV'"),
        (lambda e: e["fields"]["energy"].update(unit="Å"), UnitError, "stored key 'energy': 'Å' can't be converted"),
        (lambda e: e["fields"].update(energy="eV"), FileFormatError, "'energy' must say which field it is"),
        (lambda e: e["store"].update({"class": "FlatStor"}), FileFormatError, r"'FlatStor' is unknown \(did you mean"),
        (lambda e: e["store"].update({"class": "os.system"}), FileFormatError, "store class 'os.system' is unknown"),
        (lambda e: e.pop("licence"), FileFormatError, r"the entries \['licence'\] are missing"),
        (lambda e: e.update(license="MIT"), FileFormatError, r"unknown entry 'license' \(did you mean 'licence'\?\)"),
        (lambda e: e["files"][0].update(path="../x"), FileFormatError, "must stand below the card's folder"),
        (lambda e: e["files"][0].pop("sha256"), FileFormatError, "sha256"),
    ],
)
def test_bad_cards_are_one_line(write, entries, change, error, message):
    path = write(changed(entries, change))
    with pytest.raises(error, match=message) as caught:
        Card.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_can_not_run_code(folder):
    path = folder / "tiny" / "card.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch /tmp/never']\n")
    with pytest.raises(FileFormatError, match="not a card"):
        Card.read(path)
    path.write_text("just text")
    with pytest.raises(FileFormatError, match="expected entries"):
        Card.read(path)


def test_units_of_card_and_file_must_agree(write, entries):
    write(changed(entries, lambda e: e["fields"]["energy"].update(unit="Hartree")))
    with pytest.raises(UnitError, match=r"'energy' is in Hartree here, in eV in the file"):
        CardStore("tiny")
    write(changed(entries, lambda e: e["fields"].pop("stress")))
    with pytest.raises(UnitError, match="stored key 'stress' is not on the card"):
        CardStore("tiny")


XYZ = """2
Properties=species:S:1:pos:R:3:f:R:3 E={energy} pbc="F F F"
O 0 0 0 0 0 {force}
H 0 0 1 0 0 0
"""


def test_extended_xyz_with_keys_and_units(write, folder, entries):
    (folder / "xyz").mkdir()
    for number in range(2):
        (folder / "xyz" / f"{number}.xyz").write_text(XYZ.format(energy=number + 1, force=2))
    card = {
        **entries,
        "name": "xyz",
        "files": [],
        "store": {"class": "ExtxyzStore", "args": {"path": ["0.xyz", "1.xyz"]}},
        "fields": {"E": {"field": "energy", "unit": "Hartree"}, "f": {"field": "forces", "unit": "Hartree/Bohr"}},
    }
    write(card, "xyz")
    store = CardStore("xyz")
    assert torch.cat([graph.energy for graph in store]).tolist() == pytest.approx([27.211386245988, 54.422772491976])
    assert store[0].forces[0, 2].item() == pytest.approx(2 * 51.4220675)
    (folder / "xyz" / "1.xyz").unlink()
    with pytest.raises(DataError, match=r"the file '1\.xyz' is not there; `geomlib data get xyz`"):
        CardStore("xyz")


def test_sample_stands_in_where_files_are_missing(write, folder, entries, store):
    FlatStore.write(SubsetStore(store, range(6)), folder / "tiny" / "sample.npz")
    card = {**entries, "sample": {"file": "sample.npz", "graphs": 6, "splits": {"train": "0:5", "val": "5"}}}
    write(card)
    assert len(CardStore("tiny")) == 24
    (folder / "tiny" / "graphs.npz").unlink()
    with pytest.warns(GeomlibWarning, match=r"\['graphs.npz'\] are not there, so its sample of 6 graphs is used"):
        assert len(CardStore("tiny")) == 6
    with pytest.warns(GeomlibWarning):
        assert len(CardStore("tiny", "train")) == 5
    assert [finding.severity for finding in check_card(find_card("tiny"))] == ["warning"]


def test_files_may_lie_in_a_download_folder(write, folder, entries, tmp_path, monkeypatch):
    path = write(entries)
    elsewhere = tmp_path / "elsewhere" / "tiny"
    elsewhere.mkdir(parents=True)
    (folder / "tiny" / "graphs.npz").rename(elsewhere / "graphs.npz")
    monkeypatch.setenv("GEOMLIB_DATA", f"{tmp_path / 'elsewhere'}")
    assert len(CardStore(str(path))) == 24


def test_where_cards_are_looked_for(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "geomlib"
    (package / "_datasets" / "inside").mkdir(parents=True)
    (tmp_path / "site" / "datasets" / "beside").mkdir(parents=True)
    monkeypatch.setattr(geomlib, "__file__", str(package / "__init__.py"))
    assert card_folders() == [folder, package / "_datasets", tmp_path / "site" / "datasets"]


def test_stores_are_named_and_never_imported_by_path():
    assert {"AseDbStore", "DeepmdStore", "ExtxyzStore", "FlatStore"} <= set(STORES)
    with pytest.raises(TypeError):
        STORES["x"] = MemoryStore


def findings(entries, write):
    return [(f.severity, f.key, f.message) for f in check_card(Card.read(write(entries)))]


def test_check_finds_nothing_wrong(write, entries):
    assert findings(entries, write) == []


def test_check_of_files_counts_and_splits(write, entries):
    entries["files"][0]["bytes"] += 1
    entries["graphs"] = 25
    entries["splits"] = {"train": "0:16", "val": "14:18", "test": "20:30"}
    found = findings(entries, write)
    assert [key for _, key, _ in found] == ["bytes", "graphs", "test", "splits", "splits"]
    assert found[3][2] == "is in 'train' and in 'val'"
    entries["files"][0]["bytes"] -= 1
    entries["files"][0]["sha256"] = "0" * 64
    assert findings(entries, write)[0][1] == "sha256"


def test_check_reports_every_bad_row(write, entries, folder, store):
    graphs = [graph.clone() for graph in store]
    graphs[3].forces[1, 0] = torch.nan
    graphs[9].energy[0] = torch.inf
    graphs[9].forces[:] = torch.nan
    graphs[20] = graphs[2].clone()  # train and test
    graphs[21] = graphs[22].clone()  # both test
    path = folder / "tiny" / "graphs.npz"
    FlatStore.write(MemoryStore(graphs), path, overwrite=True)
    data = path.read_bytes()
    entries["files"] = [{"path": "graphs.npz", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    places = [(f.severity, f.place.split()[-1], f.key, f.message) for f in check_card(Card.read(write(entries)))]
    assert [entry[:3] for entry in places] == [
        ("error", "3", "forces"),
        ("error", "9", "energy"),
        ("error", "9", "forces"),
        ("error", "20", "pos"),
        ("warning", "22", "pos"),
    ]
    assert places[0][3] == "missing, NaN or infinite at nodes [1]"
    assert places[3][3].endswith("graph 2, which is in 'train'")
    entries["partial"] = ["forces"]
    keys = [f.key for f in check_card(Card.read(write(entries)))]
    assert keys == ["energy", "pos", "pos"]


def test_check_of_gaps_in_extended_xyz(write, folder, entries):
    (folder / "xyz").mkdir()
    text = "".join(XYZ.format(energy=energy, force=force) for energy, force in ((1, 1), ("nan", 2), (3, "inf"), (4, 4)))
    (folder / "xyz" / "all.xyz").write_text(text.replace(" E=4", ""))
    card = {
        "name": "xyz",
        "title": "t",
        "licence": "MIT",
        "store": {"class": "ExtxyzStore", "args": {"path": "all.xyz"}},
        "fields": {"E": {"field": "energy", "unit": "eV"}, "f": {"field": "forces", "unit": "eV/Å"}},
        "graphs": 4,
    }
    found = [(f.place.split()[-1], f.key) for f in check_card(Card.read(write(card, "xyz"))) if f.severity == "error"]
    assert found == [("1", "energy"), ("2", "forces"), ("3", "energy")]


@pytest.mark.parametrize("name", find_cards())
def test_data_sets_that_come_along(name):
    card = find_card(name)
    assert card.name == name
    assert not card.missing
    assert [finding for finding in check_card(card) if finding.severity == "error"] == []
