"""Probes: how well each layer of a net lets a linear map read a property of the molecule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomlib.apply.evaluate_properties import Score
from geomlib.apply.hidden_states import LayerStates, layer_states
from geomlib.apply.linear_probe import LogisticProbe, RidgeProbe
from geomlib.data.descriptors import calculate_descriptors, expand_descriptors
from geomlib.data.molecules import from_smiles, parse_molecule
from geomlib.data.scores import SCORES, bootstrap_interval
from geomlib.data.stores import MemoryStore
from geomlib.data.table_splits import ScaffoldSplit
from geomlib.errors import DataError

__all__ = ["DEFAULT_PROPERTIES", "LayerScore", "Probe", "described", "probe_layers"]

DEFAULT_PROPERTIES = (
    *("MolLogP", "TPSA", "MolWt", "FractionCSP3", "RingCount", "NumAromaticRings"),
    *("NumHDonors", "NumRotatableBonds"),
)
"""Descriptors that are probed if nothing else is asked for."""

_FEWEST = 20
"""Molecules that either part needs at least."""


@dataclass(frozen=True, slots=True)
class LayerScore:
    """What a probe of one layer reached.

    Attributes:
        layer: its name.
        score: R² or ROC-AUC on the molecules held out, with its 95 % interval.
        control: mean of the same score of probes that were fitted to shuffled labels.
    """

    layer: str
    score: Score
    control: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Probes of one property.

    Attributes:
        name: of the property.
        kind: `regression` (R²) or `binary` (ROC-AUC).
        train: molecules that the maps were fitted to.
        test: molecules held out, of other scaffolds.
        layers: from the input to the output.
    """

    name: str
    kind: str
    train: int
    test: int
    layers: list[LayerScore]


def described(rows: Sequence[str], names: Sequence[str] = DEFAULT_PROPERTIES) -> dict[str, NDArray[np.float64]]:
    """RDKit descriptors of molecules by name; NaN for rows that are none.

    Raises:
        ConfigError: an unknown descriptor.
    """
    columns = expand_descriptors(names)
    values = np.full((len(rows), len(columns)), np.nan)
    for k, text in enumerate(rows):
        try:
            values[k] = calculate_descriptors(parse_molecule(text), columns)
        except DataError:
            continue
    return {name: values[:, k] for k, name in enumerate(columns)}


def probe_layers(
    model: Any,
    rows: Sequence[str],
    properties: Mapping[str, NDArray[np.float64]] | None = None,
    train: float = 0.7,
    shuffles: int = 10,
    draws: int = 300,
    seed: int = 0,
) -> list[Probe]:
    """Fit linear probes to every layer and score them on molecules with other scaffolds.

    Labels that are 0 and 1 alone have a logistic probe and ROC-AUC, others a ridge regression and R². The penalty is
    chosen on the training part. The control has the same probes with the training labels shuffled: what it reaches is
    chance.

    Args:
        model: a net, or its model file; or its `LayerStates` of the rows.
        rows: SMILES.
        properties: name → label of each row, NaN where there is none; `DEFAULT_PROPERTIES` if not given.
        train: share of the molecules that maps are fitted to; molecules of one scaffold stay together.
        shuffles: how often the labels are shuffled.
        draws: of the bootstrap over the molecules held out.
        seed: of both.

    Raises:
        ConfigError: a net without hidden states, or an unknown descriptor.
        DataError: too few molecules, or too few with other scaffolds.

    Source: Alain and Bengio, arXiv:1610.01644; the control follows Hewitt and Liang, arXiv:1909.03368.
    """
    states = model if isinstance(model, LayerStates) else layer_states(model, rows)
    labels = described(rows) if properties is None else properties
    usable = np.flatnonzero([error is None for error in states.errors])
    parts = ScaffoldSplit(train, 0.0).indices(MemoryStore([from_smiles(rows[k]) for k in usable.tolist()]))
    fitted, held = (usable[parts[name].numpy()] if name in parts else usable[:0] for name in ("train", "test"))
    found = []
    fits: dict[tuple[str, bytes], RidgeProbe] = {}
    for name, values in labels.items():
        known = np.isfinite(values)
        a, b = fitted[known[fitted]], held[known[held]]
        if min(len(a), len(b)) < _FEWEST:
            raise DataError(
                f"probes of '{name}': {len(a)} molecules to fit and {len(b)} of other scaffolds to test; expected "
                f"{_FEWEST} of each at least"
            )
        found.append(_probe(name, values, a, b, states, fits, shuffles, draws, seed))
    return found


def _probe(
    name: str,
    values: NDArray[np.float64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    states: LayerStates,
    fits: dict[tuple[str, bytes], RidgeProbe],
    shuffles: int,
    draws: int,
    seed: int,
) -> Probe:
    kind = "binary" if set(np.unique(values[np.isfinite(values)])) <= {0.0, 1.0} else "regression"
    score = SCORES[kind]["auc" if kind == "binary" else "r2"]
    y, truth = torch.from_numpy(values[train]), values[test]
    layers = []
    for layer, table in states.layers.items():
        x, held = torch.from_numpy(table[train]), torch.from_numpy(table[test])
        generator = torch.Generator().manual_seed(seed)
        shuffled = [y[torch.randperm(len(y), generator=generator)] for _ in range(shuffles)]
        if kind == "regression":
            key = (layer, train.tobytes())  # properties of the same molecules share a decomposition
            ridge = fits[key] = fits.get(key) or RidgeProbe(x)
            predictions = [ridge.predict(labels, held).numpy() for labels in (y, *shuffled)]
        elif len(y.unique()) < 2:
            predictions = [np.zeros(len(test))] * (1 + shuffles)
        else:
            logistic = LogisticProbe(x)
            penalty = logistic.penalty(y)
            predictions = [logistic.predict(labels, held, penalty).numpy() for labels in (y, *shuffled)]
        reached = Score(
            score(truth, predictions[0]), *bootstrap_interval(score, truth, predictions[0], draws, seed=seed)
        )
        by_chance = [score(truth, prediction) for prediction in predictions[1:]]
        layers.append(LayerScore(layer, reached, float(np.mean(by_chance)) if by_chance else math.nan))
    return Probe(name, kind, len(train), len(test), layers)
