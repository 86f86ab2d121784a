"""Which graphs of a store are for training, validation and testing."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.stores import Store
from geomlib.errors import ConfigError, DataError, FileFormatError

__all__ = [
    "BlockSplit",
    "BootstrapSplit",
    "FileSplit",
    "RandomSplit",
    "RangeSplit",
    "Split",
    "checked_parts",
    "parse_indices",
    "read_parts",
]

Amount = int | float
"""A count, or a fraction if between 0 and 1."""

PARTS = ("train", "val", "test")


class Split(ABC):
    """How to divide a store into `train`, `val` and `test`; parts that are not wanted are absent."""

    @abstractmethod
    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """Positions in `store` by part.

        Raises:
            ConfigError: the parts can't be had from this store.
            DataError: they overlap.
        """


def checked_parts(parts: Mapping[str, Tensor], store: Store) -> dict[str, Int[Tensor, " graphs"]]:
    """The parts that have graphs.

    Raises:
        ConfigError: a part reaches beyond the store.
        DataError: a graph is in two parts, or twice in one.
    """
    owner = torch.full((len(store),), -1, dtype=torch.int64)
    for number, (name, indices) in enumerate(parts.items()):
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(store)):
            raise ConfigError(
                f"split '{name}' asks for graphs {int(indices.min())} to {int(indices.max())}, "
                f"but the store holds {len(store)} (0 to {len(store) - 1})"
            )
        if len(indices.unique()) != len(indices):
            raise DataError(f"split '{name}' names a graph twice")
        taken = owner[indices]
        if bool((taken >= 0).any()):
            where = int(indices[(taken >= 0).nonzero()[0]])
            raise DataError(f"graph {where} is in split '{name}' and in '{list(parts)[int(owner[where])]}'")
        owner[indices] = number
    return {name: indices for name, indices in parts.items() if len(indices)}


def _count(amount: Amount, total: int, part: str) -> int:
    if amount < 0 or (isinstance(amount, float) and amount > 1 and not amount.is_integer()):
        raise ConfigError(f"split '{part}' is {amount}; expected a count, or a fraction between 0 and 1")
    return round(amount * total) if isinstance(amount, float) and amount <= 1 else int(amount)


def _counts(train: Amount | None, val: Amount, test: Amount, total: int) -> tuple[int, int, int]:
    number_val, number_test = _count(val, total, "val"), _count(test, total, "test")
    number_train = total - number_val - number_test if train is None else _count(train, total, "train")
    wanted = number_train + number_val + number_test
    if train is not None and wanted == total + 1 and all(isinstance(x, float) and x <= 1 for x in (train, val, test)):
        number_train -= 1  # fractions that add up to one may round to one graph too many
    elif wanted > total or number_train < 0:
        raise ConfigError(
            f"the split asks for {max(number_train, 0)} train + {number_val} val + {number_test} test graphs, "
            f"but the store holds {total}"
        )
    return number_train, number_val, number_test


class RandomSplit(Split):
    """Draw the parts at random.

    Frames that follow each other in a trajectory are nearly the same: use `BlockSplit` for those.

    Args:
        train: count or fraction; None takes what the others leave.
        val: count or fraction.
        test: count or fraction.
        seed: of the drawing.
    """

    def __init__(
        self, train: int | float | None = None, val: int | float = 0.1, test: int | float = 0, seed: int = 0
    ) -> None:
        self.train, self.val, self.test, self.seed = train, val, test, seed

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`; each part ascending."""
        counts = _counts(self.train, self.val, self.test, len(store))
        order = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(store)))
        parts = dict(zip(PARTS, order[: sum(counts)].split(counts), strict=True))
        return checked_parts({name: part.sort().values for name, part in parts.items()}, store)


class BlockSplit(Split):
    """Cut the store into three consecutive blocks, so that near-equal frames of a trajectory stay together.

    Args:
        train: count or fraction; None takes what the others leave.
        val: count or fraction.
        test: count or fraction; the last block.
    """

    def __init__(self, train: int | float | None = None, val: int | float = 0.1, test: int | float = 0) -> None:
        self.train, self.val, self.test = train, val, test

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        counts = _counts(self.train, self.val, self.test, len(store))
        return checked_parts(dict(zip(PARTS, torch.arange(sum(counts)).split(counts), strict=True)), store)


class BootstrapSplit(Split):
    """The parts of another split, with a training part that was drawn again.

    There are as many draws, with replacement, as it has graphs; each graph that was drawn is kept once. This leaves
    about 63 %.

    Args:
        split: the other one; None has all graphs in training.
        seed: of the drawing.
    """

    def __init__(self, split: Split | None = None, seed: int = 0) -> None:
        self.origin, self.seed = split, seed

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        parts = {"train": torch.arange(len(store))} if self.origin is None else self.origin.indices(store)
        if "train" in parts:
            count = len(parts["train"])
            drawn = np.unique(np.random.default_rng(self.seed).integers(0, count, count))
            parts = {**parts, "train": parts["train"][torch.from_numpy(drawn)]}
        return parts


def parse_indices(text: int | str | Sequence[int | str], total: int, what: str = "indices") -> Int[Tensor, " graphs"]:
    """Positions from ranges and numbers.

    Args:
        text: `"0:1300"`, `"::10"`, `"0:80,160:240,300"`, or a list of such strings and numbers; as Python slices.
        total: number of graphs.
        what: what to call it in messages.

    Raises:
        ConfigError: it can't be read, or reaches beyond `total`.
    """
    pieces = [piece for entry in ([text] if isinstance(text, str | int) else text) for piece in str(entry).split(",")]
    found = []
    for piece in pieces:
        try:
            numbers = [int(number) if number.strip() else None for number in piece.split(":")]
            if len(numbers) == 1:
                position = int(piece) + total * (int(piece) < 0)
                found.append(torch.tensor([position]))
                bound = position + 1 if position >= 0 else -total - 1
            else:
                chosen = slice(*numbers)
                found.append(torch.arange(*chosen.indices(total)))
                bound = chosen.stop if chosen.stop is not None else 0
        except (ValueError, TypeError):
            raise ConfigError(
                f"{what}: '{piece}' can't be read; expected 'start:stop', 'start:stop:step' or a number"
            ) from None
        if bound > total or bound < -total:
            raise ConfigError(f"{what}: '{piece}' reaches beyond the {total} graphs of the store")
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


class RangeSplit(Split):
    """Parts as ranges, written like Python slices; several are joined by commas.

    Args:
        train: e.g. `"0:1300"`; None leaves the part out.
        val: as `train`.
        test: e.g. `"1300:1562"`.
    """

    def __init__(self, train: str | None = None, val: str | None = None, test: str | None = None) -> None:
        self.ranges = {"train": train, "val": val, "test": test}

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        parts = {
            name: parse_indices(text, len(store), f"split '{name}'")
            for name, text in self.ranges.items()
            if text is not None
        }
        return checked_parts(parts, store)


class FileSplit(Split):
    """Parts from a JSON or YAML file: `{"train": [0, 1, "10:200"], "val": "200:220", …}`.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`.

        Raises:
            FileFormatError: the file is missing or can't be read.
        """
        return checked_parts(read_parts(_load(self.path), len(store), str(self.path)), store)


def _load(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise FileFormatError(f"{path}: the split can't be read ({' '.join(str(error).split())})") from None


def read_parts(parts: Any, total: int, where: str) -> dict[str, Tensor]:
    """Positions by part from what stands in a split file or on a card.

    Raises:
        ConfigError: a part is unknown or can't be read.
    """
    if not isinstance(parts, Mapping) or not parts or set(parts) - set(PARTS):
        named = sorted(parts) if isinstance(parts, Mapping) else type(parts).__name__
        raise ConfigError(f"{where}: expected some of {list(PARTS)} with ranges or lists of numbers, found {named}")
    return {name: parse_indices(parts[name], total, f"{where}: split '{name}'") for name in PARTS if name in parts}
