"""Splits. Budget: 1 s."""

import json

import pytest
import torch

from geomlib.data.splits import BlockSplit, BootstrapSplit, FileSplit, RandomSplit, RangeSplit, parse_indices
from geomlib.errors import ConfigError, DataError, FileFormatError


def lists(parts):
    return {name: indices.tolist() for name, indices in parts.items()}


def test_blocks(store):
    parts = lists(BlockSplit(val=4, test=0.25).indices(store))
    assert parts == {"train": list(range(14)), "val": list(range(14, 18)), "test": list(range(18, 24))}
    assert lists(BlockSplit(10, 2, 3).indices(store))["test"] == [12, 13, 14]
    assert set(BlockSplit(0.5, 0.5).indices(store)) == {"train", "val"}


def test_random(store):
    parts = RandomSplit(val=0.25, test=3, seed=5).indices(store)
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(24))
    assert [len(part) for part in parts.values()] == [15, 6, 3]
    assert lists(parts) == lists(RandomSplit(val=0.25, test=3, seed=5).indices(store))
    assert lists(parts) != lists(RandomSplit(val=0.25, test=3, seed=6).indices(store))
    assert parts["train"].tolist() == sorted(parts["train"].tolist())


def test_fractions_that_add_up_to_one_always_fit(store):
    # 24 · (0.8, 0.1, 0.1) rounds to 19 + 2 + 2, and 24 · (0.6, 0.2, 0.2) to 14 + 5 + 5
    for fractions in ((0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.65, 0.15, 0.2), (0.35, 0.35, 0.3)):
        total = sum(len(part) for part in BlockSplit(*fractions).indices(store).values())
        assert 23 <= total <= 24


def test_too_many(store):
    with pytest.raises(ConfigError, match="20 train \\+ 5 val \\+ 0 test graphs, but the store holds 24"):
        BlockSplit(20, 5).indices(store)
    with pytest.raises(ConfigError, match="store holds 24"):
        RandomSplit(val=25).indices(store)
    with pytest.raises(ConfigError, match="split 'val' is -1"):
        RandomSplit(val=-1).indices(store)
    with pytest.raises(ConfigError, match="split 'val' is 1\\.5; expected a count, or a fraction"):
        RandomSplit(val=1.5).indices(store)


def test_ranges(store):
    split = RangeSplit(train="0:10,12:14", val="20:24", test="15")
    assert lists(split.indices(store)) == {
        "train": [*range(10), 12, 13],
        "val": [20, 21, 22, 23],
        "test": [15],
    }
    with pytest.raises(ConfigError, match="split 'test': '1300:1562' reaches beyond the 24 graphs"):
        RangeSplit(test="1300:1562").indices(store)
    with pytest.raises(DataError, match="graph 5 is in split 'val' and in 'train'"):
        RangeSplit(train="0:6", val="5:8").indices(store)
    with pytest.raises(DataError, match="split 'train' names a graph twice"):
        RangeSplit(train="0:6,3").indices(store)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::10", [0, 10, 20]),
        (":", list(range(24))),
        ("-3:", [21, 22, 23]),
        ("-1", [23]),
        ([3, "5:7", 1], [3, 5, 6, 1]),
        ([], []),
    ],
)
def test_parsing(text, expected):
    assert parse_indices(text, 24).tolist() == expected


@pytest.mark.parametrize("text", ["a:b", "1:2:3:4", "0::0", "1.5", "", "5;7"])
def test_what_can_not_be_parsed(text):
    with pytest.raises(ConfigError, match="can't be read"):
        parse_indices(text, 24, "split 'train'")


@pytest.mark.parametrize("text", ["24", "-25", "20:30", [99]])
def test_beyond_the_store(text):
    with pytest.raises(ConfigError, match="reaches beyond the 24 graphs"):
        parse_indices(text, 24)


def test_files(store, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"train": [0, 1, "4:6"], "test": "20:22"}))
    assert lists(FileSplit(tmp_path / "split.json").indices(store)) == {"train": [0, 1, 4, 5], "test": [20, 21]}
    (tmp_path / "split.yaml").write_text("train: 0:20\nval: [21, 22]\n")
    assert lists(FileSplit(tmp_path / "split.yaml").indices(store))["val"] == [21, 22]
    with pytest.raises(FileFormatError, match="the split can't be read"):
        FileSplit(tmp_path / "none.json").indices(store)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FileFormatError, match="the split can't be read"):
        FileSplit(tmp_path / "bad.json").indices(store)
    (tmp_path / "odd.json").write_text('{"training": [0]}')
    with pytest.raises(ConfigError, match=r"expected some of \['train', 'val', 'test'\] .* found \['training'\]"):
        FileSplit(tmp_path / "odd.json").indices(store)


def test_bootstrap_draws_the_training_part_again():
    store = range(400)  # a split asks a store for its length only
    origin = RandomSplit(val=50, test=50, seed=3)
    first, again, other = (BootstrapSplit(origin, seed).indices(store) for seed in (0, 0, 1))
    whole = origin.indices(store)
    for part in ("val", "test"):
        assert torch.equal(first[part], whole[part])
    assert torch.equal(first["train"], again["train"]) and not torch.equal(first["train"], other["train"])
    assert set(first["train"].tolist()) < set(whole["train"].tolist())
    assert 0.58 < len(first["train"]) / 300 < 0.68
    assert list(BootstrapSplit().indices(store)) == ["train"]
