"""Tables of mixtures: labels of excesses, splits by pair and by compound, excess volumes from densities."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.data.molecules import canonical_smiles, parse_molecule, to_smiles
from geomlib.data.splits import Split, checked_parts
from geomlib.data.stores import Store
from geomlib.data.tables import TableStore
from geomlib.errors import ConfigError, DataError

__all__ = ["CompoundSplit", "DensityRow", "MixtureStore", "PairSplit", "excess_volumes"]

_PURE = 1e-9
"""A mole fraction that is as good as 0 or 1."""


class MixtureStore(TableStore):
    """Mixtures with properties and labels of their excess: the rows of a CSV file.

    A `TableStore` with further columns, one for each target: the target minus what linear mixing of the pure
    substances gives. An empty cell is a label that is not there.

    Args:
        path: CSV file, `.gz` if it is packed.
        smiles: columns of the SMILES, one for each component; an empty cell is a component that is not there.
        fractions: columns of the mole fractions, one for each component, or for all but the last.
        targets: columns of the properties; `null` for those that the net names.
        excess: columns of the excess of each target, in the same order.
        temperature: column of the temperature [K].
        errors: `raise` at the first bad row, or `skip` bad rows with a warning.
        check: whether RDKit reads every SMILES beforehand.
        delimiter: what stands between cells.

    Raises:
        FileFormatError: the file can't be read.
        ConfigError: a column that the file does not have, or another number of excesses than of targets.
        DataError: a bad row: a SMILES that is none, fractions outside [0, 1] or that don't sum to 1, a temperature
            that is not positive, a label that is no number.
    """

    partial: tuple[str, ...] = ("target", "target_excess")

    def __init__(
        self,
        path: str,
        smiles: list[str],
        fractions: list[str],
        targets: list[str] | str | None = None,
        excess: list[str] | None = None,
        temperature: str | None = None,
        errors: Literal["raise", "skip"] = "raise",
        check: bool = True,
        delimiter: str = ",",
    ) -> None:
        self._excess: Tensor | None = None
        self.excess_columns = tuple(excess or ())
        super().__init__(path, smiles, targets, fractions, temperature, errors, check, delimiter)
        if not self.excess_columns:
            return
        if self.targets is not None and len(self.targets) != len(self.excess_columns):
            raise ConfigError(
                f"{path}: {len(self.excess_columns)} columns of excesses for {len(self.targets)} targets; expected one "
                "for each, in the same order"
            )
        named, fields, labels = self.targets, self.fields, self._labels
        self.read_targets(self.excess_columns)
        self._excess = self._labels
        self.targets, self.fields, self._labels = named, (*fields, "target_excess"), labels

    def _name_fields(self) -> None:
        super()._name_fields()
        if self._excess is not None:
            self.fields = (*self.fields, "target_excess")

    def __getitem__(self, index: int) -> GraphData:
        graph = super().__getitem__(index)
        if self._excess is not None:
            k = self._position(index)
            graph.target_excess = self._excess[k : k + 1].clone()
        return graph

    @property
    def content_hash(self) -> str:
        """See `Store`."""
        own = super().content_hash
        if self._excess is None:
            return own
        return hashlib.sha256(own.encode() + self._excess.numpy().tobytes()).hexdigest()


def _compounds(store: Store) -> list[frozenset[str]]:
    """Compounds of each graph, whatever way their SMILES are written."""
    if "smiles" not in store.fields:
        raise ConfigError(f"a split by molecules needs SMILES; the store has {list(store.fields)}")
    known: dict[str, str] = {}
    found = []
    for index, graph in enumerate(store):
        texts = to_smiles(graph)
        for text in texts:
            if text not in known:
                known[text] = canonical_smiles(parse_molecule(text, store.describe(index)))
        found.append(frozenset(known[text] for text in texts))
    return found


def _check_shares(val: float, test: float) -> None:
    if not (val >= 0 and test >= 0 and 0 < val + test < 1):
        raise ConfigError(f"val {val} and test {test}: expected fractions that sum to less than 1")


class PairSplit(Split):
    """All rows of a mixture of the same compounds, in any order and composition, stay together.

    Mixtures are drawn by chance until they hold the wanted share of the rows. Their compounds may be in the training
    set, in other mixtures. Rows of pure substances are for training.

    Args:
        val: fraction of the rows.
        test: fraction of the rows.
        seed: of the random order.
    """

    def __init__(self, val: float = 0.1, test: float = 0.1, seed: int = 0) -> None:
        _check_shares(val, test)
        self.val, self.test, self.seed = val, test, seed

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`; each part ascending.

        Raises:
            ConfigError: a store without molecules.
            DataError: a SMILES that is no molecule.
        """
        groups: dict[frozenset[str], list[int]] = defaultdict(list)
        parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for index, compounds in enumerate(_compounds(store)):
            (groups[compounds] if len(compounds) > 1 else parts["train"]).append(index)
        order = sorted(groups, key=sorted)
        for k in np.random.default_rng(self.seed).permutation(len(order)):
            rows = groups[order[k]]
            for name, share in (("test", self.test), ("val", self.val), ("train", 1.0)):
                if name == "train" or len(parts[name]) + 0.5 * len(rows) <= share * len(store):
                    parts[name] += rows
                    break
        return checked_parts({name: torch.tensor(sorted(rows)) for name, rows in parts.items()}, store)


class CompoundSplit(Split):
    """Strict: a tested mixture has only compounds that no mixture of training has.

    Compounds are drawn by chance into three groups. A mixture belongs to a part if all its compounds are of the same
    group; mixtures across groups are left out, so the parts together are smaller than the store.

    Args:
        val: fraction of the compounds.
        test: fraction of the compounds.
        seed: of the random order.
    """

    def __init__(self, val: float = 0.15, test: float = 0.25, seed: int = 0) -> None:
        _check_shares(val, test)
        self.val, self.test, self.seed = val, test, seed

    def indices(self, store: Store) -> dict[str, Int[Tensor, " graphs"]]:
        """See `Split`; each part ascending.

        Raises:
            ConfigError: a store without molecules.
            DataError: a SMILES that is no molecule, or no mixture is left for a part.
        """
        rows = _compounds(store)
        compounds = sorted(set().union(*rows))
        order = [compounds[k] for k in np.random.default_rng(self.seed).permutation(len(compounds))]
        test, val = round(self.test * len(order)), round(self.val * len(order))
        group = {name: "test" if k < test else "val" if k < test + val else "train" for k, name in enumerate(order)}
        parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for index, present in enumerate(rows):
            owners = {group[name] for name in present}
            if len(owners) == 1:
                parts[owners.pop()].append(index)
        empty = [
            name for name, size in (("train", 1), ("val", self.val), ("test", self.test)) if size and not parts[name]
        ]
        if empty:
            raise DataError(
                f"no mixture of {len(rows)} has all its compounds in {' or '.join(empty)}: use larger fractions, "
                "another seed, or PairSplit"
            )
        return checked_parts({name: torch.tensor(found) for name, found in parts.items()}, store)


@dataclass(frozen=True)
class DensityRow:
    """A measured density of a binary mixture.

    Attributes:
        first: SMILES of molecule 1.
        second: SMILES of molecule 2.
        fraction: mole fraction x of molecule 1.
        temperature: [K].
        density: ρ [g/cm³].
        source: of the measurement; excesses take the pure substances from the same one.
    """

    first: str
    second: str
    fraction: float
    temperature: float
    density: float
    source: str = ""


def excess_volumes(rows: Sequence[DensityRow], masses: Mapping[str, float]) -> Tensor:
    """Excess molar volume of each row [cm³/mol]; NaN where the pure substances were not measured beside it.

        V_E = (x M₁ + (1 − x) M₂) / ρ − x M₁ / ρ₁ − (1 − x) M₂ / ρ₂

    The pure densities ρ₁, ρ₂ are the medians of the rows with x = 1 and x = 0 of the same source at the same
    temperature (to 0.01 K). Pure substances have 0, exactly.

    Args:
        rows: densities.
        masses: SMILES → molar mass [g/mol].

    Raises:
        DataError: a row whose numbers make no sense.
    """
    pure: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for k, row in enumerate(rows):
        if not (0 <= row.fraction <= 1 and row.temperature > 0 and row.density > 0):
            raise DataError(f"density row {k}: x {row.fraction:g}, T {row.temperature:g} K, density {row.density:g}")
        if row.fraction >= 1 - _PURE or row.fraction <= _PURE:
            name = row.first if row.fraction >= 0.5 else row.second
            pure[name, round(row.temperature, 2), row.source].append(row.density)
    medians = {key: float(np.median(values)) for key, values in pure.items()}
    found = torch.full((len(rows),), torch.nan, dtype=torch.float64)
    for k, row in enumerate(rows):
        if row.fraction >= 1 - _PURE or row.fraction <= _PURE:
            found[k] = 0.0
            continue
        ends = [medians.get((name, round(row.temperature, 2), row.source)) for name in (row.first, row.second)]
        if ends[0] is not None and ends[1] is not None:
            m1, m2, x = masses[row.first], masses[row.second], row.fraction
            ideal = x * m1 / ends[0] + (1 - x) * m2 / ends[1]
            found[k] = (x * m1 + (1 - x) * m2) / row.density - ideal
    return found
