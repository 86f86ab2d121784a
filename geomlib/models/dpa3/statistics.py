"""Data statistics that DPA3 keeps in its buffers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData, collate
from geomlib.errors import DataError
from geomlib.models.dpa3.geometry import GeometryOptions, build_geometry

if TYPE_CHECKING:
    from geomlib.models.dpa3.net import DPA3

__all__ = ["element_energies", "environment_stddev", "parameter_statistics"]


def element_energies(graphs: Sequence[GraphData], net: "DPA3") -> Float[Tensor, " elements"]:
    """Energy of each element [eV]: the minimum-norm least-squares fit of total energies to the composition.

    Where every graph has `atom_energy`, the mean of each element instead. Elements that do not occur get 0.

    Raises:
        DataError: a graph has neither label.
    """
    count = len(net.elements)
    if all("atom_energy" in graph for graph in graphs):
        types = torch.cat([net.types(graph.atomic_number) for graph in graphs])
        energy = torch.cat([graph.atom_energy for graph in graphs]).double()
        occurrences = torch.bincount(types, minlength=count)
        return torch.zeros(count, dtype=torch.float64).index_add(0, types, energy) / occurrences.clamp_min(1)
    for position, graph in enumerate(graphs):
        if "energy" not in graph:
            raise DataError(
                f"training graph {position} has no 'energy': the energy bias of the elements can't be fitted"
            )
    composition = torch.stack([torch.bincount(net.types(graph.atomic_number), minlength=count) for graph in graphs])
    energies = torch.cat([graph.energy for graph in graphs]).double()
    labelled = torch.isfinite(energies)
    # gelsd gives the minimum-norm solution of a rank-deficient problem, e.g. one composition only
    return torch.linalg.lstsq(composition[labelled].double().cpu(), energies[labelled].cpu(), driver="gelsd").solution


def environment_stddev(
    graphs: Sequence[GraphData], net: "DPA3", options: GeometryOptions
) -> Float[Tensor, "elements 4"]:
    """Spread of environment rows per element of the centre, over the neighbours that there are, floored at 0.01."""
    sums = torch.zeros(len(net.elements), 4, dtype=torch.float64)
    squares, counts = sums.clone(), torch.zeros(len(net.elements), dtype=torch.float64)
    ones = torch.ones(len(net.elements), 4, dtype=torch.float64)
    for start in range(0, len(graphs), 32):
        batch = net.spec.prepare(collate([graph.clone() for graph in graphs[start : start + 32]]))
        types = net.types(batch.atomic_number)
        geometry = build_geometry(batch, types, torch.zeros_like(ones), ones, net.excluded, options)
        rows = torch.cat([geometry.radial, geometry.direction / geometry.weight], dim=1)
        center = types[geometry.center]
        sums.index_add_(0, center, rows)
        squares.index_add_(0, center, rows.square())
        counts += torch.bincount(center, minlength=len(counts))
    mean = sums / counts.clamp_min(1).unsqueeze(1)
    square = squares / counts.clamp_min(1).unsqueeze(1)
    radial = (square[:, :1] - mean[:, :1].square()).clamp_min(0).sqrt()
    angular = square[:, 1:].mean(1, keepdim=True).sqrt().expand(-1, 3)  # one number for x, y and z: isotropy
    spread = torch.cat([radial, angular], dim=1).clamp_min(1e-2)
    return torch.where(counts.unsqueeze(1) > 0, spread, torch.ones_like(spread))


def parameter_statistics(graphs: Sequence[GraphData], name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (floored at 0.01) of frame or atom parameters over the training graphs."""
    values = torch.cat([graph[name] for graph in graphs]).double()
    return values.mean(0), values.std(0, unbiased=False).clamp_min(1e-2)
