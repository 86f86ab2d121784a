"""`SelfiesTokenizer`: molecules as symbols of SELFIES, in which any row of symbols is a molecule."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geomlib.data.molecular_tokenizer import SPECIALS, UNKNOWN, MolecularTokenizer, Piece
from geomlib.errors import ConfigError, DataError, MissingExtra

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["SYMBOLS", "SelfiesTokenizer", "selfies_to_smiles", "smiles_to_selfies"]

_SYMBOLS = r"""
    . [#Branch1] [#Branch2] [#Branch3] [#CH0] [#C] [#N+1] [#N] [#O+1] [#Ring1] [#Ring2] [#Ring3] [-/Ring1] [-/Ring2]
    [-\Ring1] [-\Ring2] [/-Ring1] [/-Ring2] [/C@@H1] [/C@H1] [/C] [/Cl] [/N+1] [/NH1+1] [/N] [/O-1] [/O] [/S] [13C]
    [2H] [=Branch1] [=Branch2] [=Branch3] [=CH0] [=C] [=N+1] [=N-1] [=NH1+1] [=NH2+1] [=N] [=O+1] [=OH0] [=OH1+1]
    [=O] [=PH1] [=P] [=Ring1] [=Ring2] [=Ring3] [=S@@] [=S@] [=S] [=Se] [Al] [As] [Au] [B-1] [B] [Ba+2] [Bi] [Br-1]
    [BrH0] [Br] [Branch1] [Branch2] [Branch3] [C-1] [C@@H1] [C@@] [C@H1] [C@] [CH0] [CH1-1] [CH1] [CH2] [CH3] [C]
    [Ca+2] [Cl-1] [ClH0] [Cl] [Co+2] [Cr] [Cu+2] [Cu] [F] [Fe+2] [Fe+3] [Fe-2] [Fe] [Gd+3] [Ge] [H+1] [H-1] [H] [Hg]
    [I-1] [I] [K+1] [Li+1] [Mg+2] [Mn+2] [N+1] [N-1] [N@+1] [N@@+1] [NH0] [NH1+1] [NH1-1] [NH1] [NH2+1] [NH2]
    [NH3+1] [N] [Na+1] [Na] [O+1] [O-1] [O-2] [OH0] [OH1-1] [OH1] [O] [P+1] [P-1] [PH0] [PH1] [P] [Pt] [Ring1]
    [Ring2] [Ring3] [S+1] [S-1] [S@@] [S@] [SH0] [S] [Sb] [Se] [SiH1] [Si] [Sn] [Sr+2] [Zn+2] [Zn] [\-Ring1]
    [\-Ring2] [\C@@H1] [\C@H1] [\C] [\Cl] [\N+1] [\NH1+1] [\N] [\O-1] [\O] [\S]
"""

SYMBOLS = tuple(_SYMBOLS.split())
"""The 158 symbols of the fixed vocabulary by code point; the id of a symbol is its place, counted from 1.

These are the symbols that occur at least three times in the kekulised molecules of the MUV set of PubChem, ZINC, six
MoleculeNet tables and a sample of QM9, their mirror images and opposite directions, and all branch and ring symbols;
rarer ones fill it up.
"""

_SYMBOL = re.compile(r"\[[^\[\]]*\]|\.")
_LENGTH = re.compile(r"\[[-=#/\\]*(Branch|Ring)([1-3])\]")


def _selfies() -> "ModuleType":
    try:
        import selfies
    except ImportError:
        raise MissingExtra("selfies", "selfies", "SELFIES") from None
    return selfies


def smiles_to_selfies(smiles: str) -> str:
    """SELFIES of a SMILES, its atoms in the same order; aromatic atoms are written with double bonds.

    Args:
        smiles: best kekulised, which spares the package its own search for double bonds.

    Raises:
        DataError: SELFIES can't express it, or a valence is larger than it allows.
        MissingExtra: the package `selfies` is not installed.
    """
    selfies = _selfies()
    try:
        return str(selfies.encoder(smiles))
    except selfies.EncoderError as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"SMILES '{smiles[:60]}' can't be written as SELFIES: {reason}") from None


def selfies_to_smiles(text: str) -> str:
    """SMILES of a SELFIES; symbols that a valence has no room for are left out, as SELFIES defines it.

    Raises:
        DataError: a symbol that is none.
        MissingExtra: the package `selfies` is not installed.
    """
    selfies = _selfies()
    try:
        return str(selfies.decoder(text))
    except selfies.DecoderError as error:
        raise DataError(f"'{text[:60]}' is no SELFIES: {' '.join(str(error).split())[:160]}") from None


class SelfiesTokenizer(MolecularTokenizer):
    """Tokenizer of SELFIES: each symbol in brackets is a token.

    The fixed vocabulary has 165 ids and the special tokens of `SmirkTokenizer`, so that everything that trains and
    stores encoders takes it. Ids 1 to 158 are `SYMBOLS`; `extra` symbols follow from 165 on. A symbol that is not in
    the vocabulary is `[UNK]`, and so is a run of text that is no symbol. Texts are SELFIES; `smiles_to_selfies` makes
    them.

    Args:
        template: put `[CLS]` before and `[SEP]` after each molecule.
        extra: further symbols.

    Raises:
        ConfigError: an extra symbol that is none, or that stands twice.

    Source: Krenn et al., Mach. Learn.: Sci. Technol. 1, 045024 (2020); Lo et al., Digital Discovery 2, 897 (2023).
    """

    pattern = r"\[[^\[\]]*\]|\."

    def __init__(self, template: bool = False, extra: Sequence[str] = ()) -> None:
        super().__init__(template)
        self.extra = tuple(extra)
        self.vocabulary = ("[UNK]", *SYMBOLS, *SPECIALS, *self.extra)
        self._ids = {word: number for number, word in enumerate(self.vocabulary)}
        for symbol in self.extra:
            if not _SYMBOL.fullmatch(symbol) or self.vocabulary.count(symbol) > 1:
                raise ConfigError(f"extra symbol '{symbol}': expected one in brackets that the vocabulary lacks")

    @classmethod
    def train(cls, lines: Iterable[str], min_frequency: int = 1, template: bool = False) -> Self:
        """A tokenizer with the symbols of a text besides the fixed ones, most frequent first.

        Args:
            lines: SELFIES, read once.
            min_frequency: symbols that stand in the text less often are left out.
            template: see the class.
        """
        counts = Counter(symbol for line in lines for symbol in _SYMBOL.findall(line))
        known = {*SYMBOLS, *SPECIALS, "[UNK]"}
        new = [symbol for symbol in sorted(counts) if symbol not in known and counts[symbol] >= min_frequency]
        return cls(template, sorted(new, key=lambda symbol: -counts[symbol]))

    def encode_packed(
        self, texts: Sequence[str], *, strict: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids of several molecules one after the other, and how many each has.

        Raises:
            DataError: with `strict`, a symbol that is not in the vocabulary; says where.
        """
        rows = []
        for text in texts:
            row = [self._id(piece) for piece in _pieces(text.strip())]
            if strict and UNKNOWN in row:
                self._complain("SELFIES", text.strip())
            rows.append(row)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.array([number for row in rows for number in row], dtype=np.int64)
        return self._with_template(ids, lengths)

    def _id(self, piece: Piece) -> int:
        found = self._ids.get(piece.glyph or "", UNKNOWN)
        return UNKNOWN if len(SYMBOLS) < found <= len(SYMBOLS) + len(SPECIALS) else found

    def pieces(self, text: str) -> list[Piece]:
        """Symbols with their places in the text as given; None for those that the vocabulary lacks."""
        shift = len(text) - len(text.lstrip())
        return [
            Piece(piece.glyph if self._id(piece) else None, piece.begin + shift, piece.end + shift)
            for piece in _pieces(text.strip())
        ]

    def token_atoms(self, text: str) -> list[tuple[int, ...]]:
        """See `MolecularTokenizer`; a ring symbol and the symbols that count its size speak of the atom it stands at.

        The symbols that count the length of a branch speak of no atom, although they look like atoms.
        """
        found: list[tuple[int, ...]] = []
        own: tuple[int, ...] = ()
        atoms, counting = 0, 0
        for piece in _pieces(text.strip()):
            length = _LENGTH.fullmatch(piece.glyph or "")
            if counting:
                counting -= 1
            elif length is not None:
                counting = int(length.group(2))
                own = (atoms - 1,) if length.group(1) == "Ring" and atoms else ()
            elif piece.glyph is None or piece.glyph == ".":
                own = ()
            else:
                own, atoms = (atoms,), atoms + 1
            found.append(own)
        return found

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "extra": list(self.extra)}

    @classmethod
    def _made(cls, config: Mapping[str, Any]) -> Self:
        return cls(bool(config.get("template", False)), [str(symbol) for symbol in config.get("extra", ())])


def _pieces(text: str) -> list[Piece]:
    """Symbols, and runs of text between them that are none."""
    found: list[Piece] = []
    place = 0
    for match in _SYMBOL.finditer(text):
        if match.start() > place:
            found.append(Piece(None, place, match.start()))
        found.append(Piece(match.group(), match.start(), match.end()))
        place = match.end()
    return found if place == len(text) else [*found, Piece(None, place, len(text))]
