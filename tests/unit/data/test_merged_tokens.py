"""Glyph pair encoding: what may be merged, round trips, files. Budget: 3 s."""

import gzip
from pathlib import Path

import pytest

from geomlib.data.merged_tokens import MergedTokenizer
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, FileFormatError

ZINC = Path(__file__).parents[4] / "shared" / "data" / "zinc_smiles" / "zinc_jtnn_29k.smi.gz"
LINES = ["CCO", "CCN", "CC(=O)[NH3+]", "C1CC1", "[13CH3]CC", "N[C@@H](C)C(=O)O", "[C@@H]"]


def test_most_frequent_pair_first_and_text_comes_back():
    tokenizer = MergedTokenizer.train(LINES, 170)
    assert tokenizer.vocabulary[165] == "CC"
    assert tokenizer.encode("CCO")[0] == 165
    assert [tokenizer.decode(row) for row in tokenizer.encode_list(LINES)] == LINES


def test_structure_and_brackets_stay_by_themselves_unless_asked():
    closed = MergedTokenizer.train(LINES).vocabulary[165:]
    assert not any(set(word) & set("[]=()") for word in closed)
    assert "@@H" in closed or "C@@" in closed
    assert any("[" in word for word in MergedTokenizer.train(LINES, merge_brackets=True).vocabulary[165:])
    assert any("=" in word for word in MergedTokenizer.train(LINES, split_structure=False).vocabulary[165:])


def test_rare_pairs_are_left_and_bad_values_refused(tmp_path):
    assert MergedTokenizer.train(["CO"], min_frequency=2).merges == []
    with pytest.raises(ConfigError, match="165"):
        MergedTokenizer.train(LINES, 100)
    with pytest.raises(ConfigError, match="only 165"):
        MergedTokenizer([(400, 1)])
    with pytest.raises(FileFormatError, match="no such file"):
        MergedTokenizer.from_pretrained(tmp_path)


def test_files(tmp_path):
    tokenizer = MergedTokenizer.train(LINES)
    again = MergedTokenizer.from_pretrained(tokenizer.save_pretrained(tmp_path))
    assert again.encode_list(LINES) == tokenizer.encode_list(LINES)


@pytest.mark.skipif(not ZINC.exists(), reason="needs shared/data/zinc_smiles")
def test_real_molecules_get_shorter():
    with gzip.open(ZINC, "rt") as file:
        lines = [file.readline().strip() for _ in range(2000)]
    tokenizer = MergedTokenizer.train(iter(lines[:1500]), 400)
    rows = tokenizer.encode_list(lines)
    assert [tokenizer.decode(row) for row in rows] == lines
    assert sum(map(len, rows)) < 0.85 * sum(map(len, SmirkTokenizer().encode_list(lines)))
