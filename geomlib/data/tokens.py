"""`SmirkTokenizer`: SMILES as ids of glyphs, with bracket atoms taken apart."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geomlib.data.molecular_tokenizer import SPECIALS, UNKNOWN, MolecularTokenizer, Piece
from geomlib.data.smirk_grammar import GLYPH_IDS, GLYPHS, OUTSIDE, smiles_atoms, split_smiles
from geomlib.errors import DataError

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


def _pattern() -> str:
    """The grammar as one regular expression: what stands in brackets is followed by a `]` with no `[` before it."""
    inside, outside = r"(?=[^\[\]]*\])", r"(?![^\[\]]*\])"
    symbols = sorted((glyph for glyph in GLYPHS if glyph.isalpha()), key=len, reverse=True)
    chiral = "@@|@TH|@AL|@SP|@TB|@OH|@"
    pattern = rf"(?:{'|'.join(symbols)}){inside}|(?:{chiral}){inside}|(?:Br|Cl|[BCNOPSFIbcnops]){outside}"
    return pattern + r"|[\[\]*.\-=#$:/\\0-9%()+]"


class SmirkTokenizer(MolecularTokenizer):
    """Tokenizer of SMILES whose vocabulary covers all of OpenSMILES with 165 ids.

    A bracket atom falls into isotope, symbol, chirality, hydrogens, charge and class, every digit on its own. Ids are
    those of the published tokenizer. Text that no rule matches becomes one `[UNK]` per run, and is never lost.

    Args:
        template: put `[CLS]` before and `[SEP]` after each molecule.

    Source: Wadell, Bhutani, Viswanathan 2024 (arXiv 2409.15370). Differences: text that is no SMILES is reported, any
        number of equal signs of charge is counted, lists are taken.
    """

    vocabulary = ("[UNK]", *GLYPHS, *SPECIALS)
    pattern = _pattern()
    normalizers = tuple(
        {"type": "Replace", "pattern": {"String": count * sign}, "content": f"{sign}{count}"}
        for count in (4, 3, 2)
        for sign in "+-"
    )

    def __init__(self, template: bool = False) -> None:
        super().__init__(template)
        self._words = _Words({glyph: bytes([number]) for glyph, number in GLYPH_IDS.items() if _stands_alone(glyph)})
        self._words["\n"] = bytes([_SEPARATOR])

    def encode_packed(
        self, texts: Sequence[str], *, strict: bool = False
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Ids of several molecules one after the other, and how many each has.

        Raises:
            DataError: a string with a line break in it; with `strict`, text that is no SMILES.
        """
        lines = [text.strip() for text in texts]
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
                molecule = np.searchsorted(np.cumsum(lengths), np.flatnonzero(ids == UNKNOWN)[0], side="right")
                self._complain("SMILES", lines[int(molecule)])
            ids, lengths = _collapsed(ids, lengths)
        return self._with_template(ids, lengths)

    def pieces(self, text: str) -> list[Piece]:
        """Glyphs with their places in the text as given; glyph None where no rule matches."""
        shift = len(text) - len(text.lstrip())
        return [Piece(glyph, begin + shift, end + shift) for glyph, begin, end in split_smiles(text.strip())]

    def token_atoms(self, text: str) -> list[tuple[int, ...]]:
        """See `MolecularTokenizer`; all tokens of a bracket atom speak of that atom."""
        return smiles_atoms(split_smiles(text.strip()))


def _stands_alone(glyph: str) -> bool:
    return [piece.glyph for piece in split_smiles(glyph)] == [glyph]


def _collapsed(ids: NDArray[np.uint8], lengths: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Several unknown ids in a row of the same molecule as one."""
    molecule = np.repeat(np.arange(len(lengths)), lengths)
    again = np.zeros(len(ids), dtype=bool)
    again[1:] = (ids[1:] == UNKNOWN) & (ids[:-1] == UNKNOWN) & (molecule[1:] == molecule[:-1])
    return ids[~again], np.bincount(molecule[~again], minlength=len(lengths))
