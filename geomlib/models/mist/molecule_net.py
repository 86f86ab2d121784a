"""The net that gives a mixture the embeddings of its molecules: any net of properties, without its head."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.fields import FIELDS
from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.models import family
from geomlib.models.property import PropertyNet

__all__ = ["checked_fractions", "embed_molecules", "kelvin", "molecule_net", "molecule_stages"]

_OF_MIXTURES = frozenset({"component_graph", "mole_fraction", "temperature", "target", "target_excess", "sample_id"})
_TOLERANCE = 1e-4


def molecule_net(row: Mapping[str, Any]) -> PropertyNet:
    """Net of a family, without a head.

    Args:
        row: `family`, such as mist-property, dmpnn or combined, and its arguments without `targets`.

    Raises:
        ConfigError: no family, or one that gives no embedding.
    """
    if "family" not in row or "targets" in row:
        raise ConfigError(
            f"molecule {dict(row)}: expected the family of a net, such as mist-property or dmpnn, and its arguments "
            "without targets"
        )
    arguments = {key: copy.deepcopy(value) for key, value in row.items() if key != "family"}
    kind: Any = family(row["family"])
    if not issubclass(kind, PropertyNet):
        raise ConfigError(f"molecule: family '{row['family']}' gives no embedding of molecules")
    net = kind(["molecule"], **arguments)
    net.remove_head()
    return net


def embed_molecules(net: PropertyNet, batch: GraphData) -> Float[Tensor, "components width"]:
    """Embedding of every molecule of a batch of mixtures, each as if it were alone."""
    alone = GraphData()
    for name, value in batch.to_dict().items():
        if name in FIELDS and name not in _OF_MIXTURES:
            alone[name] = value
    components = len(batch.component_graph)
    alone.component_graph = torch.arange(components, device=batch.component_graph.device)
    if "node_component" in batch:
        alone.batch = batch.node_component
    alone.__dict__["_num_graphs"] = components
    return net.embed(alone)


def molecule_stages(net: PropertyNet) -> list[list[str]]:
    """Stages in which a net that holds `net` as `molecule` thaws; see `PropertyNet.thaw_stages`."""
    return [["head"], *([f"molecule.{name}" for name in stage] for stage in net.thaw_stages()[1:])]


def checked_fractions(batch: GraphData, like: Tensor) -> Float[Tensor, " components"]:
    """Mole fractions of a batch; 1 of molecules that are alone.

    Raises:
        DataError: there are none, one lies outside [0, 1], or those of a mixture don't sum to 1.
    """
    owner, graphs = batch.component_graph, batch.num_graphs
    if "mole_fraction" not in batch:
        if len(owner) != graphs:
            raise DataError("the mixtures have no mole fractions: name their columns as fractions of the table")
        return torch.ones(graphs, dtype=like.dtype, device=like.device)
    fractions = batch.mole_fraction
    total = fractions.new_zeros(graphs).index_add(0, owner, fractions)
    # written so that NaN fails too
    sound = ((fractions >= 0) & (fractions <= 1 + _TOLERANCE)).all() & ((total - 1).abs() <= _TOLERANCE).all()
    if not bool(sound):
        graph = int((~((total - 1).abs() <= _TOLERANCE)).nonzero()[0]) if bool((total != 1).any()) else int(owner[0])
        raise DataError(
            f"mixture {graph} of the batch has the mole fractions {fractions[owner == graph].tolist()}; expected "
            "numbers from 0 to 1 that sum to 1"
        )
    return fractions.to(like)


def kelvin(batch: GraphData, like: Tensor) -> Float[Tensor, " graphs"]:
    """Temperatures of a batch [K].

    Raises:
        DataError: there are none, or one is not positive.
    """
    if "temperature" not in batch:
        raise DataError("the mixtures have no temperature, which the net needs: name its column in the table")
    if not bool((batch.temperature > 0).all()):
        raise DataError(f"a temperature is {float(batch.temperature.min()):g} K; expected positive ones")
    return batch.temperature.to(like)
