"""The glyphs of SMILES, their ids, and how a string falls into them (Smirk)."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from geomlib.data.elements import SYMBOLS
from geomlib.data.molecular_tokenizer import Piece

__all__ = ["GLYPHS", "GLYPH_IDS", "bracket_pieces", "smiles_atoms", "split_smiles"]

_CHIRALITY = ("@@", "@TH", "@AL", "@SP", "@TB", "@OH", "@")
_AROMATIC = ("as", "se", "b", "c", "n", "o", "p", "s")
_ELEMENTS = tuple(SYMBOLS[1:119])

GLYPHS = tuple(sorted({*"#$%()*+-./:=[\\]", *"0123456789", *_CHIRALITY, *_ELEMENTS, *_AROMATIC}))
"""The 158 glyphs of OpenSMILES by code point; the id of a glyph is its place, counted from 1."""

GLYPH_IDS: Mapping[str, int] = MappingProxyType({glyph: number for number, glyph in enumerate(GLYPHS, start=1)})
"""Glyph → id."""

_SYMBOL = "|".join(sorted((*_ELEMENTS, *_AROMATIC), key=len, reverse=True)) + r"|\*"
_CHIRAL = "|".join(_CHIRALITY)
_BRACKET = re.compile(
    rf"\[(?P<isotope>\d*)(?P<symbol>{_SYMBOL})(?P<chiral>(?:{_CHIRAL})?)(?P<permutation>(?<=[@HLPB])\d{{1,2}})?"
    r"(?P<hydrogens>H\d?)?(?P<charge>(?:\++|-+)\d{0,2})?(?P<atom_class>:\d+)?"
)
OUTSIDE = re.compile(r"\[[^\[\]]*\]|Br|Cl|[BCNOPSFIbcnops*.\-=#$:/\\0-9%()]|\n|.", re.DOTALL)
"""Bracket atoms, glyphs outside them, and anything else character by character."""

_PLAIN = frozenset(("Br", "Cl", *"BCNOPSFIbcnops*.-=#$:/\\0123456789%()"))


def split_smiles(text: str) -> list[Piece]:
    """Pieces of a SMILES without white space at its ends; text that no rule matches is one piece per run."""
    found: list[Piece] = []
    for match in OUTSIDE.finditer(text):
        word, begin = match.group(), match.start()
        if len(word) > 1 and word[0] == "[":
            found += [Piece(glyph, begin + a, begin + b) for glyph, a, b in bracket_pieces(word)]
        else:
            found.append(Piece(word if word in _PLAIN else None, begin, match.end()))
    return _joined(found)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces that are no glyphs and follow each other as one."""
    joined: list[Piece] = []
    for piece in pieces:
        if piece.glyph is None and joined and joined[-1].glyph is None:
            joined[-1] = Piece(None, joined[-1].begin, piece.end)
        else:
            joined.append(piece)
    return joined


def bracket_pieces(word: str) -> list[Piece]:
    """Pieces of a bracket atom, brackets included; what does not fit the grammar is a piece without a glyph.

    Several signs of charge become one and their number: `[Fe+++]` is read as `[Fe+3]`.
    """
    match = _BRACKET.match(word)
    if match is None:
        body = [Piece(None, 1, len(word) - 1)] if len(word) > 2 else []
        return [Piece("[", 0, 1), *body, Piece("]", len(word) - 1, len(word))]
    pieces = [Piece("[", 0, 1)]
    for name in ("isotope", "symbol", "chiral", "permutation", "hydrogens", "charge", "atom_class"):
        part, begin = match.group(name), match.start(name)
        if not part:
            continue
        if name in ("symbol", "chiral"):
            pieces.append(Piece(part, begin, match.end(name)))
        elif name == "charge":
            pieces += _charge(part, begin)
        else:
            pieces += [Piece(character, begin + k, begin + k + 1) for k, character in enumerate(part)]
    if match.end() < len(word) - 1:
        pieces.append(Piece(None, match.end(), len(word) - 1))
    return [*pieces, Piece("]", len(word) - 1, len(word))]


def _charge(part: str, begin: int) -> list[Piece]:
    signs = len(part) - len(part.lstrip(part[0]))
    digits = [Piece(character, begin + signs + k, begin + signs + k + 1) for k, character in enumerate(part[signs:])]
    if signs == 1:
        return [Piece(part[0], begin, begin + 1), *digits]
    if digits:  # `++2` says two things
        return [Piece(None, begin, begin + len(part))]
    count = [Piece(character, begin + 1, begin + signs) for character in str(signs)]
    return [Piece(part[0], begin, begin + 1), *count]


def smiles_atoms(pieces: list[Piece]) -> list[tuple[int, ...]]:
    """Atoms that each piece of a SMILES speaks of, numbered as they stand in it.

    What stands in brackets is part of the one atom, a bond of the two that it joins, a ring number (with its bond) of
    the atom it stands at. Branches and dots have none.
    """
    found: list[tuple[int, ...]] = []
    last, following, branches = -1, 0, list[int]()
    bracket, ring = False, False
    for k, piece in enumerate(pieces):
        glyph = piece.glyph or ""
        own: tuple[int, ...] = ()
        if bracket or glyph == "[":
            bracket, own = glyph != "]", (following,)
            if not bracket:
                last, following = following, following + 1
        elif ring or glyph == "%" or glyph.isdigit():
            # %(123): its parentheses are no branch
            ring = glyph != ")" and (ring or (glyph == "%" and _glyph(pieces, k + 1) == "("))
            own = (last,)
        elif glyph == "(":
            branches.append(last)
        elif glyph == ")":
            last = branches.pop() if branches else last
        elif glyph and glyph in "-=#$:/\\":
            after = _glyph(pieces, k + 1)
            own = (last,) if after == "%" or after.isdigit() else (last, following)
        elif glyph and glyph != ".":
            own, last, following = (following,), following, following + 1
        found.append(tuple(atom for atom in own if atom >= 0))
    return found


def _glyph(pieces: list[Piece], k: int) -> str:
    return (pieces[k].glyph or "") if k < len(pieces) else ""
