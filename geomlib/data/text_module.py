"""`TextDataModule`: batches of tokens for pretraining, from text files that need not fit into memory."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from geomlib.data.graph import GraphData, assemble
from geomlib.data.memo import Memo
from geomlib.data.molecular_tokenizer import MolecularTokenizer
from geomlib.data.molecules import canonical_smiles, parse_molecule
from geomlib.data.smirk_grammar import GLYPHS
from geomlib.data.text_stream import Exclusions, LineStream, find_shards
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibError

__all__ = ["TextDataModule", "TokenBatches"]

log = logging.getLogger(__name__)

_CHUNK = 512
"""Lines that are taken apart at once."""

_SHOWN = 5
"""Bad lines that are named in the log."""

NOT_COUNTED = -100


class Writing(Protocol):
    """How molecules are written and taken apart: the builder of tokens of a net."""

    @property
    def template(self) -> bool:
        """Special tokens stand at both ends."""

    @property
    def max_tokens(self) -> int:
        """Longest molecule; 0 sets no limit."""

    @property
    def truncate(self) -> bool:
        """Longer molecules are cut instead of refused."""

    @property
    def tokenizer(self) -> MolecularTokenizer:
        """What makes ids of the written molecule."""

    def write(self, smiles: str) -> str:
        """The molecule in the form that the net reads."""


class TokenBatches:
    """Packed batches of a stream with hidden tokens, resumable.

    A batch takes molecules until it has `max_tokens` tokens. Of these, `share` are chosen; 80 % of the chosen ones are
    hidden behind `[MASK]`, 10 % become another glyph and 10 % stay. Which ones follows from the seed and the place in
    the stream alone. Lines that are no molecules are counted and left out.

    Args:
        stream: of lines.
        spec: how molecules are written and taken apart.
        max_tokens: of a batch.
        batches: of an epoch; None ends it with a pass over the stream.
        share: of the tokens that are chosen.
        seed: of the choice.
        exclude: molecules to leave out.
    """

    def __init__(
        self,
        stream: LineStream,
        spec: Writing,
        max_tokens: int,
        batches: int | None = None,
        share: float = 0.15,
        seed: int = 0,
        exclude: Exclusions | None = None,
    ) -> None:
        self.stream, self.spec, self.max_tokens, self.batches = stream, spec, max_tokens, batches
        self.share, self.seed, self.exclude = share, seed, exclude
        self.tokenizer = spec.tokenizer
        self.bad = self.excluded = self.molecules = 0
        self._pass, self._line, self._handed_out = 0, 0, 0
        self._form = Memo(self._formed)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError("a stream that is read once has no known number of batches")
        return self.batches

    def __iter__(self) -> Iterator[GraphData]:
        if self.batches is None:
            self._pass, self._line, self._handed_out = 0, 0, 0
        elif self._handed_out >= self.batches:
            self._handed_out = 0
        return self._run()

    def _run(self) -> Iterator[GraphData]:
        while self.batches is None or self._handed_out < self.batches:
            made = 0
            for batch, line in self._of_pass(self._pass, self._line):
                made += 1
                self._line = line
                self._handed_out += 1
                yield batch
                if self._handed_out == self.batches:
                    return
            if not made and not self._line:
                raise DataError(
                    f"{', '.join(map(str, self.stream.shards[:3]))}: no line is a molecule that can be used "
                    f"({self.bad} are none, {self.excluded} are left out)"
                )
            if self.batches is None:
                return
            self._pass, self._line = self._pass + 1, 0

    def _of_pass(self, number: int, begin: int) -> Iterator[tuple[GraphData, int]]:
        """Batches of a pass, and the position after each."""
        waiting: list[tuple[np.ndarray, int]] = []
        tokens, first = 0, begin
        for ids, after in self._molecules(number, begin):
            if waiting and tokens + len(ids) > self.max_tokens:
                yield self._batch([row for row, _ in waiting], number, first), waiting[-1][1]
                first, waiting, tokens = waiting[-1][1], [], 0
            waiting.append((ids, after))
            tokens += len(ids)
        if waiting:
            yield self._batch([row for row, _ in waiting], number, first), waiting[-1][1]

    def _molecules(self, number: int, begin: int) -> Iterator[tuple[np.ndarray, int]]:
        """Ids of each molecule that can be used, and the position after its line."""
        lines, position = self.stream.lines(number, begin), begin
        while chunk := [line for _, line in zip(range(_CHUNK), lines, strict=False)]:
            written = [self._written(line) for line in chunk]
            usable = [(text, position + k + 1) for k, text in enumerate(written) if text is not None]
            ids, lengths = self.tokenizer.encode_packed([text for text, _ in usable])
            ends = np.cumsum(lengths)
            for (text, after), row in zip(usable, np.split(ids, ends[:-1]) if usable else [], strict=True):
                if not len(row) or not row.all():
                    self._complain(text, "holds what the vocabulary lacks")
                elif self.spec.max_tokens and len(row) > self.spec.max_tokens:
                    if self.spec.truncate:
                        yield row[: self.spec.max_tokens], after
                    else:
                        self._complain(text, f"has {len(row)} tokens, more than {self.spec.max_tokens}")
                else:
                    self.molecules += 1
                    yield row, after
            position += len(chunk)

    def _written(self, line: str) -> str | None:
        try:
            text = self._form(line)
        except GeomlibError as error:
            self._complain(line, str(error))
            return None
        self.excluded += text is None
        return text

    def _formed(self, line: str) -> str | None:
        if self.exclude is not None and canonical_smiles(parse_molecule(line)) in self.exclude:
            return None
        return self.spec.write(line)

    def _complain(self, line: str, reason: str) -> None:
        self.bad += 1
        if self.bad <= _SHOWN:
            log.warning("'%s' is left out: %s", line[:60], reason)
        elif self.bad == _SHOWN + 1:
            log.warning("further lines that are left out are counted only")

    def _batch(self, rows: Sequence[np.ndarray], number: int, first: int) -> GraphData:
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))
        component = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        rng = np.random.default_rng((self.seed, number, first, self.stream.rank, 1))
        hidden, label = hide(ids.numpy(), self.share, rng)
        ones = torch.ones(len(rows), dtype=torch.int64)
        values = {
            "component_graph": torch.zeros(len(rows), dtype=torch.int64),
            "token_id": torch.from_numpy(hidden),
            "token_label": torch.from_numpy(label),
            "token_component": torch.zeros(len(ids), dtype=torch.int64),
        }
        sizes = {"component_graph": ones, "token_id": lengths, "token_label": lengths, "token_component": lengths}
        batch = assemble(values, sizes)
        assert torch.equal(batch.token_component, component)
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands."""
        return {"pass": self._pass, "line": self._line, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            FileFormatError: it is not one of a stream.
        """
        try:
            self._pass, self._line, self._handed_out = (int(state[name]) for name in ("pass", "line", "batches"))
        except KeyError as error:
            raise FileFormatError(
                f"the checkpoint's data state is not that of a text stream: it lacks {error}"
            ) from None


def hide(ids: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids with some hidden, and the true ids of those (−100 elsewhere); special tokens are never chosen.

    Args:
        ids: of glyphs and special tokens.
        share: of the tokens that are chosen; at least one is.
        rng: random numbers.

    Source: Devlin et al. 2019 (arXiv 1810.04805); random replacements are glyphs.
    """
    glyph = (ids > 0) & (ids <= len(GLYPHS))
    chosen = glyph & (rng.random(len(ids)) < share)
    if not chosen.any() and glyph.any():
        chosen[rng.choice(np.flatnonzero(glyph))] = True
    label = np.where(chosen, ids, NOT_COUNTED)
    fate = rng.random(len(ids))
    random = rng.integers(1, len(GLYPHS) + 1, len(ids))
    hidden = np.where(chosen & (fate < 0.8), MolecularTokenizer.mask_token_id, ids)
    return np.where(chosen & (fate >= 0.9), random, hidden), label


class TextDataModule(LightningDataModule):
    """Text files of SMILES, one molecule per line, as packed batches for pretraining.

    How molecules are written and taken apart is read from the net. An epoch is a number of batches, after which
    validation may come; passes over the text follow each other whatever the epochs. A run that was stopped goes on with
    the line that would have come next.

    Args:
        train: a file, a folder of .smi, .txt and .smiles files (.gz too), a pattern with `*`, or a list of these.
        val: likewise; the same tokens are hidden in each validation.
        max_tokens: of a batch of one process.
        steps_per_epoch: batches of an epoch of one process.
        share: of the tokens that are chosen.
        exclude: file of SMILES that must not be trained on.
        block: lines that are shuffled together.
        seed: of the order and of the choice.
        test: as `val`, for a test; the text of `val` if there is no other.

    Raises:
        ConfigError: arguments out of range.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        max_tokens: int = 8192,
        steps_per_epoch: int = 500,
        share: float = 0.15,
        exclude: str | None = None,
        block: int = 100_000,
        seed: int = 0,
        test: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        if max_tokens < 1 or steps_per_epoch < 1 or not 0 < share < 1:
            raise ConfigError(
                f"max_tokens {max_tokens}, steps_per_epoch {steps_per_epoch}, share {share}: expected numbers of at "
                "least 1, and a share between 0 and 1"
            )
        self.train, self.val, self.test, self.exclude = train, val, test, exclude
        self.max_tokens, self.steps_per_epoch, self.share = max_tokens, steps_per_epoch, share
        self.block, self.seed = block, seed

    def _spec(self) -> Writing:
        module = getattr(self.trainer, "lightning_module", None)
        spec = getattr(getattr(module, "net", None), "spec", None)
        builders = getattr(spec, "builders", ())
        found: Writing | None = next((builder for builder in builders if builder.kind == "smiles_tokens"), None)
        if found is None:
            raise ConfigError(
                "TextDataModule reads from the net how SMILES are taken apart, and this net takes no tokens"
            )
        return found

    def _stream(self, source: str | list[str], *, shuffle: bool) -> LineStream:
        ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return LineStream(find_shards(source), self.seed, self.block, *ranks, shuffle=shuffle)

    def train_dataloader(self) -> TokenBatches:
        """Batches of the training text."""
        exclude = Exclusions(Path(self.exclude)) if self.exclude else None
        stream = self._stream(self.train, shuffle=True)
        return TokenBatches(stream, self._spec(), self.max_tokens, self.steps_per_epoch, self.share, self.seed, exclude)

    def val_dataloader(self) -> TokenBatches | list[TokenBatches]:
        """Batches of the validation text, one pass over it; none if there is no such text."""
        return [] if self.val is None else self._pass(self.val)

    def test_dataloader(self) -> TokenBatches:
        """Batches of the test text, one pass over it.

        Raises:
            ConfigError: there is neither a test nor a validation text.
        """
        source = self.val if self.test is None else self.test
        if source is None:
            raise ConfigError("there is no text to test on: set data.test or data.val")
        return self._pass(source)

    def _pass(self, source: str | list[str]) -> TokenBatches:
        stream = self._stream(source, shuffle=False)
        return TokenBatches(stream, self._spec(), self.max_tokens, None, self.share, self.seed + 1)
