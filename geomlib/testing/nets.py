"""What every net must do, as a suite to inherit.

class TestMine(NetTests):
def make_net(self):
return MyNet(elements=["H", "O"], precision="float64")

def structures(self):
return {"water": ..., "ice": ...}
"""

import copy
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from geomlib.data.atoms import from_atoms
from geomlib.data.fields import Field, field
from geomlib.data.graph import GraphData, collate
from geomlib.nn.derivative import Derivatives
from geomlib.testing.orbitals import turn_of_orbitals

__all__ = ["NetTests", "perturb_parameters"]


def perturb_parameters(net: torch.nn.Module, size: float = 0.1, seed: int = 0) -> None:
    """Add noise to every parameter, in place: `size` times (its own mean magnitude + 0.1)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = size * (float(parameter.abs().mean()) + 0.1) if parameter.numel() else 0.0
            parameter.add_((scale * noise).to(parameter))


class NetTests:
    """Checks of a net on atoms; inherit and define `make_net` and `structures`.

    Every output is checked by its row of the field table: its shape, how it turns, how it is batched. Nets with an
    energy are checked with their derivatives. Entries of a matrix over orbitals turn as those of `net.config["basis"]`.

    Class attributes:
        tolerance: of equalities that hold exactly but for rounding, relative to the largest component (at least 1).
        float32_tolerance: of a net moved to float32.
        reflections: whether they are a symmetry of the net, as rotations are.
        idle_parameters: patterns of names of parameters that no output depends on, e.g. `"blocks.5.edge_*"`.
    """

    tolerance: float = 1e-9
    float32_tolerance: float = 1e-4
    reflections: bool = True
    idle_parameters: tuple[str, ...] = ()

    def make_net(self) -> Any:
        """A fresh net in float64, not wrapped in `Derivatives`."""
        raise NotImplementedError(f"{type(self).__name__} must define make_net()")

    def structures(self) -> Mapping[str, Atoms]:
        """Structures by name, off their symmetric places, some periodic and some not."""
        raise NotImplementedError(f"{type(self).__name__} must define structures()")

    def test_outputs_are_fields(self):
        """All that is declared is there, and shaped and typed as the field table says."""
        for name, net, graph in self._cases():
            out = net(net.spec.build(graph))
            declared = {key for key in net.outputs if key != "stress"}  # stress needs a volume
            assert declared <= set(out), f"{name}: declared {sorted(declared)}, returned {sorted(out)}"
            returned = GraphData(pos=graph.pos, **{key: value for key, value in out.items() if key != "pos"})
            returned.validate(where=name)

    def test_config_round_trip(self):
        """`type(net)(**net.config)` with the net's state is the net; the config is plain JSON."""
        net = self.make_net()
        config = json.loads(json.dumps(net.config))
        again = type(net)(**config).double()
        assert again.config == net.config
        again.load_state_dict(net.state_dict(), strict=True)
        assert (
            again.spec == net.spec and type(net.spec).from_dict(json.loads(json.dumps(net.spec.to_dict()))) == net.spec
        )
        for name, atoms in self.structures().items():
            graph = net.spec.build(from_atoms(atoms))
            first, second = net(graph), again(graph)
            for key in first:
                assert torch.equal(first[key], second[key]), f"{name}: '{key}' differs after the round trip"

    def test_batching_equals_a_loop(self):
        """A batch gives for each graph what the graph alone gives."""
        net = self._wrapped()
        graphs = [from_atoms(atoms) for atoms in self.structures().values()]
        batch = net.spec.complete(collate([net.spec.prepare(graph.clone()) for graph in graphs]))
        together = net(batch)
        for position, graph in enumerate(graphs):
            alone = net(net.spec.build(graph.clone()))
            for key, value in together.items():
                owner = _owner(field(key).level, batch)
                if owner is not None:
                    self._close(value[owner == position], alone[key], f"graph {position}, '{key}' in a batch")

    def test_no_leakage_between_structures(self):
        """Outputs of one graph of a batch do not depend on the nodes of another, exactly."""
        net = self.make_net().eval()
        graphs = [from_atoms(atoms) for atoms in self.structures().values()]
        batch = net.spec.build(collate(graphs))
        batch.pos.requires_grad_(True)
        out = net(batch)
        for key, value in out.items():
            if not value.requires_grad:
                continue
            owner = _owner(field(key).level, batch)
            if owner is None:
                continue
            for position in range(batch.num_graphs):
                (gradient,) = torch.autograd.grad(value[owner == position].sum(), batch.pos, retain_graph=True)
                others = gradient[batch.node_graph != position]
                assert not others.any(), f"'{key}' of graph {position} depends on the atoms of another graph"

    def test_dtype(self):
        """In float32 outputs are close to those in float64, energies stay float64, and no default is changed."""
        default = torch.get_default_dtype()
        net = self._wrapped()
        single = copy.deepcopy(net).to(torch.float32)
        assert all(p.dtype == torch.float32 for p in single.parameters()), "a parameter did not become float32"
        for name, atoms in self.structures().items():
            exact, rounded = (each(each.spec.build(from_atoms(atoms))) for each in (net, single))
            for key in exact:
                if field(key).dtype == "float64":
                    assert rounded[key].dtype == torch.float64, f"{name}: '{key}' is {rounded[key].dtype}"
                self._close(rounded[key].double(), exact[key], f"{name}: '{key}' in float32", self.float32_tolerance)
        assert torch.get_default_dtype() == default

    def test_symmetries_when_fresh(self):
        """Rotation, reflection, translation and permutation."""
        self._check_symmetries(self._wrapped())

    def test_symmetries_after_perturbing_every_parameter(self):
        """Symmetries are of the net, not of how it is initialised."""
        net = self._wrapped()
        perturb_parameters(net)
        self._check_symmetries(net)

    def test_every_parameter_counts(self):
        """Each parameter changes some output of some structure, but for those in `idle_parameters`."""
        net = self.make_net()
        perturb_parameters(net)
        total = sum(
            value.double().square().sum()
            for atoms in self.structures().values()
            for value in net(net.spec.build(from_atoms(atoms))).values()
        )
        names, parameters = zip(*((n, p) for n, p in net.named_parameters() if p.numel()), strict=True)
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        idle = [name for name, gradient in zip(names, gradients, strict=True) if gradient is None or not gradient.any()]
        unexpected = [name for name in idle if not any(fnmatch(name, pattern) for pattern in self.idle_parameters)]
        assert not unexpected, f"no output depends on {unexpected}"

    def test_isolated_nodes(self):
        """A graph of one node has no edges and finite outputs."""
        net = self._wrapped()
        for name, atoms in self.structures().items():
            lonely = Atoms(numbers=atoms.numbers[:1], positions=[[1.0, 2.0, 3.0]])
            for key, value in net(net.spec.build(from_atoms(lonely))).items():
                assert bool(torch.isfinite(value).all()), f"{name}: '{key}' of its first atom alone"

    def _wrapped(self) -> Any:
        net = self.make_net().eval()
        return Derivatives(net).eval() if "energy" in net.outputs and "forces" not in net.outputs else net

    def _cases(self) -> Iterator[tuple[str, Any, GraphData]]:
        for name, atoms in self.structures().items():
            yield name, self._wrapped(), from_atoms(atoms)

    def _check_symmetries(self, net: Any) -> None:
        rng = np.random.default_rng(0)
        for name, atoms in self.structures().items():
            expected = net(net.spec.build(from_atoms(atoms)))
            for what in ("rotation", *(["reflection"] if self.reflections else []), "translation", "permutation"):
                matrix = _orthogonal(rng, what == "reflection") if what in ("rotation", "reflection") else np.eye(3)
                order = rng.permutation(len(atoms)) if what == "permutation" else np.arange(len(atoms))
                shift = rng.normal(size=3) * 5 if what == "translation" else np.zeros(3)
                other = atoms[order]
                other.set_cell(atoms.cell.array @ matrix.T)
                other.set_positions(other.positions @ matrix.T + shift)
                out = net(net.spec.build(from_atoms(other)))
                for key, value in expected.items():
                    turn = torch.from_numpy(matrix)
                    if field(key).level == "entry":
                        moved = _moved_entries(value, net.config["basis"], atoms.numbers, turn, order)
                    else:
                        moved = _transform(value, field(key), turn, torch.from_numpy(order))
                    self._close(out[key], moved, f"{name}: '{key}' under {what}")

    def _close(self, found: Tensor, expected: Tensor, what: str, tolerance: float | None = None) -> None:
        if not expected.is_floating_point():
            assert torch.equal(found, expected), f"{what} differs"
            return
        bound = (self.tolerance if tolerance is None else tolerance) * max(1.0, float(expected.detach().abs().max()))
        worst = float((found - expected).detach().abs().max())
        assert worst <= bound, f"{what} differs by {worst:.3g}, allowed are {bound:.3g}"


def _orthogonal(rng: np.random.Generator, mirror: bool) -> Any:
    matrix, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if (np.linalg.det(matrix) < 0) != mirror:
        matrix[:, 0] = -matrix[:, 0]
    return matrix


def _owner(level: str, batch: GraphData) -> Tensor | None:
    """Graph of each row of a field of that level."""
    return {
        "node": lambda: batch.node_graph,
        "graph": lambda: torch.arange(batch.num_graphs),
        "entry": lambda: batch.node_graph[batch.entry_atom[0]],
    }.get(level, lambda: None)()


def _moved_entries(value: Tensor, basis: str, numbers: Any, matrix: Tensor, order: Any) -> Tensor:
    """What entries of a matrix over orbitals become when space is turned and nodes are taken in `order`."""
    turn = turn_of_orbitals(basis, numbers.tolist(), matrix).to(value)
    moved = turn @ value.view(len(turn), -1) @ turn.T
    sizes = [len(turn_of_orbitals(basis, [int(number)], matrix)) for number in numbers]
    places = torch.arange(len(turn)).split(sizes)
    rows = torch.cat([places[atom] for atom in order])
    return moved[rows][:, rows].flatten()


def _transform(value: Tensor, row: Field, matrix: Tensor, order: Tensor) -> Tensor:
    """What a field becomes when space is turned by `matrix` and nodes are taken in `order`."""
    value = value[order] if row.level == "node" else value
    matrix = matrix.to(value.dtype)
    determinant = float(torch.linalg.det(matrix))
    if row.kind == "vector":
        return value @ matrix.T
    if row.kind == "axial":
        return determinant * value @ matrix.T
    if row.kind == "pseudoscalar":
        return determinant * value
    if row.kind in ("symmetric2", "matrix33"):
        return matrix @ value @ matrix.T
    return value
