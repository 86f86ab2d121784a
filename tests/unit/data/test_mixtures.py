"""Tables of mixtures, their splits, and excess volumes. Budget: 3 s."""

import math

import pytest
import torch

from geomlib.data.mixtures import CompoundSplit, DensityRow, MixtureStore, PairSplit, excess_volumes
from geomlib.data.molecules import from_smiles, to_smiles
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError, DataError, GeomlibWarning

HEADER = "a,b,x,T,rho,rho_excess\n"
ROWS = ["CCO,O,0.25,300,0.9,0.01", "c1ccccc1,CCO,0.5,310,,-0.02", "O,,1,300,1.0,"]
COLUMNS = {"smiles": ["a", "b"], "fractions": ["x"], "temperature": "T", "targets": ["rho"], "excess": ["rho_excess"]}


def write(tmp_path, rows=ROWS):
    path = tmp_path / "table.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return str(path)


def test_rows_become_mixtures_with_labels_of_the_excess(tmp_path):
    store = MixtureStore(write(tmp_path), **COLUMNS)
    first, second, third = (store[k] for k in range(3))
    assert to_smiles(first) == ["CCO", "O"] and first.mole_fraction.tolist() == [0.25, 0.75]
    assert first.temperature.item() == 300 and first.target_excess.item() == pytest.approx(0.01)
    assert math.isnan(second.target.item()) and second.target_excess.item() == pytest.approx(-0.02)
    assert to_smiles(third) == ["O"] and math.isnan(third.target_excess.item())
    assert "target_excess" in store.fields and store[0].validate(partial=store.partial)
    other = MixtureStore(write(tmp_path, [ROWS[0].replace("0.01", "0.02"), *ROWS[1:]]), **COLUMNS)
    assert other.content_hash != store.content_hash
    plain = MixtureStore(write(tmp_path), **{**COLUMNS, "excess": None})
    assert "target_excess" not in plain.fields and "target_excess" not in plain[0]
    late = MixtureStore(write(tmp_path), **{**COLUMNS, "targets": None})
    late.read_targets(["rho"])
    assert late[0].target.item() == pytest.approx(0.9) and late[0].target_excess.item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("CCO,O,1.25,300,1,0", "row 1 .*mole fractions"),
        ("CCO,O,-0.1,300,1,0", "row 1 .*mole fractions"),
        ("CCO,,0.5,300,1,0", "row 1 .*mole fraction 0.5, but no molecule"),
        ("CCO,O,0.5,0,1,0", "row 1 .*temperature 0 K in column 'T'"),
        ("CCO,O,0.5,,1,0", "row 1 .*no temperature"),
        ("CCO,C(,0.5,300,1,0", "row 1 "),
        ("CCO,O,0.5,300,1,little", "row 1 .*'little'"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        MixtureStore(write(tmp_path, [ROWS[0], row]), **COLUMNS)


def test_bad_rows_can_be_left_out(tmp_path):
    with pytest.warns(GeomlibWarning, match="1 of 2 rows are left out"):
        store = MixtureStore(write(tmp_path, [ROWS[0], "CCO,O,2,300,1,0"]), **COLUMNS, errors="skip")
    assert len(store) == 1


def test_each_target_needs_its_excess(tmp_path):
    with pytest.raises(ConfigError, match="2 columns of excesses for 1 targets"):
        MixtureStore(write(tmp_path), **{**COLUMNS, "excess": ["rho_excess", "rho"]})


NAMES = ["C", "CC", "CCC", "CCCC", "CCO", "OCC", "CN", "CCN", "CO", "O"]  # CCO and OCC are one compound


def mixtures():
    graphs = []
    for i, first in enumerate(NAMES):
        for second in NAMES[i + 1 :]:
            graphs += [from_smiles([first, second], [x, 1 - x]) for x in (0.2, 0.8)]
            graphs.append(from_smiles([second, first], [0.5, 0.5]))
        graphs.append(from_smiles(first, [1.0]))
    return MemoryStore(graphs, "made")


def canonical(graph):
    return frozenset("CCO" if text == "OCC" else text for text in to_smiles(graph))


def test_a_pair_stays_together_in_either_order():
    store = mixtures()
    parts = PairSplit(0.15, 0.25).indices(store)
    pairs = {name: {canonical(store[int(k)]) for k in rows} for name, rows in parts.items()}
    assert not pairs["train"] & pairs["test"] and not pairs["val"] & pairs["test"] and not pairs["train"] & pairs["val"]
    assert sum(len(rows) for rows in parts.values()) == len(store)
    assert 0.2 < len(parts["test"]) / len(store) < 0.3
    assert all(len(pair) > 1 for pair in pairs["test"])
    other = PairSplit(0.15, 0.25, seed=1).indices(store)
    assert other["test"].tolist() != parts["test"].tolist()


def test_a_strict_split_shares_no_compound():
    store = mixtures()
    parts = CompoundSplit(0.3, 0.3).indices(store)
    compounds = {name: set().union(*(canonical(store[int(k)]) for k in rows)) for name, rows in parts.items()}
    assert not compounds["train"] & compounds["test"] and not compounds["val"] & compounds["test"]
    assert 0 < sum(len(rows) for rows in parts.values()) < len(store)


def test_splits_that_can_not_be_are_refused():
    with pytest.raises(ConfigError, match="sum to less than 1"):
        PairSplit(0.5, 0.5)
    with pytest.raises(DataError, match="no mixture"):
        CompoundSplit(0.1, 0.1).indices(MemoryStore([from_smiles(["C", "O"], [0.5, 0.5])], "one"))


def test_excess_volume_by_hand():
    water, ethanol = 18.015, 46.069
    rows = [
        DensityRow("CCO", "O", 1.0, 298.15, 0.785, "here"),
        DensityRow("O", "CCO", 1.0, 298.15, 0.997, "here"),
        DensityRow("CCO", "O", 0.4, 298.15, 0.870, "here"),
        DensityRow("O", "CCO", 0.6, 298.15, 0.870, "here"),
        DensityRow("CCO", "O", 0.4, 308.15, 0.860, "here"),
        DensityRow("CCO", "O", 0.4, 298.15, 0.870, "elsewhere"),
    ]
    found = excess_volumes(rows, {"O": water, "CCO": ethanol})
    expected = (0.4 * ethanol + 0.6 * water) / 0.870 - 0.4 * ethanol / 0.785 - 0.6 * water / 0.997
    assert found[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found[2:4], torch.full((2,), expected, dtype=torch.float64))
    assert bool(found[4:].isnan().all())
    with pytest.raises(DataError, match="density row 0"):
        excess_volumes([DensityRow("O", "O", 1.5, 300, 1.0)], {"O": water})
