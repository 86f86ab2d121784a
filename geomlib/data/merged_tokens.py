"""`MergedTokenizer`: frequent neighbours among Smirk glyphs merged into tokens of their own (GPE)."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Self

from geomlib.data.smirk_grammar import GLYPH_IDS
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = ["MergedTokenizer"]

_OPEN, _CLOSE = GLYPH_IDS["["], GLYPH_IDS["]"]
_STRUCTURE = frozenset(GLYPH_IDS[glyph] for glyph in ".-=#$:/\\()%0123456789")
_PLAIN = SmirkTokenizer.vocabulary
_Word = tuple[int, ...]


class MergedTokenizer:
    """Byte-pair encoding over the glyphs of `SmirkTokenizer`; ids below 165 keep their meaning.

    Args:
        merges: pairs of ids in the order in which they were learned; the k-th makes id 165 + k.
        merge_brackets: `[` and `]` may be merged with what stands beside them.
        split_structure: bonds, branches and ring numbers outside brackets stay by themselves.

    Raises:
        ConfigError: a merge of ids that do not exist yet.

    Source: Wadell, Bhutani, Viswanathan 2024 (arXiv 2409.15370), glyph pair encoding.
    """

    def __init__(
        self, merges: Sequence[Sequence[int]] = (), merge_brackets: bool = False, split_structure: bool = True
    ) -> None:
        self.smirk = SmirkTokenizer()
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.merge_brackets, self.split_structure = merge_brackets, split_structure
        words = list(_PLAIN)
        for a, b in self.merges:
            if not (0 <= a < len(words) and 0 <= b < len(words)):
                raise ConfigError(f"merge of {a} and {b}: there are only {len(words)} ids before it")
            words.append(words[a] + words[b])
        self.vocabulary = tuple(words)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._known: dict[_Word, _Word] = {}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary)

    @classmethod
    def train(
        cls,
        lines: Iterable[str],
        vocabulary: int = 1024,
        min_frequency: int = 0,
        merge_brackets: bool = False,
        split_structure: bool = True,
    ) -> Self:
        """Learn merges from a stream of SMILES; only the different runs of glyphs are held in memory.

        Args:
            lines: SMILES, read once.
            vocabulary: number of ids to reach, the 165 of the glyphs included.
            min_frequency: pairs that stand in the text less often are not merged.
            merge_brackets: see the class.
            split_structure: see the class.

        Raises:
            ConfigError: a vocabulary of less than 165 ids.
        """
        if vocabulary < len(_PLAIN):
            raise ConfigError(f"vocabulary is {vocabulary}; the glyphs alone have {len(_PLAIN)} ids")
        fresh = cls((), merge_brackets, split_structure)
        counts: Counter[_Word] = Counter()
        source = iter(lines)
        while block := list(islice(source, 10_000)):
            for row in fresh.smirk.encode_list(block):
                counts.update(word for word in fresh._words(row) if len(word) > 1 and 0 not in word)
        return cls(_learned(counts, vocabulary - len(_PLAIN), max(min_frequency, 1)), merge_brackets, split_structure)

    def _words(self, row: Sequence[int]) -> Iterator[_Word]:
        """Runs of ids within which pairs may be merged."""
        run: list[int] = []
        inside = False
        for number in row:
            bracket = number in (_OPEN, _CLOSE)
            if (bracket and not self.merge_brackets) or (
                self.split_structure and not inside and not bracket and number in _STRUCTURE
            ):
                if run:
                    yield tuple(run)
                yield (number,)
                run = []
            else:
                run.append(number)
            if bracket:
                inside = number == _OPEN
        if run:
            yield tuple(run)

    def _merged(self, word: _Word) -> _Word:
        found = self._known.get(word)
        if found is None:
            found = word
            while len(found) > 1:
                rank, pair = min((self._ranks.get(pair, len(self.merges)), pair) for pair in pairwise(found))
                if rank == len(self.merges):
                    break
                found = _replaced(found, pair, len(_PLAIN) + rank)
            if len(self._known) < 100_000:
                self._known[word] = found
        return found

    def encode(self, smiles: str, *, strict: bool = False) -> list[int]:
        """Ids of a molecule; see `SmirkTokenizer.encode`."""
        return self.encode_list([smiles], strict=strict)[0]

    def encode_list(self, smiles: Sequence[str], *, strict: bool = False) -> list[list[int]]:
        """Ids of several molecules."""
        rows = self.smirk.encode_list(smiles, strict=strict)
        return [[number for word in self._words(row) for number in self._merged(word)] for row in rows]

    def tokenize(self, smiles: str) -> list[str]:
        """Tokens as text."""
        return [self.vocabulary[number] for number in self.encode(smiles)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without special tokens.

        Raises:
            DataError: a number that is no id.
        """
        words = []
        for number in map(int, ids):
            if not 0 <= number < self.vocab_size:
                raise DataError(f"{number} is no id; the vocabulary has 0 to {self.vocab_size - 1}")
            words.append(self.vocabulary[number] if number >= len(_PLAIN) else self.smirk.decode([number]))
        return "".join(words)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `merges.json`."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        content = {
            "merges": self.merges,
            "merge_brackets": self.merge_brackets,
            "split_structure": self.split_structure,
        }
        (target / "merges.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
        return target

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FileFormatError: no such file, or one that cannot be read.
        """
        path = Path(folder) / "merges.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise FileFormatError(f"{path}: there is no such file") from None
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"{path}: holds no merges that can be read ({error})") from None


def _replaced(word: _Word, pair: tuple[int, int], number: int) -> _Word:
    out: list[int] = []
    k = 0
    while k < len(word):
        if word[k : k + 2] == pair:
            out.append(number)
            k += 2
        else:
            out.append(word[k])
            k += 1
    return tuple(out)


def _learned(counts: Counter[_Word], most: int, least: int) -> list[tuple[int, int]]:
    """Merges, most frequent pair first; of equally frequent ones that of the smallest ids."""
    words = list(counts)
    times = [counts[word] for word in words]
    pairs: Counter[tuple[int, int]] = Counter()
    places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for place, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += times[place]
            places[pair].add(place)
    merges: list[tuple[int, int]] = []
    while len(merges) < most and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < least:
            break
        number = len(_PLAIN) + len(merges)
        merges.append(best)
        for place in sorted(places.pop(best)):
            for pair in pairwise(words[place]):
                pairs[pair] -= times[place]
            words[place] = _replaced(words[place], best, number)
            for pair in pairwise(words[place]):
                pairs[pair] += times[place]
                places[pair].add(place)
        pairs += Counter()  # drops what is gone
    return merges
