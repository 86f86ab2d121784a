"""The predicted matrix turns with the molecule, knows no order of atoms and no neighbours in a batch."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError, GeomlibError, UnknownElement
from geomlib.models import QHNet, SPHNet
from geomlib.models.sphnet.compaction import carry_over
from geomlib.testing import NetTests, turn_of_orbitals


def nets(**options):
    small = {"channels": 8, "bottleneck": 4, "functions": 8, "delta": False, **options}
    return {
        "sphnet": lambda: SPHNet(["H", "C", "O"], short_layers=2, long_layers=2, heads=2, vector_functions=8, **small),
        "sphnet with gates": lambda: SPHNet(
            ["H", "C", "O"], short_layers=1, heads=2, vector_functions=8, pair_sparsity=0.5, norm=True, **small
        ),
        "qhnet": lambda: QHNet(["H", "C", "O"], layers=4, **small),
    }


NETS = nets()


def rattled(name: str) -> Atoms:
    """A molecule off its planes of symmetry."""
    atoms = molecule(name)
    atoms.rattle(0.02, seed=0)
    return atoms


def methanol() -> tuple[torch.Tensor, torch.Tensor]:
    graph = from_atoms(rattled("CH3OH"))
    return graph.pos, graph.atomic_number


def matrix(net, pos, number):
    values = net(net.spec.build(GraphData(pos=pos, atomic_number=number)))["hamiltonian"].detach()
    return values.view(round(len(values) ** 0.5), -1)


def orthogonal(seed: int, improper: bool = False) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    turn = turn * torch.linalg.det(turn)
    return -turn if improper else turn


def disturb(net):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


class Suite(NetTests):
    """What all nets do."""

    float32_tolerance = 1e-5
    name: str

    def make_net(self):
        torch.manual_seed(0)
        return NETS[self.name]().double()

    def structures(self):
        return {"methanol": rattled("CH3OH"), "water": rattled("H2O")}


class TestSPHNet(Suite):
    name = "sphnet"
    # as published: vectors are zero in the first layer, and what the last short layer makes of edges is not read
    idle_parameters = (
        "vectorial.short.0.vectors.weight",
        "vectorial.short.*.edge.*",
        "vectorial.short.*.target.weight",
        "vectorial.short.*.source.weight",
    )


class TestSPHNetWithGates(Suite):
    name = "sphnet with gates"
    # vectors are zero in the first layer, and so is the long-range state without long layers
    idle_parameters = ("vectorial.short.0.vectors.weight", "vectorial.norm_long.weight")


class TestQHNet(Suite):
    name = "qhnet"


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("state", ["fresh", "disturbed"])
def test_matrix_turns_with_the_molecule(name, state):
    torch.manual_seed(0)
    net = NETS[name]().double()
    if state == "disturbed":
        disturb(net)
    pos, number = methanol()
    before = matrix(net, pos, number)
    assert float(before.abs().max()) > 1e-3
    assert torch.equal(before, before.T)
    for improper in (False, True):
        turn = orthogonal(1, improper)
        turned = matrix(net, pos @ turn.T + torch.tensor([3.0, -2.0, 1.0]), number)
        d = turn_of_orbitals("def2-svp", number.tolist(), turn)
        assert float((turned - d @ before @ d.T).abs().max()) < 1e-9


@pytest.mark.parametrize("phase", ["first", "second", "third", "paths gone"])
def test_every_phase_turns_with_the_molecule_while_training(phase):
    torch.manual_seed(0)
    options = {"channels": 8, "bottleneck": 4, "functions": 8, "delta": False, "vector_functions": 8}
    steps = [30, 30] if phase == "first" else [5, 30] if phase == "second" else [5, 5]
    gates = {"pair_sparsity": 0.4, "path_sparsity": 0.7, "path_steps": steps}
    net = SPHNet(["H", "C", "O"], short_layers=1, heads=2, **options, **gates).double()
    pos, number = methanol()
    graph = net.spec.build(GraphData(pos=pos, atomic_number=number))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(20):
        net.advance(step)
        if phase == "paths gone" and net.can_compact:
            carry_over(optimizer, net.compact())
        optimizer.zero_grad()
        (net(graph)["hamiltonian"] - 0.1).square().sum().backward()
        optimizer.step()
    if phase != "paths gone":
        assert {row.product.schedule.phase for row in net.pairs} == {["first", "second", "third"].index(phase) + 1}
    for disturbed in (False, True):
        if disturbed:
            disturb(net)
        before = matrix(net, pos, number)  # in training mode: the paths are those of this step
        assert float(before.abs().max()) > 1e-2
        for improper in (False, True):
            turn = orthogonal(3, improper)
            d = turn_of_orbitals("def2-svp", number.tolist(), turn)
            assert float((matrix(net, pos @ turn.T, number) - d @ before @ d.T).abs().max()) < 1e-9


def test_mirror_image_differs_where_parity_is_off():
    torch.manual_seed(0)
    net = nets(parity=False)["sphnet"]().double()
    pos, number = methanol()
    pos = pos + 0.3 * torch.randn(pos.shape, generator=torch.Generator().manual_seed(2)).double()
    before = matrix(net, pos, number)
    for improper, limit in ((False, 0.0), (True, 1e-6)):
        turn = orthogonal(1, improper)
        d = turn_of_orbitals("def2-svp", number.tolist(), turn)
        error = float((matrix(net, pos @ turn.T, number) - d @ before @ d.T).abs().max())
        assert error > limit if improper else error < 1e-9


@pytest.mark.parametrize("name", NETS)
def test_order_of_atoms_and_batch_play_no_part(name):
    torch.manual_seed(0)
    net = NETS[name]().double()
    disturb(net)
    pos, number = methanol()
    before = matrix(net, pos, number)
    rounding = 1e-12 * max(1.0, float(before.abs().max()))  # disturbed nets give up to some hundred Hartree
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    atom, _ = net.layout.orbitals(number)
    rows = torch.cat([(atom == k).nonzero().squeeze(1) for k in order])
    assert float((matrix(net, pos[order], number[order]) - before[rows][:, rows]).abs().max()) < rounding
    water = GraphData(
        pos=torch.tensor([[0.0, 0, 0], [0.9, 0.2, 0], [-0.3, 0.9, 0]]).double(), atomic_number=torch.tensor([8, 1, 1])
    )
    whole = GraphData(pos=pos, atomic_number=number)
    batch = collate([net.spec.build(graph) for graph in (water, whole, water)])
    parts = net(batch)["hamiltonian"].detach().split([24**2, len(atom) ** 2, 24**2])
    assert float((parts[1].view_as(before) - before).abs().max()) < rounding
    assert torch.allclose(parts[0], parts[2], atol=1e-13)


@pytest.mark.parametrize("name", NETS)
def test_single_precision_and_a_single_atom(name):
    torch.manual_seed(0)
    net = NETS[name]()
    pos, number = methanol()
    before = matrix(net, pos, number)
    turn = orthogonal(1, True)
    d = turn_of_orbitals("def2-svp", number.tolist(), turn)
    assert float((matrix(net, pos @ turn.T, number) - d @ before @ d.T).abs().max()) < 1e-5
    alone = matrix(net, torch.zeros(1, 3).double(), torch.tensor([8]))
    assert alone.shape == (14, 14)
    assert bool(alone.isfinite().all())


def test_every_parameter_learns():
    torch.manual_seed(0)
    net = NETS["sphnet with gates"]().double()
    pos, number = methanol()
    graph = net.spec.build(GraphData(pos=pos, atomic_number=number))
    net(graph)["hamiltonian"].square().sum().backward()
    idle = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert idle == []


def test_bad_input_is_said():
    net = NETS["sphnet"]()
    with pytest.raises(DataError, match="atoms 0 and 1 of the batch are at the same place"):
        net(net.spec.build(GraphData(pos=torch.zeros(2, 3).double(), atomic_number=torch.tensor([1, 1]))))
    with pytest.raises(UnknownElement, match="element N is not among those of the layout, H, C, O"):
        net.spec.build(GraphData(pos=torch.zeros(1, 3).double(), atomic_number=torch.tensor([7])))
    with pytest.raises(DataError, match="no field 'initial_hamiltonian'"):
        delta = SPHNet(["H"], channels=8)
        delta(delta.spec.build(GraphData(pos=torch.zeros(1, 3).double(), atomic_number=torch.tensor([1]))))
    for options, message in (
        ({"l_max": 3}, "l_max=3: blocks of def2-svp"),
        ({"channels": 9}, "no multiple of heads"),
        ({"basis": "sto-3"}, "no basis set 'sto-3' for H|needs the package"),
        ({"pair_sparsity": 1.0}, "0 ≤ sparsity < 1"),
        ({"normalization": "none"}, "expected component or published"),
        ({"gate_width": 0}, "gate_width=0: expected at least 1"),
        ({"pair_irreps": "some"}, "pair_irreps='some': expected needed or all"),
    ):
        with pytest.raises(GeomlibError, match=message):
            SPHNet(["H", "O"], **options)
    with pytest.raises(ConfigError, match="layers=3"):
        QHNet(["H"], layers=3)
