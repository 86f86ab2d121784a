"""What tokenizers of molecules have in common: special tokens, decoding, batches, files in Hugging Face's layout."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = ["SPECIALS", "UNKNOWN", "MolecularTokenizer", "Piece"]

UNKNOWN = 0
SPECIALS = ("[BOS]", "[EOS]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
"""Special tokens; their ids are 159 to 164 in every vocabulary."""

_PLAIN = 158
"""Ids 1 to this are what molecules are written with."""


class Piece(NamedTuple):
    """A glyph or symbol, or text that is none (None), with its place in the string."""

    glyph: str | None
    begin: int
    end: int


class MolecularTokenizer:
    """Base of tokenizers whose vocabulary begins with `[UNK]`, 158 glyphs or symbols, and six special tokens.

    A subclass has the vocabulary and defines `encode_packed`, `pieces` and `token_atoms`.

    Args:
        template: put `[CLS]` before and `[SEP]` after each molecule.
    """

    vocabulary: tuple[str, ...]
    unk_token_id = UNKNOWN
    bos_token_id, eos_token_id, sep_token_id, pad_token_id, cls_token_id, mask_token_id = range(_PLAIN + 1, _PLAIN + 7)
    normalizers: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    pattern: ClassVar[str]

    def __init__(self, template: bool = False) -> None:
        self.template = template

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary)

    # ---------------------------------------------------------------- encoding

    def encode_packed(self, texts: Sequence[str], *, strict: bool = False) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids of several molecules one after the other, and how many each has.

        Raises:
            DataError: with `strict`, text that no rule matches; says where.
        """
        raise TypeError(f"{type(self).__name__} must define encode_packed(texts)")

    def pieces(self, text: str) -> list[Piece]:
        """Tokens with their places in the text as given, without special tokens."""
        raise TypeError(f"{type(self).__name__} must define pieces(text)")

    def token_atoms(self, text: str) -> list[tuple[int, ...]]:
        """Atoms that each token speaks of, numbered as they stand in the text; special tokens are left out.

        A token of an atom has one, a bond the two that it joins, a ring number the atom it stands at; branches and
        dots have none.
        """
        raise TypeError(f"{type(self).__name__} must define token_atoms(text)")

    def encode(self, text: str, *, strict: bool = False) -> list[int]:
        """Ids of a molecule.

        Args:
            text: of the molecule; white space at its ends is left out.
            strict: raise where text is unknown.

        Raises:
            DataError: with `strict`, text that no rule matches; says where.
        """
        return self.encode_list([text], strict=strict)[0]

    def encode_list(self, texts: Sequence[str], *, strict: bool = False) -> list[list[int]]:
        """Ids of several molecules; see `encode`."""
        ids, lengths = self.encode_packed(texts, strict=strict)
        rows = ids.tolist()
        ends = np.cumsum(lengths).tolist()
        return [rows[a:b] for a, b in pairwise([0, *ends])]

    def tokenize(self, text: str) -> list[str]:
        """Tokens as text, `[UNK]` where no rule matches."""
        return [piece.glyph or "[UNK]" for piece in self.pieces(text)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of each token in the text; the number of a repeated charge stands at the further signs."""
        return [(piece.begin, piece.end) for piece in self.pieces(text)]

    def _with_template(self, ids: NDArray[Any], lengths: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids with `[CLS]` and `[SEP]` around each molecule, if there is a template."""
        if not self.template:
            return ids, lengths
        ends = np.cumsum(lengths)
        out = np.insert(ids, np.concatenate([ends - lengths, ends]), 0)
        lengths = lengths + 2
        ends = np.cumsum(lengths)
        # both kinds were put in as zeros; where a molecule begins and ends is known
        out[ends - lengths], out[ends - 1] = self.cls_token_id, self.sep_token_id
        return out, lengths

    def _complain(self, what: str, text: str) -> None:
        """Raise, naming the first piece of `text` that is unknown."""
        piece = next(piece for piece in self.pieces(text) if piece.glyph is None)
        raise DataError(
            f"{what} '{text[:60]}': {text[piece.begin : piece.end][:20]!r} at character {piece.begin} is not in the "
            "vocabulary"
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        strict: bool = False,
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of one or several molecules, as Hugging Face's tokenizers give them.

        Args:
            texts: one molecule or several.
            padding: fill up to the longest with `[PAD]`.
            truncation: cut to `max_length`.
            max_length: number of tokens.
            return_tensors: `"pt"` for tensors, which then need equal lengths or `padding`.
            strict: see `encode`.

        Raises:
            DataError: molecules of different lengths as tensors, or more tokens than `max_length`.
        """
        several = not isinstance(texts, str)
        rows = self.encode_list([texts] if isinstance(texts, str) else list(texts), strict=strict)
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
        """Text of ids: tokens one after the other.

        Raises:
            DataError: a number that is no id.
        """
        words = []
        for number in map(int, ids):
            if not 0 <= number < self.vocab_size:
                raise DataError(f"{number} is no id; the vocabulary has 0 to {self.vocab_size - 1}")
            if not _PLAIN < number <= _PLAIN + len(SPECIALS) or not skip_special_tokens:
                words.append(self.vocabulary[number])
        return "".join(words)

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """Text of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    # ---------------------------------------------------------------- files

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

        Stock `tokenizers` and `transformers` read them with equal ids, special tokens of the template included.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("tokenizer.json", self._huggingface()),
            ("tokenizer_config.json", {"tokenizer_class": type(self).__name__, **_NAMES, **self._options()}),
            ("special_tokens_map.json", _NAMES),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (target / name).write_text(text, encoding="utf-8")
        return target

    def _options(self) -> dict[str, Any]:
        """Arguments that make an equal tokenizer, as JSON."""
        return {"template": self.template}

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
            made = cls._made(config)
        except FileNotFoundError as error:
            raise FileFormatError(f"{error.filename}: there is no such file") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise FileFormatError(f"{source}: holds no tokenizer that can be read ({error})") from None
        known = {word: number for number, word in enumerate(made.vocabulary)}
        if words != {word: known[word] for word in words if word in known} or len(words) < _PLAIN + 1:
            raise FileFormatError(f"{source / 'tokenizer.json'}: its vocabulary is not that of {cls.__name__}")
        return made

    @classmethod
    def _made(cls, config: Mapping[str, Any]) -> Self:
        """The tokenizer that a `tokenizer_config.json` describes."""
        return cls(template=bool(config.get("template", False)))

    def _huggingface(self) -> dict[str, Any]:
        """Content of `tokenizer.json`: one regular expression finds the tokens, what lies between them is unknown."""
        names = self.vocabulary
        special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        strip = {"type": "Strip", "strip_left": True, "strip_right": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": names[number], **special}
                for number in (UNKNOWN, *range(_PLAIN + 1, _PLAIN + 1 + len(SPECIALS)))
            ],
            "normalizer": {"type": "Sequence", "normalizers": [strip, *self.normalizers]},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": self.pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": self._post_processor(),
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {name: number for number, name in enumerate(names)},
                "unk_token": "[UNK]",
            },
        }

    def _post_processor(self) -> dict[str, Any] | None:
        if not self.template:
            return None
        first, last = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
        one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        ids = {"[CLS]": self.cls_token_id, "[SEP]": self.sep_token_id}
        return {
            "type": "TemplateProcessing",
            "single": [first, one, last],
            "pair": [first, one, last, other, last],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()},
        }


_NAMES = {f"{name[1:-1].lower()}_token": name for name in ("[UNK]", *SPECIALS)}
"""Role of a special token, as Hugging Face's files call it → its text."""
