"""What the layers of a net hold of molecules, one vector for each molecule and layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomlib.apply.predict import built_batch, molecule_batches
from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, GeomlibError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.models.mist.encoder import Encoder
from geomlib.models.mist.net import MIST, POOLS
from geomlib.models.property import PropertyNet
from geomlib.nn.mixture import mix
from geomlib.nn.reduce import segment_sum

__all__ = ["LayerStates", "layer_states"]


@dataclass(frozen=True, slots=True)
class LayerStates:
    """Pooled hidden states of molecules.

    Attributes:
        layers: name → [molecules, width], from the input to the output; NaN where there is an error.
        errors: why a row has no states, or None.
    """

    layers: dict[str, NDArray[np.float64]]
    errors: list[str | None]

    @property
    def last(self) -> NDArray[np.float64]:
        """States of the last layer."""
        return list(self.layers.values())[-1]


def layer_states(model: Any, rows: Sequence[str], max_tokens: int = 16384) -> LayerStates:
    """Hidden states of every layer, pooled as the net pools its last one; none of the rows raises.

    A language model has its embedding, each block, and the last normalisation. A net without tokens has the mean of
    its atoms' features (`atoms`), which nothing has been learned in, and its embedding. A net of several members has
    the layers of each, then what its head sees.

    Args:
        model: a net of the families `mist` or of properties, or its model file or checkpoint.
        rows: SMILES.
        max_tokens: characters of a batch.

    Raises:
        ConfigError: a net that has no such states, or no row that could be read.
    """
    net = bare_net(model if isinstance(model, nn.Module) else load(model))[0].eval()
    if not isinstance(net, MIST | PropertyNet):
        raise ConfigError(f"a net of the family '{net.family}' has no hidden states of molecules")
    errors: list[str | None] = [None] * len(rows)
    found: dict[str, NDArray[np.float64]] = {}
    for batch in molecule_batches(rows, errors, max_tokens):
        for part in _usable(net, batch, errors):
            for name, values in _layers(net, built_batch(net, [graph for _, graph in part])).items():
                table = found.setdefault(name, np.full((len(rows), values.shape[1]), np.nan))
                table[[index for index, _ in part]] = values.double().cpu().numpy()
    if not found:
        raise ConfigError(f"none of {len(rows)} rows could be read: {next(filter(None, errors), 'there are none')}")
    return LayerStates(found, errors)


def _usable(
    net: Any, batch: list[tuple[int, GraphData]], errors: list[str | None]
) -> list[list[tuple[int, GraphData]]]:
    """The rows whose structure can be built, as one batch."""
    kept = []
    for index, graph in batch:
        try:
            net.spec.prepare(graph.clone())
            kept.append((index, graph))
        except GeomlibError as error:
            errors[index] = str(error)
    return [kept] if kept else []


@torch.no_grad()
def _layers(net: MIST | PropertyNet, batch: GraphData) -> dict[str, Tensor]:
    batch = batch.to_dtype(next(net.parameters()).dtype)
    found: dict[str, Tensor] = {}
    components = batch.count("component")
    encoder = getattr(net, "encoder", None)
    if isinstance(encoder, Encoder):
        states = encoder.states(batch.token_id, batch.token_component, components)
        names = ["embedding", *(f"block {k}" for k in range(1, len(states) - 1)), "output"]
        for name, state in zip(names, states, strict=True):
            pooled = POOLS[str(net.pool)](state, batch.token_component, components)
            found[name] = mix(pooled, batch) if isinstance(net, PropertyNet) else pooled
        return found
    members = getattr(net, "members", None)
    if isinstance(members, nn.ModuleDict):
        for name, member in members.items():
            if isinstance(member, PropertyNet):
                found |= {f"{name}: {layer}": values for layer, values in _layers(member, batch).items()}
    elif "node_features" in batch:
        sizes = torch.bincount(batch.node_component, minlength=components).clamp_min(1).unsqueeze(1)
        features = batch.node_features
        found["atoms"] = mix(segment_sum(features, batch.node_component, components) / sizes, batch)
    if isinstance(net, PropertyNet):
        found["embedding"] = net.embed(batch)
    return found
