"""SELFIES tokens: the fixed vocabulary, unknown symbols, round trips, atoms of tokens, files, the net's form. 8 s."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest
import torch

from geomlib.data.cards import find_cards
from geomlib.data.molecules import canonical_smiles, from_smiles, kekule_smiles, parse_molecule, random_smiles
from geomlib.data.selfies_tokens import SYMBOLS, SelfiesTokenizer, selfies_to_smiles, smiles_to_selfies
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, DataError, FileFormatError, MissingExtra
from geomlib.files.huggingface import export_huggingface, import_huggingface
from geomlib.graphs.spec import GraphSpec
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models import MIST, MISTProperty

TOKENIZER = SelfiesTokenizer()


def molecules():
    file = find_cards()["calculated-properties"]
    with (file if file.is_dir() else file.parent).joinpath("table.csv").open() as table:
        return [row["smiles"] for row in csv.DictReader(table)]


def test_vocabulary_has_the_ids_of_the_other_one():
    assert TOKENIZER.vocab_size == SmirkTokenizer().vocab_size == 165
    assert len(set(TOKENIZER.vocabulary)) == 165 and list(SYMBOLS) == sorted(SYMBOLS)
    for name in ("unk", "bos", "eos", "sep", "pad", "cls", "mask"):
        own = getattr(TOKENIZER, f"{name}_token_id")
        assert own == getattr(SmirkTokenizer(), f"{name}_token_id")
        assert TOKENIZER.vocabulary[own] == f"[{name.upper()}]"


def test_unknown_symbols():
    assert TOKENIZER.tokenize(" [C][Xx]what[O][MASK]") == ["[C]", "[UNK]", "[UNK]", "[O]", "[UNK]"]
    assert TOKENIZER.offsets(" [C][Xx]what[O]") == [(1, 4), (4, 8), (8, 12), (12, 15)]
    assert [number == 0 for number in TOKENIZER.encode("[C][Xx]what[O][MASK]")] == [False, True, True, False, True]
    with pytest.raises(DataError, match=r"SELFIES '\[C\]\[Xx\]': '\[Xx\]' at character 3 is not in the vocabulary"):
        TOKENIZER.encode_list(["[C]", "[C][Xx]"], strict=True)
    more = SelfiesTokenizer(extra=["[Xx]"])
    assert more.encode("[C][Xx]") == [TOKENIZER.encode("[C]")[0], 165]
    assert more.decode([165, 163]) == "[Xx]"
    for extra in ("C", "[C]", "[MASK]"):
        with pytest.raises(ConfigError, match="expected one in brackets that the vocabulary lacks"):
            SelfiesTokenizer(extra=[extra])
    with pytest.raises(ConfigError, match="extra symbol"):
        SelfiesTokenizer(extra=["[Xx]", "[Xx]"])


def test_symbols_of_a_text_are_learned():
    lines = ["[Xx][C][Yy]", "[Yy][O]", "[Zz][MASK]"]
    assert SelfiesTokenizer.train(iter(lines)).extra == ("[Yy]", "[Xx]", "[Zz]")
    assert SelfiesTokenizer.train(lines, min_frequency=2).extra == ("[Yy]",)


def test_lists_template_and_tensors():
    carbon, oxygen = TOKENIZER.encode("[C][O]")
    framed = SelfiesTokenizer(template=True)
    assert framed.encode_list(["[C]", "", "[O]"]) == [[163, carbon, 161], [163, 161], [163, oxygen, 161]]
    assert framed.decode(framed.encode("[C].[O]")) == "[C].[O]"
    found = TOKENIZER(["[C]", "[C][O]"], padding=True, return_tensors="pt")
    assert found["input_ids"].tolist() == [[carbon, 162], [carbon, oxygen]]
    assert TOKENIZER.encode_list([]) == []


def test_round_trips():
    pytest.importorskip("selfies", reason="needs selfies (extra selfies)")
    texts = molecules()[:400]
    assert len(texts) == 400
    for text in texts:
        molecule = parse_molecule(text)
        written = smiles_to_selfies(kekule_smiles(molecule))
        ids = TOKENIZER.encode(written, strict=True)
        assert canonical_smiles(parse_molecule(selfies_to_smiles(TOKENIZER.decode(ids)))) == canonical_smiles(molecule)


@pytest.mark.parametrize("form", ["kekule", "canonical", "selfies"])
def test_atoms_of_tokens(form):
    """Every atom has a token with its element, and a token of two atoms stands for a bond between them."""
    if form == "selfies":
        pytest.importorskip("selfies", reason="needs selfies (extra selfies)")
    builder = SmilesTokens(form)
    more = ["C%12CC%12C(=O)[NH2+][C@@H](F)Cl", "C(C)(C)(C)C/C=C/C#N", "c1cc(-c2ccccc2)ccc1.[Na+]", "O=C1CCCCC1"]
    for text in [*molecules()[:150], *more]:
        written = builder.write(text)
        smiles = selfies_to_smiles(written) if form == "selfies" else written
        molecule = parse_molecule(smiles)
        tokens, owners = builder.tokenizer.tokenize(written), builder.tokenizer.token_atoms(written)
        assert len(tokens) == len(owners)
        for atom in molecule.GetAtoms():
            own = [token for token, owner in zip(tokens, owners, strict=True) if owner == (atom.GetIdx(),)]
            assert any(atom.GetSymbol().lower() in token.lower() for token in own), (written, atom.GetIdx(), own)
        for token, owner in zip(tokens, owners, strict=True):
            assert all(index < molecule.GetNumAtoms() for index in owner)
            if len(owner) == 2:
                assert token in "-=#:/\\" and molecule.GetBondBetweenAtoms(*owner) is not None, (written, token, owner)


def test_what_counts_is_no_atom():
    assert TOKENIZER.token_atoms("[C][Branch1][C][O][C].[N]") == [(0,), (), (), (1,), (2,), (), (3,)]
    assert TOKENIZER.token_atoms("[C][C][C][=Ring2][Ring1][O]") == [(0,), (1,), (2,), (2,), (2,), (2,)]
    assert SmirkTokenizer().token_atoms("C1(=O)C%(12)-[Na+]") == [
        *[(0,), (0,), (), (0, 1), (1,), (), (2,)],
        *[(2,), (2,), (2,), (2,), (2,), (2, 3), (3,), (3,), (3,), (3,)],
    ]
    assert SmirkTokenizer().token_atoms("C=1CC=1") == [(0,), (0,), (0,), (1,), (2,), (2,), (2,)]


def test_files(tmp_path):
    folder = SelfiesTokenizer(template=True, extra=["[Xx]"]).save_pretrained(tmp_path / "tokenizer")
    again = SelfiesTokenizer.from_pretrained(folder)
    assert again.template and again.extra == ("[Xx]",)
    assert json.loads((folder / "special_tokens_map.json").read_text())["cls_token"] == "[CLS]"
    with pytest.raises(FileFormatError, match="vocabulary is not that of SmirkTokenizer"):
        SmirkTokenizer.from_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "extra": ["no symbol"]}))
    with pytest.raises(FileFormatError, match="holds no tokenizer that can be read"):
        SelfiesTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("kind", [SmirkTokenizer, SelfiesTokenizer])
@pytest.mark.parametrize("reader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_stock_transformers_gives_equal_ids(tmp_path, kind, template, reader):
    transformers = pytest.importorskip("transformers", reason="needs transformers (extra hf)")
    own = kind(template)
    stock = getattr(transformers, reader).from_pretrained(own.save_pretrained(tmp_path))
    smiles = ["[13C@@H](F)(Cl)Br", "Sc1ccccc1", " [Sc+3]", "[Fe+++].[O--]", "C%12CC%12", "C~C"]
    texts = smiles if kind is SmirkTokenizer else ["[C][=Branch1][C][=O][O-1]", " [Na+1].[C][Xx]", "[C]what[C]"]
    for text in texts:
        assert stock(text)["input_ids"] == own.encode(text), text
    assert stock(texts, padding=True)["attention_mask"] == own(texts, padding=True)["attention_mask"]
    assert stock.decode(own.encode(texts[0]), skip_special_tokens=True) == texts[0]
    assert (stock.pad_token_id, stock.mask_token_id, stock.cls_token_id, stock.unk_token_id) == (162, 164, 163, 0)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "selfies", None)
    with pytest.raises(MissingExtra, match=r"SELFIES needs the package 'selfies': pip install 'geomlib\[selfies\]'"):
        smiles_to_selfies("C")


# -------------------------------------------------------------------- as the form of a net


def test_form_of_a_net(tmp_path):
    pytest.importorskip("selfies", reason="needs selfies (extra selfies)")
    builder = SmilesTokens("selfies", template=True)
    graph = from_smiles("c1ccccc1")
    builder.build(graph)
    assert builder.read(graph.token_id) == "C1=CC=CC=C1"
    net = MIST(layers=1, width=8, heads=2, feedforward=8, positions=40, form="selfies").eval()
    assert GraphSpec.from_dict(json.loads(json.dumps(net.spec.to_dict()))) == net.spec
    assert bool(torch.isfinite(net(net.spec.build(from_smiles("c1ccccc1")))["token_logit"]).all())
    folder = export_huggingface(net, tmp_path / "net")
    assert SelfiesTokenizer.from_pretrained(folder).encode("[C]") == TOKENIZER.encode("[C]")
    assert import_huggingface(folder).spec == net.spec
    with pytest.raises(DataError, match=r"SELFIES '\[Xe\+1\]': '\[Xe\+1\]' at character 0 is not in the vocabulary"):
        builder.build(from_smiles("[Xe+]"))
    with pytest.raises(DataError, match=r"can't be written as SELFIES"):
        builder.build(from_smiles("O=I(=O)c1ccccc1"))


def test_augmented_writings_are_kept():
    """SMILES that augmentation wrote are not brought back to the canonical order."""
    pytest.importorskip("selfies", reason="needs selfies (extra selfies)")
    spec = MISTProperty(["y"], layers=1, width=8, heads=2, feedforward=8, positions=60, form="selfies").spec
    assert spec.smiles_form == "kekule"
    generator = torch.Generator().manual_seed(0)
    texts = {random_smiles(parse_molecule("CCOc1ccccc1"), generator, kekule=True) for _ in range(20)}
    rows = {tuple(spec.as_written().build(from_smiles(text)).token_id.tolist()) for text in texts}
    assert len(rows) == len(texts) > 5
    tokens = spec.find(SmilesTokens)
    assert {canonical_smiles(parse_molecule(tokens.read(row))) for row in rows} == {"CCOc1ccccc1"}


def test_common_data_are_covered():
    path = Path(__file__).parents[4] / "shared/data/molnet/bbbp.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    pytest.importorskip("selfies", reason="needs selfies (extra selfies)")
    with gzip.open(path, "rt") as file:
        texts = [row["smiles"] for row in csv.DictReader(file)][::8]
    builder, known = SmilesTokens("selfies"), 0
    for text in texts:
        known += 0 not in TOKENIZER.encode(builder.write(text))
    assert known >= 0.99 * len(texts) > 200
