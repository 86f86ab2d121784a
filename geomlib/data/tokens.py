"""`SmirkTokenizer`: SMILES as ids of glyphs, with bracket atoms taken apart."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from geomlib.data.smirk_grammar import GLYPH_IDS, GLYPHS, OUTSIDE, SPECIALS, UNKNOWN, Piece, split_smiles
from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = ["SmirkTokenizer"]

_SEPARATOR = 255
"""Between the strings of a list while they are ids of one byte each."""


class _Words(dict[str, bytes]):
    """Piece of a string → its ids as bytes; bracket atoms are taken apart once each."""

    def __missing__(self, word: str) -> bytes:
        ids = bytes(GLYPH_IDS.get(piece.glyph or "", UNKNOWN) for piece in split_smiles(word))
        if len(self) < 100_000:
            self[word] = ids
        return ids


class SmirkTokenizer:
    """Tokenizer of SMILES whose vocabulary covers all of OpenSMILES with 165 ids.

    A bracket atom falls into isotope, symbol, chirality, hydrogens, charge and class, every digit on its own. Ids are
    those of the published tokenizer. Text that no rule matches becomes one `[UNK]` per run, and is never lost.

    Args:
        template: put `[CLS]` before and `[SEP]` after each molecule.

    Source: Wadell, Bhutani, Viswanathan 2024 (arXiv 2409.15370). Differences: text that is no SMILES is reported, any
        number of equal signs of charge is counted, lists are taken.
    """

    vocabulary: tuple[str, ...] = ("[UNK]", *GLYPHS, *SPECIALS)
    unk_token_id = UNKNOWN
    bos_token_id, eos_token_id, sep_token_id, pad_token_id, cls_token_id, mask_token_id = range(
        len(GLYPHS) + 1, len(GLYPHS) + 1 + len(SPECIALS)
    )

    def __init__(self, template: bool = False) -> None:
        self.template = template
        self._words = _Words({glyph: bytes([number]) for glyph, number in GLYPH_IDS.items() if _stands_alone(glyph)})
        self._words["\n"] = bytes([_SEPARATOR])

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary)

    # ---------------------------------------------------------------- encoding

    def encode(self, smiles: str, *, strict: bool = False) -> list[int]:
        """Ids of a molecule.

        Args:
            smiles: text; white space at its ends is left out.
            strict: raise where text is no SMILES.

        Raises:
            DataError: with `strict`, text that no rule matches; says where.
        """
        return self.encode_list([smiles], strict=strict)[0]

    def encode_list(self, smiles: Sequence[str], *, strict: bool = False) -> list[list[int]]:
        """Ids of several molecules; see `encode`."""
        ids, lengths = self.encode_packed(smiles, strict=strict)
        rows = ids.tolist()
        ends = np.cumsum(lengths).tolist()
        return [rows[a:b] for a, b in pairwise([0, *ends])]

    def encode_packed(
        self, smiles: Sequence[str], *, strict: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Ids of several molecules one after the other, and how many each has.

        Raises:
            DataError: a string with a line break in it; with `strict`, text that is no SMILES.
        """
        lines = [text.strip() for text in smiles]
        if not lines:
            return np.zeros(0, np.uint8), np.zeros(0, np.int64)
        text = "\n".join(lines)
        if text.count("\n") != len(lines) - 1:
            number = next(k for k, line in enumerate(lines) if "\n" in line)
            raise DataError(f"molecule {number} of the list has a line break in it: {lines[number][:60]!r}")
        words = self._words
        ids = np.frombuffer(b"".join([words[word] for word in OUTSIDE.findall(text)]), dtype=np.uint8)
        breaks = np.flatnonzero(ids == _SEPARATOR)
        ends = np.append(breaks, len(ids))
        lengths = np.diff(np.append(-1, ends)) - 1
        ids = np.delete(ids, breaks)
        if not ids.all():
            if strict:
                self._complain(lines, ids, lengths)
            ids, lengths = _collapsed(ids, lengths)
        if self.template:
            ids, lengths = self._with_template(ids, lengths)
        return ids, lengths

    def _complain(self, lines: Sequence[str], ids: NDArray[np.uint8], lengths: NDArray[np.int64]) -> None:
        molecule = int(np.searchsorted(np.cumsum(lengths), np.flatnonzero(ids == UNKNOWN)[0], side="right"))
        line = lines[molecule]
        piece = next(piece for piece in split_smiles(line) if piece.glyph is None)
        raise DataError(
            f"SMILES '{line[:60]}': {line[piece.begin : piece.end][:20]!r} at character {piece.begin} is not in the "
            "vocabulary"
        )

    def _with_template(
        self, ids: NDArray[np.uint8], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        ends = np.cumsum(lengths)
        out = np.insert(ids, np.concatenate([ends - lengths, ends]), 0)
        lengths = lengths + 2
        ends = np.cumsum(lengths)
        # both kinds were put in as zeros; where a molecule begins and ends is known
        out[ends - lengths], out[ends - 1] = self.cls_token_id, self.sep_token_id
        return out, lengths

    def pieces(self, smiles: str) -> list[Piece]:
        """Glyphs with their places in the text as given; glyph None where no rule matches."""
        stripped = smiles.strip()
        shift = len(smiles) - len(smiles.lstrip())
        return [Piece(glyph, begin + shift, end + shift) for glyph, begin, end in split_smiles(stripped)]

    def tokenize(self, smiles: str) -> list[str]:
        """Tokens as text, `[UNK]` where no rule matches."""
        return [piece.glyph or "[UNK]" for piece in self.pieces(smiles)]

    def offsets(self, smiles: str) -> list[tuple[int, int]]:
        """Begin and end of each token in the text; the number of a repeated charge stands at the further signs."""
        return [(piece.begin, piece.end) for piece in self.pieces(smiles)]

    def __call__(
        self,
        smiles: str | Sequence[str],
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of one or several molecules, as Hugging Face's tokenizers give them.

        Args:
            smiles: one molecule or several.
            padding: fill up to the longest with `[PAD]`.
            truncation: cut to `max_length`.
            max_length: number of tokens.
            return_tensors: `"pt"` for tensors, which then need equal lengths or `padding`.
            strict: see `encode`.

        Raises:
            DataError: molecules of different lengths as tensors, or more tokens than `max_length`.
        """
        several = not isinstance(smiles, str)
        rows = self.encode_list([smiles] if isinstance(smiles, str) else list(smiles), strict=strict)
        if max_length is not None:
            for number, row in enumerate(rows):
                if len(row) > max_length and not truncation:
                    raise DataError(f"molecule {number} has {len(row)} tokens, more than max_length {max_length}")
            rows = [row[:max_length] for row in rows]
        top = max(map(len, rows), default=0)
        masks = [[1] * len(row) for row in rows]
        if padding:
            masks = [mask + [0] * (top - len(mask)) for mask in masks]
            rows = [row + [self.pad_token_id] * (top - len(row)) for row in rows]
        found: dict[str, Any] = {"input_ids": rows, "attention_mask": masks}
        if return_tensors == "pt":
            if any(len(row) < top for row in rows):
                raise DataError("molecules of different lengths make no tensor: ask for padding=True")
            return {name: torch.tensor(value) for name, value in found.items()}
        if return_tensors is not None:
            raise ConfigError(f"return_tensors is '{return_tensors}'; expected 'pt' or nothing")
        return found if several else {name: value[0] for name, value in found.items()}

    # ---------------------------------------------------------------- decoding

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids: glyphs one after the other.

        Raises:
            DataError: a number that is no id.
        """
        words = []
        for number in map(int, ids):
            if not 0 <= number < self.vocab_size:
                raise DataError(f"{number} is no id; the vocabulary has 0 to {self.vocab_size - 1}")
            if number <= len(GLYPHS) or not skip_special_tokens:
                words.append(self.vocabulary[number])
        return "".join(words)

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Text of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    # ---------------------------------------------------------------- files

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `tokenizer.json`, which stock `tokenizers` reads with equal ids, and `tokenizer_config.json`."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("tokenizer.json", _huggingface_tokenizer(self)),
            ("tokenizer_config.json", {**_CONFIG, "template": self.template}),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (target / name).write_text(text, encoding="utf-8")
        return target

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FileFormatError: no such files, or another vocabulary.
        """
        source = Path(folder)
        try:
            config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
            stored = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
            words = stored["model"]["vocab"]
        except FileNotFoundError as error:
            raise FileFormatError(f"{error.filename}: there is no such file") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise FileFormatError(f"{source}: holds no tokenizer that can be read ({error})") from None
        known = {word: number for number, word in enumerate(cls.vocabulary)}
        if words != {word: known[word] for word in words if word in known} or len(words) < len(GLYPHS) + 1:
            raise FileFormatError(f"{source / 'tokenizer.json'}: its vocabulary is not that of {cls.__name__}")
        return cls(template=bool(config.get("template", False)))


def _stands_alone(glyph: str) -> bool:
    return [piece.glyph for piece in split_smiles(glyph)] == [glyph]


def _collapsed(ids: NDArray[np.uint8], lengths: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Several unknown ids in a row of the same molecule as one."""
    molecule = np.repeat(np.arange(len(lengths)), lengths)
    again = np.zeros(len(ids), dtype=bool)
    again[1:] = (ids[1:] == UNKNOWN) & (ids[:-1] == UNKNOWN) & (molecule[1:] == molecule[:-1])
    return ids[~again], np.bincount(molecule[~again], minlength=len(lengths))


_CONFIG = {
    "tokenizer_class": "SmirkTokenizer",
    "unk_token": "[UNK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def _huggingface_tokenizer(tokenizer: SmirkTokenizer) -> dict[str, Any]:
    """The grammar as one regular expression: what stands in brackets is followed by a `]` with no `[` before it."""
    inside, outside = r"(?=[^\[\]]*\])", r"(?![^\[\]]*\])"
    symbols = sorted((glyph for glyph in GLYPHS if glyph.isalpha()), key=len, reverse=True)
    chiral = "@@|@TH|@AL|@SP|@TB|@OH|@"
    pattern = rf"(?:{'|'.join(symbols)}){inside}|(?:{chiral}){inside}|(?:Br|Cl|[BCNOPSFIbcnops]){outside}"
    pattern += r"|[\[\]*.\-=#$:/\\0-9%()+]"
    names = tokenizer.vocabulary
    added = [
        {
            "id": number,
            "content": names[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number in (UNKNOWN, *range(len(GLYPHS) + 1, len(names)))
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {name: number for number, name in enumerate(names)},
            "unk_token": "[UNK]",
        },
    }
