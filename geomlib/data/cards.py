"""Dataset cards: what a data set is, where its files are, their checksums, units, licence and splits."""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml
from jaxtyping import Int
from torch import Tensor

import geomlib
from geomlib.data.asedb import AseDbStore
from geomlib.data.deepmd import DeepmdStore
from geomlib.data.extxyz import ExtxyzStore
from geomlib.data.fields import FIELDS
from geomlib.data.fields import field as table_row
from geomlib.data.flat import FlatStore
from geomlib.data.graph import GraphData
from geomlib.data.splits import Split, checked_parts, read_parts
from geomlib.data.stores import DESCRIBING_FIELDS, ConcatStore, Store, SubsetStore
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError, FileFormatError, GeomlibWarning, UnitError, nearest
from geomlib.units import conversion_factor

__all__ = ["STORES", "Card", "CardFile", "CardSplit", "CardStore", "card_folders", "find_card", "find_cards"]

STORES: Mapping[str, type[Store]] = MappingProxyType(
    {cls.__name__: cls for cls in (AseDbStore, DeepmdStore, ExtxyzStore, FlatStore, TableStore)}
)
"""Name on a card → store."""

_PATH_ARGUMENTS = ("path", "systems")


@dataclass(frozen=True, slots=True)
class CardFile:
    """One file of a data set.

    Args:
        path: relative to the card.
        bytes: its size.
        sha256: its checksum.
        url: where to get it, if it may be downloaded.
    """

    path: str
    bytes: int
    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Card:
    """What `datasets/<name>/card.yaml` says.

    Args:
        name: of the data set, and of its folder.
        title: one line.
        licence: SPDX name, or what the source says.
        store: `{class: <key of STORES>, args: {path: …}}`; paths relative to the card, a list of them is concatenated.
        fields: key in the files → `{field, unit}`.
        graphs: number of graphs.
        description: a paragraph.
        citation: how to cite it.
        source: where it comes from.
        files: sizes and checksums.
        partial: fields that some graphs lack.
        splits: part → ranges or lists of numbers, see `FileSplit`; or name → such parts, for a data set that can be
            divided in several ways, of which the first is the official one.
        sample: `{file, graphs}` and optionally `splits`: a small flat store that stands in where the files are absent.
        notes: anything else.
        folder: where the card was found.
    """

    name: str
    title: str
    licence: str
    store: dict[str, Any]
    fields: dict[str, dict[str, str]]
    graphs: int
    description: str = ""
    citation: str = ""
    source: str = ""
    files: tuple[CardFile, ...] = ()
    partial: tuple[str, ...] = ()
    splits: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] | None = None
    notes: str = ""
    folder: Path = Path()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a card.

        Raises:
            FileFormatError: it is missing, not YAML, or lacks an entry.
            UnitError: a stored key has no unit, or one of the wrong dimension.
        """
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileFormatError(f"{path}: there is no such card") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise FileFormatError(f"{path}: not a card ({' '.join(str(error).split())[:200]})") from None
        if not isinstance(values, dict):
            raise FileFormatError(f"{path}: not a card; expected entries such as 'name' and 'store'")
        known = {entry.name for entry in fields(cls)} - {"folder"}
        for name in values:
            if name not in known:
                raise FileFormatError(f"{path}: unknown entry '{name}'{nearest(str(name), known)}")
        required = ("name", "title", "licence", "store", "fields", "graphs")
        if missing := [name for name in required if name not in values]:
            raise FileFormatError(f"{path}: the entries {missing} are missing")
        try:
            files = tuple(CardFile(**entry) for entry in values.pop("files", ()))
            card = cls(**{**values, "partial": tuple(values.get("partial", ()))}, files=files, folder=path.parent)
        except TypeError as error:
            raise FileFormatError(f"{path}: {error}") from None
        card._check(path)
        return card

    def _check(self, path: Path) -> None:
        chosen = self.store.get("class") if isinstance(self.store, dict) else self.store
        if chosen not in STORES:
            raise FileFormatError(
                f"{path}: store class '{chosen}' is unknown{nearest(str(chosen), STORES)}; {sorted(STORES)}"
            )
        for file in self.files:
            if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
                raise FileFormatError(f"{path}: the file '{file.path}' must stand below the card's folder")
        for key, entry in self.fields.items():
            if not isinstance(entry, dict) or "field" not in entry:
                raise FileFormatError(f"{path}: '{key}' must say which field it is: {{field: energy, unit: eV}}")
            row = table_row(entry["field"])
            unit = entry.get("unit")
            if unit is None:
                hint = f", e.g. '{row.unit}'" if row.unit not in ("", "card") else " ('1' if it has none)"
                raise UnitError(f"{path}: the stored key '{key}' has no unit; add one{hint}")
            if row.unit not in ("", "card"):
                try:
                    conversion_factor(str(unit), row.unit)
                except UnitError as error:
                    raise UnitError(f"{path}: stored key '{key}': {error}") from None

    def locate(self, path: str) -> Path | None:
        """Where a file of the data set is: beside the card, or in a folder for downloads; None if nowhere."""
        candidates = [self.folder / path, *(folder / self.name / path for folder in download_folders())]
        return next((candidate for candidate in candidates if candidate.exists()), None)

    @property
    def missing(self) -> list[str]:
        """Files that are not there."""
        return [file.path for file in self.files if self.locate(file.path) is None]

    @property
    def uses_sample(self) -> bool:
        """Whether the sample stands in, since files are missing."""
        return self.sample is not None and bool(self.missing)

    def open(self, *, partial: Sequence[str] | None = None) -> Store:
        """The store, or the sample if files are missing.

        Args:
            partial: fields that may be missing or not finite, instead of those on the card.

        Raises:
            DataError: files are missing and there is no sample.
            UnitError: a flat store's units differ from the card's.
        """
        if self.uses_sample:
            assert self.sample is not None
            return self._checked_units(FlatStore(self.folder / self.sample["file"]))
        arguments = dict(self.store.get("args", {}))
        for name in _PATH_ARGUMENTS:
            if name in arguments:
                paths = arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
                arguments[name] = [self._require(path) for path in paths]
        cls = STORES[self.store["class"]]
        labels = {entry["field"]: key for key, entry in self.fields.items()}
        wanted = [name for name in labels if name not in DESCRIBING_FIELDS or name in ("charge", "spin_multiplicity")]
        if cls is TableStore:
            return self._table(arguments["path"])
        if cls is FlatStore:
            return self._concatenated([FlatStore(path) for path in arguments["path"]])
        arguments["units"] = {entry["field"]: str(entry["unit"]) for entry in self.fields.values()}
        arguments["partial"] = tuple(self.partial if partial is None else partial)
        arguments["fields"] = wanted
        if cls is DeepmdStore:
            return DeepmdStore(**arguments)
        arguments["keys"] = labels
        paths = arguments.pop("path")
        return self._concatenated([cls(path, **arguments) for path in paths])  # type: ignore[call-arg]

    def _table(self, paths: Sequence[str]) -> TableStore:
        """A table of molecules, whose targets are columns with units of their own."""
        columns: dict[str, list[str]] = {}
        for key, entry in self.fields.items():
            columns.setdefault(entry["field"], []).append(key)
        return TableStore(
            paths[0],
            smiles=columns["smiles"],
            targets=columns.get("target", []),
            fractions=columns.get("mole_fraction"),
            temperature=columns.get("temperature", [None])[0],
            check=False,
        )

    def _concatenated(self, stores: list[Any]) -> Store:
        for store in stores:
            if isinstance(store, FlatStore):
                self._checked_units(store)
        return stores[0] if len(stores) == 1 else ConcatStore(stores)

    def _checked_units(self, store: FlatStore) -> FlatStore:
        units = {entry["field"]: str(entry["unit"]) for entry in self.fields.values()}
        for name in store.fields:
            stored = store.header["fields"][name]["unit"]
            if FIELDS[name].unit == "":
                continue
            if name not in units:
                raise UnitError(
                    f"{self.folder / 'card.yaml'}: the stored key '{name}' is not on the card; add its unit"
                )
            if conversion_factor(units[name], stored) != 1.0:
                raise UnitError(
                    f"{self.folder / 'card.yaml'}: '{name}' is in {units[name]} here, in {stored} in the file"
                )
        return store

    def _require(self, path: str) -> str:
        name, hash_sign, group = str(path).partition("#")
        found = self.locate(name)
        if found is None and not any(sign in name for sign in "*?["):
            raise DataError(
                f"data set '{self.name}': the file '{name}' is not there; "
                f"`geomlib data get {self.name}` says how to get it"
            )
        return str(found or self.folder / name) + hash_sign + group

    @property
    def named_splits(self) -> dict[str, Any]:
        """Name → parts as they stand on the card (of the sample if that stands in); `""` names a lone split."""
        splits = self.splits
        if self.uses_sample:
            assert self.sample is not None
            splits = self.sample.get("splits", splits)
        named = {str(name): parts for name, parts in splits.items() if isinstance(parts, Mapping)}
        return named or ({"": splits} if splits else {})

    def parts(self, total: int, split: str | None = None) -> dict[str, Int[Tensor, " graphs"]]:
        """Positions by part.

        Args:
            total: number of graphs in the store.
            split: which of the named splits; None is the official one.

        Raises:
            ConfigError: the card has no splits, or none of that name.
        """
        named = self.named_splits
        where = f"data set '{self.name}'"
        if not named:
            raise ConfigError(f"{where} has no official split; choose one, e.g. RandomSplit")
        name = next(iter(named)) if split is None else split
        if name not in named:
            raise ConfigError(f"{where} has no split named '{name}'{nearest(name, named)}; it has {list(named)}")
        return read_parts(named[name], total, f"{where}, split '{name}'" if name else where)


def file_sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download_folders() -> list[Path]:
    """Folders of users' data sets: those in `$GEOMLIB_DATA`, and `~/.cache/geomlib/data`."""
    named = [Path(name) for name in os.environ.get("GEOMLIB_DATA", "").split(os.pathsep) if name]
    return [*named, Path.home() / ".cache" / "geomlib" / "data"]


def card_folders() -> list[Path]:
    """Folders in which cards are looked for, first match first."""
    package = Path(geomlib.__file__).parent
    candidates = [*download_folders(), package / "_datasets", package.parent / "datasets"]
    return [folder for folder in candidates if folder.is_dir()]


def find_cards() -> dict[str, Path]:
    """Name → path of every card that can be found."""
    found: dict[str, Path] = {}
    for folder in card_folders():
        for path in sorted(folder.glob("*/card.yaml")):
            found.setdefault(path.parent.name, path)
    return dict(sorted(found.items()))


def find_card(name: str | Path) -> Card:
    """The card called `name`, or the one at that path (a folder or a `card.yaml`).

    Raises:
        DataError: there is none; the message names those that there are.
    """
    path = Path(name)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return Card.read(path)
    if (path / "card.yaml").is_file():
        return Card.read(path / "card.yaml")
    found = find_cards()
    if str(name) not in found:
        raise DataError(f"there is no data set called '{name}'{nearest(str(name), found)}; there are {sorted(found)}")
    return Card.read(found[str(name)])


class CardStore(Store):
    """The data set that a card describes.

    Args:
        name: name of the data set, or path of its card.
        split: only the graphs of this part of the official split, e.g. `"train"`, or of a named one, e.g.
            `"all/train"`.

    Raises:
        DataError: there is no such data set, or its files are missing and it has no sample.
    """

    def __init__(self, name: str, split: str | None = None) -> None:
        self.card = find_card(name)
        if self.card.uses_sample:
            warnings.warn(
                f"data set '{self.card.name}': {self.card.missing} are not there, so its sample of "
                f"{(self.card.sample or {}).get('graphs')} graphs is used; see `geomlib data get {self.card.name}`",
                GeomlibWarning,
                stacklevel=2,
            )
        self.store = self.card.open()
        if split is not None:
            named, _, part = split.rpartition("/")
            parts = self.card.parts(len(self.store), named or None)
            if part not in parts:
                raise ConfigError(f"data set '{self.card.name}' has no split '{split}'; it has {sorted(parts)}")
            self.store = SubsetStore(self.store, parts[part])
        self.fields, self.partial = self.store.fields, self.store.partial

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> GraphData:
        return self.store[index]

    def describe(self, index: int) -> str:
        """See `Store`."""
        return self.store.describe(index)

    def batch(self, indices: Sequence[int]) -> GraphData:
        """See `Store`."""
        return self.store.batch(indices)

    @property
    def sizes(self) -> Int[Tensor, " graphs"]:
        """See `Store`."""
        return self.store.sizes

    @property
    def members(self) -> list[Store]:
        """See `Store`."""
        return self.store.members

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        return self.store.content_hash


class CardSplit(Split):
    """A split that stands on the card of a data set.

    Args:
        name: name of the data set, or path of its card; the store must be that data set, whole.
        split: which of the card's named splits; None is the official one.
    """

    def __init__(self, name: str, split: str | None = None) -> None:
        self.name, self.split = name, split

    def indices(self, store: Store) -> dict[str, Tensor]:
        """See `Split`."""
        return checked_parts(find_card(self.name).parts(len(store), self.split), store)
