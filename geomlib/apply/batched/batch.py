"""Many structures that move at the same time: their positions, neighbour lists and evaluation as one batch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from geomlib.apply.ase import Calculator
from geomlib.apply.batched.neighbors import BatchedVerletList
from geomlib.apply.budget import Budget, Size, is_out_of_memory, total
from geomlib.data.graph import GraphData, collate
from geomlib.errors import DataError
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges

__all__ = ["Member", "Predictions", "StructureBatch", "admit", "fixed_atoms", "frame_of"]


@dataclass(frozen=True, slots=True)
class Member:
    """A structure that takes part.

    Args:
        index: its position among all structures.
        atoms: the structure as it came.
        graph: without edges, on the device of the calculator.
        free: whether each atom may move.
    """

    index: int
    atoms: Atoms
    graph: GraphData
    free: Bool[Tensor, " nodes"]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the model says about the structures of a batch, float64.

    Attributes:
        energy: [eV], one for each structure.
        forces: [eV/Å], constraints not applied.
        virial: −∂E/∂ε [eV].
        problems: position in the batch → why the structure has no usable predictions.
    """

    energy: Float[Tensor, " graphs"]
    forces: Float[Tensor, "nodes 3"]
    virial: Float[Tensor, "graphs 3 3"]
    problems: dict[int, str] = field(default_factory=dict)


def admit(calculator: Calculator, index: int, atoms: Atoms) -> Member:
    """A structure made ready to take part.

    Raises:
        DataError: no atoms, positions that are not finite, or constraints other than `FixAtoms`.
        UnknownElement: an element that the model was not made for.
    """
    name = f"structure {index}"
    graph = calculator._graph(atoms, name)
    free = torch.from_numpy(~fixed_atoms(atoms, name)).to(graph.pos.device)
    return Member(index, atoms, graph, free)


def fixed_atoms(atoms: Atoms, name: str = "structure") -> NDArray[np.bool_]:
    """Whether each atom is held by a `FixAtoms`.

    Raises:
        DataError: another constraint.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise DataError(
                f"{name} has the constraint {type(constraint).__name__}; a batch can only hold FixAtoms: "
                "run it alone, or remove the constraint"
            )
        fixed[constraint.index] = True
    return fixed


class StructureBatch:
    """Structures that are evaluated together and come and go.

    All have the same fields (e.g. all a charge, or none). Positions and cells are plain tensors that whoever moves the
    structures writes to; `evaluate` follows them. What a structure is predicted does not depend on the others,
    rounding apart, and one that can't be evaluated is named and does not disturb the rest.

    Args:
        calculator: gives nets, spec and device.
        budget: how many are evaluated at once.
        skin: extra radius of the neighbour lists [Å].

    Attributes:
        members: the structures, in the order of the tensors.
        pos: positions of all [Å], float64.
        cell: lattice vectors of each as rows [Å].
        pbc: periodic directions of each.
        node_graph: structure of each atom.
        free: whether each atom may move.
        evaluations: structures evaluated so far.
    """

    def __init__(self, calculator: Calculator, budget: Budget, skin: float = 0.5) -> None:
        self._calculator = calculator
        self._budget = budget
        self.device = calculator.device
        edges = calculator.spec.find(RadiusEdges)
        self._lists = None if edges is None else BatchedVerletList(edges, skin)
        self.members: list[Member] = []
        self.evaluations = 0
        self._templates: dict[tuple[int, int], GraphData] = {}
        self._parts: list[tuple[int, int]] | None = None
        self._wide: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._part_sizes: dict[tuple[int, int], Size] = {}
        self.pos = torch.zeros(0, 3, dtype=torch.float64, device=self.device)
        self.cell = torch.zeros(0, 3, 3, dtype=torch.float64, device=self.device)
        self._arrange()

    def __len__(self) -> int:
        return len(self.members)

    @property
    def rebuilds(self) -> int:
        """Neighbour lists built so far."""
        return 0 if self._lists is None else self._lists.builds

    def node_slice(self, position: int) -> slice:
        """Atoms of a structure."""
        return slice(self._starts[position], self._starts[position + 1])

    def add(self, members: Sequence[Member]) -> None:
        """Let structures in, at the end."""
        self.members += members
        self.pos = torch.cat([self.pos, *(member.graph.pos.double() for member in members)])
        self.cell = torch.cat([self.cell, *(member.graph.cell.double() for member in members)])
        if self._lists is not None:
            self._lists.add(len(members))
        self._arrange()

    def keep(self, positions: Sequence[int]) -> None:
        """Let all structures go but those at `positions` (ascending)."""
        nodes = [node for position in positions for node in range(*self.node_slice(position).indices(len(self.pos)))]
        self.pos = self.pos[torch.tensor(nodes, dtype=torch.int64, device=self.device)]
        self.cell = self.cell[torch.tensor(positions, dtype=torch.int64, device=self.device)]
        self.members = [self.members[position] for position in positions]
        if self._lists is not None:
            self._lists.keep(positions)
        self._arrange()

    def sizes(self) -> list[Size]:
        """Atoms, edges and angles of each structure, as its neighbour list was built last."""
        if self._lists is None:
            return [Size(len(member.atoms)) for member in self.members]
        lines = self._calculator.spec.find(LineGraph)
        angle_cutoff = None if lines is None else lines.cutoff
        return [self._lists.size(position, angle_cutoff) for position in range(len(self.members))]

    def evaluate(self) -> Predictions:
        """Energies, forces and virials at the current positions and cells."""
        problems: dict[int, str] = {}
        if self._lists is not None:
            problems, moved = self._lists.update(self.pos, self.cell, self.pbc, self.node_graph, self._starts)
            if moved:
                self._forget_parts()
        if self._parts is None:
            self._parts = self._budget.parts(self.sizes(), self.device)
        self.evaluations += len(self.members)
        outputs = [output for first, last in self._parts for output in self._part(first, last, problems)]
        energy, forces, virial = (torch.cat(values) for values in zip(*outputs, strict=True))
        self._find_problems(energy, forces, virial, problems)
        return Predictions(energy, forces, virial, problems)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """What follows from who is there."""
        counts = [len(member.atoms) for member in self.members]
        self._starts = [0]
        for count in counts:
            self._starts.append(self._starts[-1] + count)
        self.node_graph = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        self.node_graph = self.node_graph.to(self.device)
        none = torch.zeros(0, 3, dtype=torch.bool, device=self.device)
        self.pbc = torch.cat([none, *(member.graph.pbc for member in self.members)])
        self.free = torch.cat([none[:, 0], *(member.free for member in self.members)])
        self._templates.clear()
        self._forget_parts()

    def _forget_parts(self) -> None:
        self._parts = None
        self._wide.clear()
        self._part_sizes.clear()

    def _part(
        self, first: int, last: int, problems: dict[int, str]
    ) -> list[tuple[Float[Tensor, " graphs"], Float[Tensor, "nodes 3"], Float[Tensor, "graphs 3 3"]]]:
        """Predictions of consecutive structures; smaller parts where they don't fit or one of them can't be done."""
        if (first, last) not in self._part_sizes:
            self._part_sizes[first, last] = total(self.sizes()[first:last])
        size = self._part_sizes[first, last]
        try:
            return [self._budget.run(size, self.device, lambda: self._predict(first, last), self._calculator.eager)]
        except DataError as error:
            reason = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"does not fit in memory ({self._starts[last] - self._starts[first]} atoms)"
            self._budget.shrink(size)
            self._parts = None  # decide anew at the next step
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if last - first == 1:
            problems.setdefault(first, reason)
            nodes = self._starts[last] - self._starts[first]
            nan = torch.full((nodes + 4, 3), torch.nan, dtype=torch.float64, device=self.device)
            return [(nan[0, :1], nan[:nodes], nan[None, :3])]
        middle = (first + last) // 2
        return self._part(first, middle, problems) + self._part(middle, last, problems)

    def _predict(
        self, first: int, last: int
    ) -> tuple[Float[Tensor, " graphs"], Float[Tensor, "nodes 3"], Float[Tensor, "graphs 3 3"]]:
        graph = self._graph(first, last)
        outputs = [net(graph) for net in self._calculator.nets]
        means = []
        for name in ("energy", "forces", "virial"):
            values = [output[name].double() for output in outputs]
            means.append(values[0] if len(values) == 1 else torch.stack(values).mean(0))
        return means[0], means[1], means[2]

    def _graph(self, first: int, last: int) -> GraphData:
        if (first, last) not in self._templates:
            self._templates[first, last] = collate([member.graph for member in self.members[first:last]])
        graph: GraphData = copy.copy(self._templates[first, last])
        graph.pos = self.pos[self._starts[first] : self._starts[last]]
        graph.cell = self.cell[first:last]
        for builder in self._calculator.spec.builders:
            if isinstance(builder, RadiusEdges) and self._lists is not None:
                if (first, last) not in self._wide:
                    self._wide[first, last] = self._lists.joined(first, last, self._starts)
                graph.edge_index, graph.edge_shift = self._wide[first, last]
                builder.select(graph)
            else:
                builder.build(graph)
        return graph

    def _find_problems(
        self,
        energy: Float[Tensor, " graphs"],
        forces: Float[Tensor, "nodes 3"],
        virial: Float[Tensor, "graphs 3 3"],
        problems: dict[int, str],
    ) -> None:
        """Add the structures whose predictions are not finite."""
        bad = ~(torch.isfinite(energy) & torch.isfinite(virial).all(2).all(1))
        bad[self.node_graph[~torch.isfinite(forces).all(1)]] = True
        for position in bad.nonzero().squeeze(1).tolist():
            if position not in problems:
                problems[position] = (
                    f"the model predicts energies or forces that are not finite{self._closest(position)}"
                )

    def _closest(self, position: int) -> str:
        """Words about atoms that lie on each other, if that is what is wrong."""
        pos = self.pos[self.node_slice(position)]
        if len(pos) < 2 or len(pos) > 5000 or not bool(torch.isfinite(pos).all()):
            return ""
        distances = torch.cdist(pos, pos) + torch.diag(torch.full_like(pos[:, 0], torch.inf))
        one, other = divmod(int(distances.argmin()), len(pos))
        if float(distances[one, other]) > 0.4:
            return ""
        return f": atoms {one} and {other} overlap, {float(distances[one, other]):.2g} Å apart"


def frame_of(batch: StructureBatch, position: int, predictions: Predictions) -> Atoms:
    """One structure of a batch as it is now, with energy, forces and, where there is one, stress."""
    nodes = batch.node_slice(position)
    frame: Atoms = batch.members[position].atoms.copy()
    frame.set_cell(batch.cell[position].cpu().numpy())
    frame.set_positions(batch.pos[nodes].cpu().numpy(), apply_constraint=False)
    results = {
        "energy": float(predictions.energy[position]),
        "forces": predictions.forces[nodes].cpu().numpy(),
    }
    if frame.pbc.any() and frame.cell.rank == 3:
        virial = predictions.virial[position].cpu().numpy()
        results["stress"] = full_3x3_to_voigt_6_stress(-virial / abs(frame.cell.volume))
    frame.calc = SinglePointCalculator(frame, **results)
    return frame
