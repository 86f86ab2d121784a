"""A trained net as an ASE calculator, one structure at a time or many at once."""

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from geomlib.apply.budget import Budget, Size, is_out_of_memory, size_of, total
from geomlib.apply.verlet import VerletList
from geomlib.data.atoms import from_atoms
from geomlib.data.elements import SYMBOLS
from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError, UnknownElement
from geomlib.files.committee import expand_committees
from geomlib.files.construct import place
from geomlib.files.manifest import AnyNet
from geomlib.files.modelfile import load
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.nn.derivative import Derivatives

__all__ = ["Calculator"]

Model: TypeAlias = str | os.PathLike[str] | AnyNet

_Prepared: TypeAlias = tuple[Atoms, GraphData, Size]
"""A structure, its graph and its size (of edges and angles only where the budget asks for them)."""

_COMMITTEE_PROPERTIES = ("energy_std", "forces_std", "stress_std", "virial", "virial_std")


class Calculator(AseCalculator):
    """ASE calculator of a geomlib potential, or of several as a committee.

    One evaluation gives all properties, and they are kept until the structure changes. Total charge and spin
    multiplicity are read from `atoms.info["charge"]` and `atoms.info["spin"]`, parameters of frames and atoms, for
    nets that have them, from `atoms.info["frame_parameters"]` and `atoms.arrays["atom_parameters"]`. Nothing outside
    the calculator is touched: no default dtype, thread count or random state.

    Several models make a committee: energies, forces and stress are means, and `energy_std`, `forces_std`,
    `stress_std` (standard deviations over the members, of the population: divided by their number) tell how far they
    disagree, component by component. `virial` and `virial_std` [3 3, eV] are there for structures without a volume,
    too. All members see one graph, made once. `geomlib.apply.committee` sums this up as the model deviation.

    Args:
        model: path of a model file or of a committee's `committee.json`, a net, or several of them that need the same
            graph. A net is copied, so training it on does not change the calculator.
        device: e.g. `"cuda"`; where the file or net says if not given.
        dtype: `"float32"`, `"float64"` or a torch dtype; the precision of the file or net if not given.
        skin: extra radius of the neighbour list [Å]; a list is used until atoms have moved by half of it. 0 makes a
            new list at every step. Results do not depend on it.
        compile: make fast code of the net when it is used first, which takes a minute or so (see
            `geomlib.nn.compiled`). A compiled file (`.pt2`) is compiled already.

    Properties: energy, free_energy (the same) [eV], energies [eV], forces [eV/Å], stress [eV/Å³, Voigt: xx yy zz yz
    xz xy]. Stress exists where there is a volume and a periodic direction.

    Raises:
        ConfigError: no model, one without an energy, or a committee whose members need different graphs.
    """

    implemented_properties = [  # noqa: RUF012 - ASE's own protocol
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(
        self,
        model: Model | Sequence[Model],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        skin: float = 0.5,
        compile: bool = False,
    ) -> None:
        super().__init__()
        members = _members(model)
        names = [f"model {k}" if isinstance(row, torch.nn.Module) else os.fspath(row) for k, row in enumerate(members)]
        self.nets = [_ready(member, device, dtype, compile=compile) for member in members]
        self.spec = _common_spec(self.nets, names)
        self.elements = _common_elements(self.nets, names)
        self.device = _device(self.nets[0])
        self._inputs = {name for net in self.nets for name in net.inputs}
        self._parameters = tuple(
            name
            for name in ("frame_parameters", "atom_parameters")
            if name in self._inputs or any(_core(net).config.get(name) for net in self.nets)
        )
        edges = self.spec.find(RadiusEdges)
        self.neighbors = VerletList(edges, skin) if edges is not None else None
        if len(self.nets) > 1:
            self.implemented_properties = [*self.implemented_properties, *_COMMITTEE_PROPERTIES]

    @property
    def eager(self) -> bool:
        """Whether all nets run operation by operation, not compiled."""
        return all(type(net) is Derivatives for net in self.nets)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last evaluation; besides what ASE looks at, charge and spin."""
        changes = list(super().check_state(atoms, tol))
        if self.atoms is not None:
            for key in ("charge", "spin", *self._parameters):
                old, new = (np.asarray(each.info.get(key, each.arrays.get(key))) for each in (self.atoms, atoms))
                if not np.array_equal(old, new):
                    changes.append(key)
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate all properties of `atoms` (ASE calls this).

        Raises:
            DataError: positions that are not finite, or a prediction that is not.
            UnknownElement: an element that the net was not built for.
            PropertyNotImplementedError: stress of a structure that has none.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        structure = self.atoms if atoms is None else atoms
        if structure is None:
            raise DataError("the calculator has no structure yet: pass atoms")
        if "stress" in properties and not _has_stress(structure):
            raise PropertyNotImplementedError(
                f"stress needs a periodic direction and a cell with a volume; {structure.get_chemical_formula()} has "
                f"pbc {structure.pbc.tolist()} and a cell volume of {abs(structure.cell.volume):.6g} Å³"
            )
        graph = self._graph(structure)
        for builder in self.spec.builders:
            if isinstance(builder, RadiusEdges) and self.neighbors is not None:
                self.neighbors.update(graph)
            else:
                builder.build(graph)
        (self.results,) = self._predict(graph, [structure])

    def evaluate(self, structures: Iterable[Atoms], max_atoms: int | str | Budget = 256) -> list[dict[str, Any]]:
        """Properties of many structures, several at a time.

        Args:
            structures: any number; need not be alike.
            max_atoms: a batch holds at most so many atoms (but at least one structure); `"auto"` for what memory and
                speed allow, or a budget. Where memory runs out, it goes on with batches of half the size.

        Returns:
            For each structure what `calculate` puts into `results`; `stress` is absent where there is none.

        Raises:
            DataError: as `calculate`, or a structure that does not fit in memory; the message names it by its position.
            UnknownElement: as `calculate`.
        """
        budget = Budget.of(max_atoms)
        results: list[dict[str, Any]] = []
        for batch in self._batches(structures, budget):
            results += self._evaluate(batch, budget, len(results))
        return results

    def _batches(self, structures: Iterable[Atoms], budget: Budget) -> Iterator[list[_Prepared]]:
        """Consecutive structures whose graphs have the same fields: with and without charge and spin apart."""
        batch: list[_Prepared] = []
        size = Size()
        for position, atoms in enumerate(structures):
            graph = self._graph(atoms, f"structure {position}")
            if self._searches_singly(budget):
                self.spec.prepare(graph)
            own = Size(len(atoms)) if budget.counts_atoms_only else size_of(graph, self.spec)
            alike = not batch or all((key in atoms.info) == (key in batch[0][0].info) for key in ("charge", "spin"))
            if batch and (not alike or not budget.fits(size + own, self.device)):
                yield batch
                batch, size = [], Size()
            batch.append((atoms, graph, own))
            size = size + own
        if batch:
            yield batch

    def _searches_singly(self, budget: Budget) -> bool:
        """Whether each structure's neighbours are searched for alone: on a CPU that is fastest, and its edges count."""
        return self.device.type == "cpu" or not budget.counts_atoms_only

    def _evaluate(self, batch: list[_Prepared], budget: Budget, first: int) -> list[dict[str, Any]]:
        """Results of a batch, in smaller parts where it does not fit in memory."""
        structures, graphs, sizes = [list(column) for column in zip(*batch, strict=True)]

        def predict() -> list[dict[str, Any]]:
            graph = collate(graphs)
            if not self._searches_singly(budget):
                self.spec.prepare(graph)
            return self._predict(self.spec.complete(graph), structures, first)

        try:
            return budget.run(total(sizes), self.device, predict, self.eager)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if len(batch) == 1:
            raise DataError(
                f"structure {first} ({structures[0].get_chemical_formula()}, {len(structures[0])} atoms) does not fit "
                "in memory: use a machine or a GPU with more of it"
            )
        budget.shrink(total(sizes))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(batch) // 2
        results = self._evaluate(batch[:middle], budget, first)
        return results + self._evaluate(batch[middle:], budget, first + middle)

    def check(self, atoms: Atoms, name: str = "structure") -> None:
        """Raise unless the model can be asked about a structure.

        Raises:
            DataError: no atoms, or positions that are not finite.
            UnknownElement: an element that the model was not made for.
        """
        if len(atoms) == 0:
            raise DataError(f"{name} has no atoms")
        finite = np.isfinite(atoms.positions).all(1)
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            raise DataError(
                f"{name}: the position of atom {bad} ({atoms.symbols[bad]}) is {atoms.positions[bad].tolist()}; "
                "expected finite numbers (has a simulation become unstable?)"
            )
        if self.elements is not None:
            unknown = sorted({SYMBOLS[number] for number in set(atoms.numbers.tolist())} - set(self.elements))
            if unknown:
                raise UnknownElement(
                    f"{name} ({atoms.get_chemical_formula()}) contains {', '.join(unknown)}, which the model was not "
                    f"made for; it knows {', '.join(self.elements)}"
                )

    def _graph(self, atoms: Atoms, name: str = "structure") -> GraphData:
        """The structure as the nets want it, without edges."""
        self.check(atoms, name)
        graph = from_atoms(atoms, fields=self._parameters, where=name)
        for field in ("charge", "spin_multiplicity"):
            if field in graph and field not in self._inputs:
                del graph[field]
        return graph if self.device.type == "cpu" else graph.to(self.device)

    def _predict(self, batch: GraphData, structures: Sequence[Atoms], first: int = 0) -> list[dict[str, Any]]:
        """Results of each structure of a batch that holds all structure fields."""
        outputs = [_host(net(batch)) for net in self.nets]
        sizes = [len(atoms) for atoms in structures]
        ends = np.cumsum(sizes)
        results = []
        for position, atoms in enumerate(structures):
            nodes = slice(int(ends[position]) - sizes[position], int(ends[position]))
            members = [_properties(output, position, nodes, atoms) for output in outputs]
            for member in members:
                _require_finite(member, atoms, first + position)
            if len(members) > 1 and all("virial" in output for output in outputs):
                for member, output in zip(members, outputs, strict=True):
                    member["virial"] = output["virial"][position].copy()
            results.append(members[0] if len(members) == 1 else _mean_and_spread(members))
        return results


def _members(model: Model | Sequence[Model]) -> list[Model]:
    """The models, with the members of a committee's file in its place."""
    models: list[Model] = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    members: list[Model] = []
    for each in models:
        members += [each] if isinstance(each, torch.nn.Module) else expand_committees([each])
    return members


def _ready(
    model: Model, device: str | torch.device | None, dtype: str | torch.dtype | None, *, compile: bool
) -> AnyNet:
    """A net in evaluation mode, with derivatives, that is nobody else's."""
    if isinstance(model, torch.nn.Module):
        net = place(copy.deepcopy(model), device, dtype)
    else:
        net = load(model, device=device, dtype=dtype)
    if "energy" not in net.outputs:
        raise ConfigError(f"{_name(model)} predicts {list(net.outputs)}; a calculator needs 'energy'")
    if "forces" not in net.outputs:
        net = Derivatives(net)
    if compile and type(net) is Derivatives:
        from geomlib.nn.compiled import CompiledDerivatives

        net = CompiledDerivatives(net.net)
    return net.eval().requires_grad_(False)


def _name(model: Model) -> str:
    return type(model).__name__ if isinstance(model, torch.nn.Module) else os.fspath(model)


def _core(net: AnyNet) -> Any:
    """The net itself, without `Derivatives` around it."""
    return net.net if isinstance(net, Derivatives) else net


def _device(net: AnyNet) -> torch.device:
    tensor = next((value for values in (net.parameters(), net.buffers()) for value in values), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _common_spec(nets: Sequence[AnyNet], names: Sequence[str]) -> GraphSpec:
    if not nets:
        raise ConfigError("a calculator needs at least one model")
    specs: list[GraphSpec] = [_core(net).spec for net in nets]
    for position, spec in enumerate(specs):
        if spec != specs[0]:
            raise ConfigError(
                f"members of a committee must need the same graph, but {names[position]} has {spec} and {names[0]} "
                f"{specs[0]}"
            )
    return specs[0]


def _common_elements(nets: Sequence[AnyNet], names: Sequence[str]) -> list[str] | None:
    """Elements that all nets know, in the order of the first; None if a net does not say."""
    known = [getattr(_core(net), "elements", None) for net in nets]
    if known[0] is None:
        return None
    shared = [symbol for symbol in known[0] if all(symbol in others for others in known if others is not None)]
    if not shared:
        elements = "; ".join(f"{name}: {', '.join(row)}" for name, row in zip(names, known, strict=True) if row)
        raise ConfigError(f"members of a committee must know some element together, but they know {elements}")
    return shared


def _has_stress(atoms: Atoms) -> bool:
    return bool(atoms.pbc.any() and abs(atoms.cell.volume) > 0)


def _host(output: dict[str, Tensor]) -> dict[str, np.ndarray]:
    names = ("energy", "atom_energy", "forces", "virial")
    return {name: output[name].double().cpu().numpy() for name in names if name in output}


def _properties(output: dict[str, np.ndarray], position: int, nodes: slice, atoms: Atoms) -> dict[str, Any]:
    """ASE's properties of one structure of a batch."""
    energy = float(output["energy"][position])
    results = {"energy": energy, "free_energy": energy, "forces": output["forces"][nodes].copy()}
    if "atom_energy" in output:
        results["energies"] = output["atom_energy"][nodes].copy()
    if "virial" in output and _has_stress(atoms):
        results["stress"] = full_3x3_to_voigt_6_stress(-output["virial"][position] / abs(atoms.cell.volume))
    return results


def _require_finite(results: dict[str, Any], atoms: Atoms, position: int) -> None:
    finite = np.isfinite(results["forces"]).all(1)
    if finite.all() and np.isfinite(results["energy"]):
        return
    where = "" if finite.all() else f" at atom {int(np.flatnonzero(~finite)[0])}"
    raise DataError(
        f"the model predicts energies or forces that are not finite{where} of structure {position} "
        f"({atoms.get_chemical_formula()}): atoms may lie on each other, or the model file is damaged"
    )


def _mean_and_spread(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations, as differences from the first member: equal members have exactly no spread."""
    results: dict[str, Any] = {}
    for name, first in members[0].items():
        plain = (lambda value: value) if isinstance(first, np.ndarray) else float
        differences = np.stack([member[name] - first for member in members])
        results[name] = plain(first + differences.mean(0))
        if name in ("energy", "forces", "stress", "virial"):
            results[f"{name}_std"] = plain(differences.std(0))
    return results
