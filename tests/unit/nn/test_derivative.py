"""Forces, virial and stress from an energy. Budget: 5 s."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import nn

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.models.base import Net
from geomlib.nn.derivative import Derivatives
from geomlib.nn.reduce import segment_sum
from geomlib.testing import ToyPotential


class Springs(Net):
    """E = ½ Σ over edges of ½ k r²: everything about it is known in closed form."""

    outputs = ("energy",)
    spec = GraphSpec((RadiusEdges(3.0),))

    def __init__(self, k: float = 2.0) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def forward(self, batch: GraphData) -> dict[str, torch.Tensor]:
        edge = 0.25 * self.k * batch.edge_vectors().square().sum(1)
        graph = batch.node_graph.index_select(0, batch.edge_index[1])
        return {"energy": segment_sum(edge, graph, batch.num_graphs)}


def box(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ [[0.7, 0.05, 0], [0, 0.75, 0], [0.02, 0, 0.72]], scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def evaluate(net, atoms):
    return net(net.spec.build(from_atoms(atoms)))


def test_closed_form():
    """F_i = Σ k (r_j − r_i); virial = −½ Σ k r⊗r; stress = −virial/volume."""
    net = Derivatives(Springs()).eval()
    graph = net.spec.build(from_atoms(box()))
    out = net(graph)
    vectors = graph.edge_vectors()
    forces = segment_sum(2.0 * vectors, graph.edge_index[1], graph.num_nodes)
    virial = -0.5 * 2.0 * torch.einsum("ea,eb->ab", vectors, vectors)
    assert torch.allclose(out["forces"], forces, atol=1e-12)
    assert torch.allclose(out["virial"][0], virial, atol=1e-10)
    assert torch.allclose(out["stress"][0], -virial / abs(torch.linalg.det(graph.cell[0])), atol=1e-12)
    assert out["virial"].shape == out["stress"].shape == (1, 3, 3)


def test_virial_is_symmetric_and_sums_over_positions_in_the_open():
    atoms = molecule("CH3CH2OH")
    out = evaluate(Derivatives(ToyPotential(["C", "H", "O"])).eval(), atoms)
    virial = torch.einsum("na,nb->ab", torch.from_numpy(atoms.positions), out["forces"])
    assert torch.allclose(out["virial"][0], virial, atol=1e-10)
    assert torch.allclose(out["virial"], out["virial"].mT, atol=1e-12)


def test_virial_is_symmetric_even_where_the_energy_knows_directions():
    class Directed(Springs):
        def forward(self, batch):
            along = batch.edge_vectors() @ torch.tensor([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]).double()
            return {"energy": super().forward(batch)["energy"] + (along.sum(1) * batch.edge_vectors()[:, 2]).sum()}

    virial = evaluate(Derivatives(Directed()).eval(), box())["virial"]
    assert torch.allclose(virial, virial.mT, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_differences(seed):
    net = Derivatives(ToyPotential(["Cu"])).eval()
    atoms, step = box(seed), 1e-5
    out = evaluate(net, atoms)
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(len(atoms), 3))
    strain = rng.normal(size=(3, 3))
    strain = strain + strain.T
    energies = []
    for sign in (1, -1):
        moved, strained = atoms.copy(), atoms.copy()
        moved.positions += sign * step * direction
        deformation = np.eye(3) + sign * step * strain
        strained.set_cell(atoms.cell.array @ deformation)
        strained.positions = atoms.positions @ deformation
        energies.append([float(evaluate(net, each)["energy"]) for each in (moved, strained)])
    slopes = (np.array(energies[0]) - np.array(energies[1])) / (2 * step)
    assert slopes[0] == pytest.approx(-float((out["forces"] * torch.from_numpy(direction)).sum()), rel=1e-7)
    assert slopes[1] == pytest.approx(-float((out["virial"][0] * torch.from_numpy(strain)).sum()), rel=1e-7)


def test_batched_equals_looped():
    net = Derivatives(ToyPotential(["Cu"])).eval()
    structures = [box(0), box(1) * (2, 1, 1), bulk("Cu")]
    graphs = [net.spec.prepare(from_atoms(atoms)) for atoms in structures]
    together = net(net.spec.complete(collate(graphs)))
    alone = [evaluate(net, atoms) for atoms in structures]
    for name in ("energy", "forces", "virial", "stress"):
        assert torch.allclose(together[name], torch.cat([out[name] for out in alone]), atol=1e-11), name


@pytest.mark.parametrize(
    ("atoms", "has_stress"),
    [
        (bulk("Cu"), True),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 10], pbc=[True, True, False]), True),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 0], pbc=[True, True, False]), False),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2]], cell=[9, 9, 9]), False),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]), False),
    ],
    ids=["bulk", "slab", "slab without a third vector", "molecule in a box", "molecule"],
)
def test_stress_where_there_is_one(atoms, has_stress):
    out = evaluate(Derivatives(ToyPotential(["Cu"])).eval(), atoms)
    assert ("stress" in out) == has_stress
    assert "virial" in out


def test_no_stress_for_a_batch_with_a_molecule():
    net = Derivatives(ToyPotential(["Cu"])).eval()
    batch = net.spec.build(collate([from_atoms(bulk("Cu")), from_atoms(Atoms("Cu"))]))
    out = net(batch)
    assert "stress" not in out
    assert torch.allclose(out["virial"][0], evaluate(net, bulk("Cu"))["virial"][0], atol=1e-11)
    assert not out["virial"][1].any()


def test_one_atom_has_no_forces():
    out = evaluate(Derivatives(ToyPotential(["H"])).eval(), Atoms("H", [[1.0, 2.0, 3.0]]))
    assert not out["forces"].any() and not out["virial"].any()


def test_training_mode_can_be_differentiated_again():
    net = Derivatives(Springs()).train()
    graph = net.spec.build(from_atoms(box()))
    out = net(graph)
    (gradient,) = torch.autograd.grad(out["forces"].square().sum(), [net.net.k])
    expected = 2 * (out["forces"].detach() / 2.0 * out["forces"].detach()).sum()  # forces are linear in k
    assert float(gradient) == pytest.approx(float(expected), rel=1e-12)
    (gradient,) = torch.autograd.grad(net(graph)["stress"].square().sum(), [net.net.k])
    assert float(gradient) != 0.0


def test_evaluation_mode_keeps_no_graph():
    net = Derivatives(ToyPotential(["Cu"])).eval()
    with torch.no_grad():  # as users do
        out = evaluate(net, box())
    assert all(not value.requires_grad for value in out.values())
    assert out["forces"].any()


def test_the_batch_is_left_as_it_was():
    net = Derivatives(ToyPotential(["Cu"])).train()
    graph = net.spec.build(from_atoms(box()))
    before = graph.clone()
    net(graph)
    assert not graph.pos.requires_grad and set(graph.keys()) == set(before.keys())
    assert all(torch.equal(graph[key], before[key]) for key in before.keys())  # noqa: SIM118


def test_works_without_a_cell():
    graph = GraphData(pos=torch.tensor([[0.0, 0, 0], [0, 0, 1]]).double(), atomic_number=torch.tensor([1, 1]))
    net = Derivatives(Springs()).eval()
    out = net(net.spec.build(graph))
    assert out["forces"].tolist() == [[0, 0, 2], [0, 0, -2]]
    assert "stress" not in out


def test_is_a_net():
    inner = ToyPotential(["Cu"])
    net = Derivatives(inner)
    assert net.spec == inner.spec and net.inputs == inner.inputs
    assert net.outputs == ("energy", "atom_energy", "forces", "virial", "stress")
    called = []
    inner.fit_statistics = lambda graphs: called.append(list(graphs))
    net.fit_statistics([1, 2])
    assert called == [[1, 2]]
