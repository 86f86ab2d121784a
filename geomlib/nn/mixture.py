"""From molecules to the mixtures that they make up."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.nn.reduce import segment_sum

__all__ = ["component_weights", "mix"]


def component_weights(batch: GraphData, like: Tensor) -> Float[Tensor, " components"]:
    """Mole fraction of each molecule; equal shares where a graph says none.

    Args:
        batch: molecules and the graphs they belong to.
        like: a tensor of the dtype and device that is wanted.
    """
    if "mole_fraction" in batch:
        return batch.mole_fraction.to(like)
    owner: Int[Tensor, " components"] = batch.component_graph
    counts = torch.bincount(owner, minlength=batch.num_graphs).to(like)
    return counts.reciprocal().index_select(0, owner)


def mix(values: Float[Tensor, "components width"], batch: GraphData) -> Float[Tensor, "graphs width"]:
    """Σ x_i v_i over the molecules of each graph; a molecule alone is its own mixture.

    Args:
        values: of each molecule.
        batch: molecules, the graphs they belong to, and mole fractions x.
    """
    weights = component_weights(batch, values).unsqueeze(1)
    return segment_sum(weights * values, batch.component_graph, batch.num_graphs)
