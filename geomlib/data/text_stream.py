"""SMILES from text files of any size, line by line: shards, order, what is left out."""

import glob
import gzip
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomlib.data.cards import card_folders
from geomlib.data.molecules import canonical_smiles, parse_molecule
from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = ["Exclusions", "LineStream", "find_shards"]

log = logging.getLogger(__name__)

_ENDINGS = (".smi", ".txt", ".smiles", ".smi.gz", ".txt.gz", ".smiles.gz")


def find_shards(source: str | Sequence[str]) -> list[Path]:
    """Text files that `source` names, sorted.

    Args:
        source: a file, a folder (its .smi, .txt and .smiles files, .gz too), a pattern with `*`, or a list of these.
            What names nothing here is looked for among the data sets that come along.

    Raises:
        FileFormatError: there are none.
    """
    found: list[Path] = []
    for word in [source] if isinstance(source, str) else source:
        path = Path(word)
        if path.is_dir():
            found += [file for file in path.iterdir() if file.name.endswith(_ENDINGS)]
        elif path.is_file():
            found.append(path)
        else:
            here = [Path(name) for name in glob.glob(word)]  # noqa: PTH207 - the pattern may be absolute
            folders = [] if path.is_absolute() else card_folders()
            found += here or [file for folder in folders for file in folder.glob(word)]
    if not found:
        raise FileFormatError(f"{source}: there is no text file of SMILES ({', '.join(_ENDINGS)})")
    return sorted(set(found))


class Exclusions:
    """Molecules that must not be trained on, kept as 8 bytes each.

    Args:
        path: file with one SMILES per line; they are compared in RDKit's canonical form.

    Raises:
        FileFormatError: a line that is no molecule, or no such file.
    """

    def __init__(self, path: str | Path) -> None:
        keys = []
        for number, line in enumerate(_lines(Path(path)), start=1):
            try:
                keys.append(_key(canonical_smiles(parse_molecule(line))))
            except DataError as error:
                raise FileFormatError(f"{path}, line {number}: {error}") from None
        self._keys: NDArray[np.uint64] = np.unique(np.array(keys, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, canonical: str) -> bool:
        key = _key(canonical)
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        return place < len(self._keys) and int(self._keys[place]) == key


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _lines(path: Path) -> Iterator[str]:
    """First words of the lines of a text file that are not empty; a name may follow a SMILES.

    Raises:
        FileFormatError: it can't be read.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                words = line.split(None, 1)
                if words:
                    yield words[0]
    except FileNotFoundError:
        raise FileFormatError(f"{path}: there is no such file") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: can't be read as text ({' '.join(str(error).split())})") from None


class LineStream:
    """Lines of the shards in an order that is drawn anew in each pass, and never all in memory.

    Shards come in random order. Their lines are dealt to the ranks in turn, and each rank shuffles what it gets in
    blocks. The order follows from the seed and the pass, so a position is a number of lines.

    Args:
        shards: text files.
        seed: of the order.
        block: lines that are shuffled together.
        rank: of this process.
        world_size: number of processes.
        shuffle: False reads the shards as they are.

    Raises:
        ConfigError: a block without lines, or a rank that is none.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        seed: int = 0,
        block: int = 100_000,
        rank: int = 0,
        world_size: int = 1,
        *,
        shuffle: bool = True,
    ) -> None:
        if block < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"blocks of {block} lines on rank {rank} of {world_size}")
        self.shards, self.seed, self.block, self.shuffle = list(shards), seed, block, shuffle
        self.rank, self.world_size = rank, world_size

    def lines(self, number: int, begin: int = 0) -> Iterator[str]:
        """Lines of pass `number` from position `begin` on.

        Raises:
            FileFormatError: a shard can't be read.
        """
        own = self._own(number)
        position = 0
        for count in range(begin // self.block + 1):
            waiting = _take(own, self.block)
            position = count
        rest = begin % self.block
        while waiting:
            if self.shuffle:
                order = np.random.default_rng((self.seed, number, position, self.rank)).permutation(len(waiting))
                yield from (waiting[k] for k in order[rest:])
            else:
                yield from waiting[rest:]
            rest, position = 0, position + 1
            waiting = _take(own, self.block)

    def _own(self, number: int) -> Iterator[str]:
        order = np.arange(len(self.shards))
        if self.shuffle:
            order = np.random.default_rng((self.seed, number)).permutation(len(self.shards))
        place = 0
        for shard in order:
            for line in _lines(self.shards[shard]):
                if place % self.world_size == self.rank:
                    yield line
                place += 1


def _take(lines: Iterator[str], count: int) -> list[str]:
    return [line for _, line in zip(range(count), lines, strict=False)]
