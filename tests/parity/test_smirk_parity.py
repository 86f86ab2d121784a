"""Tokens against those of the published tokenizer. Budget: 2 s."""

import json
from pathlib import Path

import pytest

from geomlib.data.tokens import SmirkTokenizer

FILE = Path(__file__).parents[2].parent / "shared" / "data" / "mist_parity" / "tokenizer_cases.json"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="needs ../shared/data/mist_parity")


def test_ids_decoding_and_what_must_be_flagged():
    cases, tokenizer = json.loads(FILE.read_text()), SmirkTokenizer()
    assert len(cases["valid"]) == 120
    rows = tokenizer.encode_list([case["smiles"] for case in cases["valid"]], strict=True)
    for case, ids in zip(cases["valid"], rows, strict=True):
        assert ids == case["ids"], case["smiles"]
        assert tokenizer.decode(ids) == case["decoded"]
    for smiles in cases["must_flag"]:
        assert tokenizer.unk_token_id in tokenizer.encode(smiles), smiles
    for first, second in cases["same_ids"]:
        assert tokenizer.encode(first) == tokenizer.encode(second)
