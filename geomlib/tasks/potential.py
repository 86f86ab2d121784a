"""`PotentialTask`: interatomic potentials, trained on energies, forces and virials or stresses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.models.base import Net
from geomlib.nn.derivative import Derivatives
from geomlib.tasks.base import Task
from geomlib.tasks.schedule import Schedule
from geomlib.tasks.starting import Heads
from geomlib.tasks.terms import Term

__all__ = ["PotentialTask", "composition_energies"]


class PotentialTask(Task):
    """Train an energy net on labels of energy, forces, virial or stress.

    Forces, virial and stress are derivatives of the energy (`geomlib.nn.derivative`). Errors of energy, forces and
    of stress or virial are reported wherever the data has labels, with or without a loss term: energy [eV/atom],
    forces [eV/Å] by component, stress [eV/Å³] by component, virial [eV/atom] by component.

    Args:
        net: predicts `energy`.
        terms: of the loss; energy with weight 1 and forces with weight 10 if none are given.
        optimizer: makes the optimizer from parameters.
        schedule: of the learning rate; constant if not given.
        decay_vectors: whether biases and other vectors have weight decay like matrices (as published).
        weights: model file, checkpoint or model of deepmd-kit to start from (fine-tuning).
        head: which head of that file, or for each head of the net the one it starts from (null: a fresh fitting net).
        bias: energies of the elements in fine-tuning: `refit` to what the file's net gets wrong on the training set,
            `keep` the file's, or `fresh`, fitted to the labels alone.
        fitting: `keep` the file's fitting net or start from a `random` one.
        freeze: names of parts (`blocks.0`) or parameters that are not trained; `*` and `?` as in file names.
        learning_rates: name of a part → factor of its learning rate; the longest name that matches counts.
        head_terms: head → terms of its loss, for a net with heads; the others have `terms`.
        compile: make fast code of the net at the first step, which takes minutes (see `geomlib.nn.compiled`).
    """

    metric_candidates = ("energy", "forces", "stress", "virial")

    def __init__(
        self,
        net: Net,
        terms: list[Term] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-3),
        schedule: Schedule | None = None,
        decay_vectors: bool = True,
        weights: str | None = None,
        head: Heads | None = None,
        bias: Literal["refit", "keep", "fresh"] = "refit",
        fitting: Literal["keep", "random"] = "keep",
        freeze: list[str] | None = None,
        learning_rates: dict[str, float] | None = None,
        head_terms: dict[str, list[Term]] | None = None,
        compile: bool = False,
    ) -> None:
        chosen: Sequence[Term] = (Term("energy"), Term("forces", weight=10.0)) if terms is None else terms
        super().__init__(
            _compiled(net) if compile else Derivatives(net),
            chosen,
            optimizer,
            schedule,
            decay_vectors,
            weights=weights,
            head=head,
            bias=bias,
            fitting=fitting,
            freeze=freeze or (),
            learning_rates=learning_rates,
            head_terms=head_terms,
        )

    def predicted(self, batch: GraphData) -> dict[str, Tensor]:
        """What the net returns; where only some graphs of the batch have a volume, also their `stress`.

        Graphs without a volume get NaN; their label has to be NaN too, of a field that is declared partial.
        """
        outputs = super().predicted(batch)
        if "stress" in self.objective_of(batch).fields and "stress" not in outputs:
            volume = torch.linalg.det(batch.cell).abs() if "cell" in batch else batch.pos.new_zeros(batch.num_graphs)
            has_volume = (volume > 0) & (batch.pbc.any(1) if "pbc" in batch else volume > 0)
            # the graphs without a volume are masked out of the loss, but a NaN would still reach the gradient of it
            safe = torch.where(has_volume, volume, torch.ones_like(volume)).view(-1, 1, 1)
            labelled = torch.isfinite(batch.stress).reshape(batch.num_graphs, -1).all(1)
            if bool((labelled & ~has_volume).any()):
                bad = int((labelled & ~has_volume).nonzero()[0])
                raise DataError(f"graph {bad} of the batch has a label 'stress' but no volume: use 'virial' instead")
            outputs["stress"] = -outputs["virial"] / safe
        return outputs

    def progress(self, metrics: Mapping[str, float], stage: str) -> dict[str, str]:
        """MAE of forces and of energies, in milli-units."""
        units = {"forces": ("F", "meV/Å"), "energy": ("E", "meV/atom")}
        return {
            letter: f"{1e3 * metrics[f'{stage}/{name}_mae']:.1f} {unit}"
            for name, (letter, unit) in units.items()
            if f"{stage}/{name}_mae" in metrics
        }

    def mean_predictor(self, train: Iterable[GraphData], test: Iterable[GraphData]) -> dict[str, float]:
        """Errors on `test` of the composition fit to `train` and of zero forces, stress and virial.

        The measure of what a model has learned: energy is the least-squares energy of each element [eV/atom],
        everything else is zero.
        """
        elements, energies = composition_energies(train)
        sums: dict[str, Tensor] = {}
        for graph in test:
            for name in self.metric_fields:
                if name not in graph:
                    continue
                label = graph[name].double()
                error = -label
                if name == "energy":
                    counts = (graph.atomic_number.unsqueeze(1) == elements).sum(0).to(torch.float64)
                    error = counts @ energies - label
                if name in ("energy", "virial"):
                    error = error / graph.num_nodes
                error = error[torch.isfinite(error)]
                row = torch.stack([error.abs().sum(), error.square().sum(), error.new_tensor(float(error.numel()))])
                sums[name] = sums.get(name, torch.zeros(3, dtype=torch.float64)) + row
        metrics = {}
        for name, row in sums.items():
            if row[2] > 0:
                metrics[f"{name}_mae"], metrics[f"{name}_rmse"] = (
                    float(row[0] / row[2]),
                    float((row[1] / row[2]) ** 0.5),
                )
        return metrics


def _compiled(net: Net) -> Derivatives:
    from geomlib.nn.compiled import CompiledDerivatives

    return CompiledDerivatives(net)


def composition_energies(graphs: Iterable[GraphData]) -> tuple[Tensor, Tensor]:
    """Minimum-norm least-squares energy [eV] of each element that occurs: (atomic numbers, energies)."""
    rows, energies = [], []
    for graph in graphs:
        if "energy" in graph and bool(torch.isfinite(graph.energy).all()):
            rows.append(torch.bincount(graph.atomic_number, minlength=119))
            energies.append(graph.energy.double())
    if not rows:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
    counts = torch.stack(rows).double()
    elements = counts.any(0).nonzero().flatten()
    return elements, torch.linalg.lstsq(counts[:, elements], torch.cat(energies), driver="gelsd").solution
