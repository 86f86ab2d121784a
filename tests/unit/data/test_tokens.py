"""Smirk tokens: the fixed vocabulary, the grammar, what is no SMILES, lists, files. Budget: 5 s."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomlib.data.molecules import from_smiles
from geomlib.data.smirk_grammar import GLYPH_IDS, split_smiles
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.graphs.spec import GraphSpec
from geomlib.graphs.tokens import SmilesTokens

TOKENIZER = SmirkTokenizer()


def test_vocabulary_is_the_published_one():
    expected = {"#": 1, "$": 2, "%": 3, "(": 4, "*": 6, "+": 7, "/": 10, "0": 11, "9": 20, ":": 21, "=": 22, "@": 23}
    expected |= {"@@": 24, "@TH": 29, "Ac": 30, "Br": 44, "C": 45, "Cl": 50, "F": 63, "H": 71, "I": 77, "N": 93}
    expected |= {"O": 102, "P": 105, "S": 122, "Zr": 147, "[": 148, "\\": 149, "]": 150, "as": 151, "c": 153, "se": 158}
    assert {glyph: GLYPH_IDS[glyph] for glyph in expected} == expected
    assert TOKENIZER.vocab_size == 165
    specials = ("bos", "eos", "sep", "pad", "cls", "mask")
    assert [getattr(TOKENIZER, f"{name}_token_id") for name in specials] == [159, 160, 161, 162, 163, 164]


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("[13C@@H](F)(Cl)Br", "[ 1 3 C @@ H ] ( F ) ( Cl ) Br"),
        ("F[As@TB15]", "F [ As @TB 1 5 ]"),
        ("[NH4+:005]", "[ N H 4 + : 0 0 5 ]"),
        ("Sc1", "S c 1"),
        ("[Sc]", "[ Sc ]"),
        ("C%12CC%12", "C % 1 2 C C % 1 2"),
        ("C%(123)", "C % ( 1 2 3 )"),
        ("[Cu++]", "[ Cu + 2 ]"),
        ("[O---]", "[ O - 3 ]"),
        ("[C@H]", "[ C @ H ]"),
        ("[C@OH1]", "[ C @OH 1 ]"),
        ("[se]", "[ se ]"),
        ("[*:1]C*", "[ * : 1 ] C *"),
        ("C~[Fe]", "C [UNK] [ Fe ]"),
        ("[NH3]->[Fe]", "[ N H 3 ] - [UNK] [ Fe ]"),
        ("C [NH4+]", "C [UNK] [ N H 4 + ]"),
        ("CC?[13CH3]C", "C C [UNK] [ 1 3 C H 3 ] C"),
        ("[PF6-]", "[ P [UNK] ]"),
        ("[Cu++2]", "[ Cu [UNK] ]"),
        ("[te]1cccc1", "[ [UNK] ] 1 c c c c 1"),
        ("[Fe", "[UNK] F [UNK]"),
        ("[]", "[ ]"),
        ("  CO ", "C O"),
    ],
)
def test_grammar(smiles, tokens):
    expected = tokens.split()
    assert TOKENIZER.tokenize(smiles) == expected
    known = {word: number for number, word in enumerate(TOKENIZER.vocabulary)}
    assert TOKENIZER.encode(smiles) == [known[word] for word in expected]
    offsets = TOKENIZER.offsets(smiles)
    for (begin, end), word in zip(offsets, expected, strict=True):
        assert word in ("[UNK]", smiles[begin:end]) or smiles[begin:end] in "++--"


def test_strict_says_where():
    with pytest.raises(DataError, match=r"SMILES 'CC>\[Fe\]': '>' at character 2 is not in the vocabulary"):
        TOKENIZER.encode_list(["CC", "CC>[Fe]"], strict=True)
    with pytest.raises(DataError, match="molecule 1 of the list has a line break"):
        TOKENIZER.encode_list(["C", "C\nC"])


def test_lists_templates_padding_and_tensors():
    assert TOKENIZER.encode_list(["C", "", "CO"]) == [[45], [], [45, 102]]
    assert TOKENIZER.encode_list([]) == []
    assert SmirkTokenizer(template=True).encode_list(["C", "", "CO"]) == [
        [163, 45, 161],
        [163, 161],
        [163, 45, 102, 161],
    ]
    found = TOKENIZER(["C", "CCO"], padding=True, return_tensors="pt")
    assert found["input_ids"].tolist() == [[45, 162, 162], [45, 45, 102]]
    assert found["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert TOKENIZER("CO") == {"input_ids": [45, 102], "attention_mask": [1, 1]}
    assert TOKENIZER("CCO", truncation=True, max_length=2)["input_ids"] == [45, 45]
    with pytest.raises(DataError, match="molecule 0 has 3 tokens, more than max_length 2"):
        TOKENIZER("CCO", max_length=2)
    with pytest.raises(DataError, match="ask for padding=True"):
        TOKENIZER(["C", "CC"], return_tensors="pt")
    with pytest.raises(ConfigError, match="return_tensors is 'np'"):
        TOKENIZER("C", return_tensors="np")


def test_decoding():
    rows = TOKENIZER.encode_list(["C[C@H](F)Cl", "[Cu++]"])
    assert TOKENIZER.batch_decode(rows) == ["C[C@H](F)Cl", "[Cu+2]"]
    assert TOKENIZER.decode([163, 45, 161, 162]) == "C"
    assert TOKENIZER.decode([163, 45], skip_special_tokens=False) == "[CLS]C"
    with pytest.raises(DataError, match="165 is no id"):
        TOKENIZER.decode([165])


def test_files(tmp_path):
    folder = SmirkTokenizer(template=True).save_pretrained(tmp_path / "tokenizer")
    again = SmirkTokenizer.from_pretrained(folder)
    assert again.encode("CO") == [163, 45, 102, 161]
    with pytest.raises(FileFormatError, match="there is no such file"):
        SmirkTokenizer.from_pretrained(tmp_path)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"]["C"] = 46
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(FileFormatError, match="vocabulary is not that of SmirkTokenizer"):
        SmirkTokenizer.from_pretrained(folder)


def test_stock_tokenizers_give_equal_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folder = TOKENIZER.save_pretrained(tmp_path)
    stock = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for smiles in ("[13C@@H](F)(Cl)Br", "F[As@TB15]", "Sc1ccccc1", "[Sc+3]", "C%12CC%12", "c1cc[nH]c1", "[Os@OH12]"):
        assert stock.encode(smiles).ids == TOKENIZER.encode(smiles)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.text(alphabet=st.characters(blacklist_characters="\n"), max_size=40))
def test_any_text_is_covered_and_nothing_is_lost(text):
    pieces = split_smiles(text.strip())
    place = 0
    for piece in pieces:
        assert piece.begin == place
        assert piece.end > piece.begin or piece.glyph in "0123456789"
        place = max(place, piece.end)
    assert place == len(text.strip())
    assert len(TOKENIZER.encode(text)) == len(pieces)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*GLYPH_IDS, "[13CH3]", "[O-]", "[Fe+++]", "~", " "]), max_size=25).map("".join))
def test_a_list_is_its_strings_one_by_one(text):
    assert TOKENIZER.encode_list(["C", text, "O"]) == [[45], TOKENIZER.encode(text), [102]]


# -------------------------------------------------------------------- as the structure of a graph


def test_builder_makes_tokens_of_every_molecule():
    graph = from_smiles(["c1ccccc1", "O"], mole_fraction=[0.5, 0.5])
    SmilesTokens().build(graph)
    text = TOKENIZER.decode(graph.token_id)
    assert text == "C1=CC=CC=C1O"
    assert torch.bincount(graph.token_component).tolist() == [11, 1]
    graph = from_smiles("c1ccccc1")
    SmilesTokens(form="as-is", template=True).build(graph)
    assert TOKENIZER.decode(graph.token_id, skip_special_tokens=False) == "[CLS]c1ccccc1[SEP]"
    SmilesTokens(form="as-is", max_tokens=3, truncate=True).build(graph)
    assert TOKENIZER.decode(graph.token_id) == "c1c"
    graph.validate()


def test_builder_refuses_what_it_can_not_do():
    with pytest.raises(DataError, match="has 8 tokens, more than the 3"):
        SmilesTokens(form="as-is", max_tokens=3).build(from_smiles("c1ccccc1"))
    with pytest.raises(DataError, match="SMILES"):
        SmilesTokens().build(from_smiles("C1CC"))
    with pytest.raises(DataError, match="is not in the vocabulary"):
        SmilesTokens(form="as-is").build(from_smiles("C~C"))
    with pytest.raises(ConfigError, match="form is 'kekulé'"):
        SmilesTokens(form="kekulé")
    spec = GraphSpec((SmilesTokens(template=True),))
    assert GraphSpec.from_dict(spec.to_dict()) == spec
