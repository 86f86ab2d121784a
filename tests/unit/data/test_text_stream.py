"""Streams of SMILES: order, ranks, what is left out, batches with hidden tokens, going on where a run stopped."""

import gzip

import numpy as np
import pytest
import torch

from geomlib.data.smirk_grammar import GLYPHS
from geomlib.data.text_module import TextDataModule, TokenBatches, hide
from geomlib.data.text_stream import Exclusions, LineStream, find_shards
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, DataError, FileFormatError
from geomlib.graphs.tokens import SmilesTokens

MASK = SmirkTokenizer.mask_token_id


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        lines = [f"{'C' * (1 + (7 * number + k) % 11)}O{'N' * number} name{k}" for k in range(20)]
        text = "\n".join(lines) + "\n\n"
        if number == 2:
            (tmp_path / "2.smi.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / f"{number}.smi").write_text(text)
    return find_shards(str(tmp_path))


def batches_of(shards, rank=0, world_size=1, **options):
    stream = LineStream(shards, 3, 8, rank, world_size)
    given = {"max_tokens": 40, "batches": 12, "seed": 3, **options}
    return TokenBatches(stream, SmilesTokens(form="as-is"), **given)


def test_every_line_once_in_a_new_order(shards):
    assert [path.name for path in shards] == ["0.smi", "1.smi", "2.smi.gz"]
    stream = LineStream(shards, 3, 8)
    first, again, second = list(stream.lines(0)), list(stream.lines(0)), list(stream.lines(1))
    assert first == again != second
    assert sorted(first) == sorted(second) == sorted(LineStream(shards, shuffle=False).lines(0))
    assert len(first) == 60
    for begin in (1, 7, 8, 9, 31, 59, 60, 80):
        assert list(stream.lines(0, begin)) == first[begin:]


def test_ranks_share_the_lines(shards):
    whole = sorted(LineStream(shards, 3, 8).lines(2))
    parts = [list(LineStream(shards, 3, 8, rank, 3).lines(2)) for rank in range(3)]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert sorted(line for part in parts for line in part) == whole


def test_batches_hide_tokens_and_keep_the_truth(shards):
    tokenizer, molecules = SmirkTokenizer(), []
    for batch in batches_of(shards, batches=30, share=0.3):
        assert len(batch.token_id) <= 40
        assert batch.num_graphs == len(batch.component_graph)
        chosen = batch.token_label >= 0
        assert bool(chosen.any())
        true = torch.where(chosen, batch.token_label, batch.token_id)
        assert not bool((true == MASK).any())
        rows = true.split(torch.bincount(batch.token_component).tolist())
        molecules += tokenizer.batch_decode(rows)
    stream = LineStream(shards, 3, 8)
    lines = [line for number in range(4) for line in stream.lines(number)]
    assert len(molecules) > 60
    assert molecules == lines[: len(molecules)]


def test_a_run_goes_on_bit_for_bit(shards):
    whole = batches_of(shards, batches=25)
    expected = list(whole)
    for stop in (1, 8, 24):
        before = batches_of(shards, batches=25)
        iterator = iter(before)
        for _ in range(stop):
            next(iterator)
        after = batches_of(shards, batches=25)
        after.load_state_dict(before.state_dict())
        found = list(after)
        assert len(found) == 25 - stop
        for a, b in zip(found, expected[stop:], strict=True):
            assert torch.equal(a.token_id, b.token_id)
            assert torch.equal(a.token_label, b.token_label)
    # the next epoch goes on in the stream
    assert not torch.equal(next(iter(whole)).token_id, expected[0].token_id)
    with pytest.raises(FileFormatError, match="not that of a text stream: it lacks 'pass'"):
        whole.load_state_dict({"epoch": 1})


def test_bad_lines_are_left_out_and_counted(tmp_path, caplog):
    (tmp_path / "a.smi").write_text("CCO\nC1CC\nC~C\n" + "C" * 50 + "\nCCN\n")
    spec = SmilesTokens(max_tokens=20)
    batches = TokenBatches(LineStream(find_shards(str(tmp_path)), shuffle=False), spec, 100)
    (batch,) = batches
    true = torch.where(batch.token_label >= 0, batch.token_label, batch.token_id)
    assert SmirkTokenizer().decode(true) == "CCOCCN"
    assert (batches.bad, batches.molecules) == (3, 2)
    assert "'C1CC' is left out" in caplog.text
    assert "has 50 tokens, more than 20" in caplog.text
    (tmp_path / "a.smi").write_text("C1CC\n")
    with pytest.raises(DataError, match="no line is a molecule that can be used"):
        list(TokenBatches(LineStream(find_shards(str(tmp_path))), spec, 100, 5))


def test_excluded_molecules_are_known_in_any_writing(tmp_path):
    (tmp_path / "test.txt").write_text("OCC\nc1ccccc1 benzene\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.smi").write_text("CCO\nC1=CC=CC=C1\nCCN\n")
    exclude = Exclusions(tmp_path / "test.txt")
    assert len(exclude) == 2
    stream = LineStream(find_shards(str(tmp_path / "text")), shuffle=False)
    batches = TokenBatches(stream, SmilesTokens(), 100, exclude=exclude)
    (batch,) = batches
    assert batch.num_graphs == 1
    assert batches.excluded == 2
    (tmp_path / "test.txt").write_text("CCO\nC1CC\n")
    with pytest.raises(FileFormatError, match=r"test.txt, line 2: "):
        Exclusions(tmp_path / "test.txt")


def test_a_molecule_is_written_once_and_counted_in_every_pass(tmp_path):
    (tmp_path / "test.smi").write_text("OCC\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.smi").write_text("CCO\nCCN\nCCC\n")
    written = []

    class Spec(SmilesTokens):
        def write(self, smiles):
            written.append(smiles)
            return super().write(smiles)

    stream = LineStream(find_shards(str(tmp_path / "text")), seed=0)
    batches = TokenBatches(stream, Spec(), 1000, 3, exclude=Exclusions(tmp_path / "test.smi"))
    assert [batch.num_graphs for batch in batches] == [2, 2, 2]
    assert sorted(written) == ["CCC", "CCN"]
    assert (batches.excluded, batches.molecules) == (3, 6)


def test_share_of_chosen_tokens():
    rng = np.random.default_rng(0)
    ids = np.concatenate([[SmirkTokenizer.cls_token_id], rng.integers(1, 159, 40_000), [0]])
    hidden, label = hide(ids, 0.15, rng)
    chosen = label >= 0
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)
    assert not chosen[0]
    assert not chosen[-1]
    assert (label[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert (hidden[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (hidden[chosen] == ids[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert hidden[chosen & (hidden != MASK)].max() <= len(GLYPHS)
    assert (hide(np.array([45, 45]), 1e-9, rng)[1] >= 0).sum() == 1


def test_bad_arguments(tmp_path):
    with pytest.raises(FileFormatError, match="there is no text file of SMILES"):
        find_shards(str(tmp_path / "*.smi"))
    (tmp_path / "broken.smi.gz").write_bytes(b"no gzip")
    with pytest.raises(FileFormatError, match=r"broken.smi.gz: can't be read as text"):
        list(LineStream(find_shards(str(tmp_path))).lines(0))
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        LineStream([], rank=2, world_size=2)
    with pytest.raises(ConfigError, match=r"share 1\.5"):
        TextDataModule("x", share=1.5)
    with pytest.raises(ConfigError, match="takes no tokens"):
        TextDataModule("x")._spec()
