"""Forces, virial and stress of any energy net, from one derivative with respect to positions and strain."""

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.nn.scope import differentiating_positions

__all__ = ["Derivatives", "stress_of"]


class _EnergyNet(Protocol):
    """What `Derivatives` asks of the net that it wraps (a `geomlib.models.base.Net`, one layer up)."""

    spec: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, batch: GraphData) -> dict[str, Tensor]: ...

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None: ...


class Derivatives(nn.Module):
    """Wrap an energy net: adds `forces`, `virial` and, where every graph has a volume, `stress`.

    Positions and cell are strained by a symmetric ε, r → r(1+ε); one reverse pass gives forces = −∂E/∂r,
    virial = −∂E/∂ε [eV] and stress = ∂E/∂ε / |det cell| [eV/Å³, ASE's sign]. A batch in which some graph has no
    periodic direction or no volume gets no `stress`; `virial` is always there.

    In training mode the derivative can be differentiated again; in evaluation mode nothing is kept, and the outputs
    carry no graph.

    Args:
        net: returns at least `energy`.
    """

    name = "derivatives"
    net: _EnergyNet

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    @property
    def spec(self) -> Any:
        """Spec of the wrapped net."""
        return self.net.spec

    @property
    def inputs(self) -> tuple[str, ...]:
        """Fields that the wrapped net reads."""
        return self.net.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Fields of the wrapped net and the derivatives."""
        return (*self.net.outputs, "forces", "virial", "stress")

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Pass on to the wrapped net."""
        self.net.fit_statistics(graphs)

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Outputs of the wrapped net with `forces` [nodes, 3], `virial` and `stress` [graphs, 3, 3]."""
        with torch.enable_grad(), differentiating_positions() as scope:
            graph = copy.copy(batch)
            pos = batch.pos.detach().requires_grad_(True)
            strain = pos.new_zeros(batch.num_graphs, 3, 3, requires_grad=True)
            symmetric = 0.5 * (strain + strain.mT)
            node_strain = symmetric.index_select(0, batch.node_graph) if batch.num_graphs > 1 else symmetric
            graph.pos = pos + torch.matmul(pos.unsqueeze(1), node_strain).squeeze(1)
            if "cell" in batch:
                graph.cell = batch.cell + torch.matmul(batch.cell, symmetric.to(batch.cell.dtype))
            out = dict(self.net(graph))
            scope.parameters = False
            grad_pos, grad_strain = torch.autograd.grad(
                out["energy"].sum(), [pos, strain], create_graph=self.training, materialize_grads=True
            )
        if not self.training:
            out = {name: value.detach() for name, value in out.items()}
        out["forces"] = -grad_pos
        out["virial"] = -grad_strain
        stress = stress_of(out["virial"], batch)
        return out if stress is None else {**out, "stress": stress}


def stress_of(virial: Float[Tensor, "graphs 3 3"], batch: GraphData) -> Float[Tensor, "graphs 3 3"] | None:
    """Stress −virial/|det cell| [eV/Å³]; None unless every graph has a volume and a periodic direction."""
    if "cell" not in batch or "pbc" not in batch:
        return None
    volume = torch.linalg.det(batch.cell).abs()
    return -virial / volume.view(-1, 1, 1) if bool(((volume > 0) & batch.pbc.any(1)).all()) else None
