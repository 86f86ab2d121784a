"""Energies of the elements, fitted again to what a net does not get right yet."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError
from geomlib.files.manifest import AnyNet, bare_net
from geomlib.models.base import Net

__all__ = ["refit_energy_bias"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def refit_energy_bias(net: AnyNet, graphs: Iterable[GraphData], max_atoms: int = 512) -> Float[Tensor, "..."]:
    """Add to a net's energy bias what makes its energies fit labels best, all else unchanged.

    The shift is the minimum-norm least-squares solution Δ of Σ_e n_e Δ_e = E_label − E_net over the graphs, n_e atoms
    of element e each; elements that do not occur keep their bias. It takes a net over to another level of theory, whose
    energies differ mostly by a constant for each element.

    Args:
        net: has a buffer `energy_bias`, per element or per head and element; changed in place.
        graphs: labelled structures, without edges; for a net with heads each with its `head`.
        max_atoms: of a batch.

    Returns: the shift [eV], of the shape of `energy_bias`.

    Raises:
        ConfigError: the net has no energy bias.
        DataError: no graph has an energy.
    Source: deepmd-kit's `change-by-statistic`.
    """
    inner, _ = bare_net(net)
    bias = getattr(inner, "energy_bias", None)
    elements = getattr(inner, "types", None)
    if not isinstance(bias, Tensor) or elements is None:
        raise ConfigError(f"{type(inner).__name__} has no energies of the elements to refit")
    rows: dict[int, list[Tensor]] = {}
    residuals: dict[int, list[Tensor]] = {}
    training = inner.training
    inner.eval()
    for batch, energies in _predicted(inner, graphs, max_atoms):
        types = elements(batch.atomic_number)
        count = bias.shape[-1]
        flat = torch.bincount(batch.node_graph * count + types, minlength=batch.num_graphs * count)
        composition = flat.view(-1, count).double().cpu()
        residual = (batch.energy.double() - energies).cpu()
        heads = batch.head.tolist() if bias.dim() == 2 else [0] * batch.num_graphs
        for position, head in enumerate(heads):
            rows.setdefault(head, []).append(composition[position])
            residuals.setdefault(head, []).append(residual[position])
    inner.train(training)
    if not rows:
        raise DataError("no graph has an energy: the energy bias can't be refitted")
    shift = torch.zeros_like(bias)
    for head, compositions in rows.items():
        found = torch.linalg.lstsq(torch.stack(compositions), torch.stack(residuals[head]), driver="gelsd").solution
        (shift[head] if bias.dim() == 2 else shift).copy_(found)
    bias += shift
    logger.info(
        "energy bias refitted to %d graphs: largest shift %.4g eV", sum(map(len, rows.values())), shift.abs().max()
    )
    return shift


def _predicted(net: Net, graphs: Iterable[GraphData], max_atoms: int) -> Iterator[tuple[GraphData, Tensor]]:
    """Batches of the labelled graphs and the net's energies."""
    device = next(net.buffers()).device
    for some in _chunks(graphs, max_atoms):
        batch = net.spec.complete(collate([net.spec.prepare(graph.clone()) for graph in some])).to(device)
        yield batch, net(batch)["energy"]


def _chunks(graphs: Iterable[GraphData], max_atoms: int) -> Iterator[Sequence[GraphData]]:
    """Labelled graphs with the same fields, as many as fit the budget."""
    chunk: list[GraphData] = []
    atoms = 0
    for graph in graphs:
        if "energy" not in graph or not bool(torch.isfinite(graph.energy).all()):
            continue
        if chunk and (atoms + graph.num_nodes > max_atoms or set(graph.keys()) != set(chunk[0].keys())):
            yield chunk
            chunk, atoms = [], 0
        chunk.append(graph)
        atoms += graph.num_nodes
    if chunk:
        yield chunk
