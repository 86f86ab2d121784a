"""SO2Net: whatever the frames are, the matrix turns with the molecule, and every block of it is within reach."""

import pytest
import torch
from ase import Atoms, build

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError
from geomlib.models import SO2Net
from geomlib.models.sphnet import so2net
from geomlib.nn.tensor_product.so2 import aligned_frames, wigner_blocks
from geomlib.testing import NetTests, perturb_parameters, turn_of_orbitals


@pytest.fixture(autouse=True)
def keep_random_state():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


def make(**options) -> SO2Net:
    torch.manual_seed(0)
    small = {"channels": 8, "bottleneck": 4, "functions": 8, "layers": 4, "delta": False, **options}
    return SO2Net(["H", "C", "O"], **small).double()


def molecule(seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Methanol off its symmetric places."""
    atoms = build.molecule("CH3OH")
    atoms.rattle(0.15, seed=seed)
    graph = from_atoms(atoms)
    return graph.pos, graph.atomic_number


def entries(net, pos, number):
    return net(net.spec.build(GraphData(pos=pos, atomic_number=number)))["hamiltonian"]


def matrix(net, pos, number):
    values = entries(net, pos, number).detach()
    return values.view(round(len(values) ** 0.5), -1)


def orthogonal(seed: int, improper: bool = False) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    turn = turn * torch.linalg.det(turn)
    return -turn if improper else turn


def turning_error(net, pos, number, turn) -> float:
    d = turn_of_orbitals(net.config["basis"], number.tolist(), turn).to(pos)
    shift = torch.tensor([3.0, -2.0, 1.0]).to(pos)
    found = matrix(net, pos @ turn.T.to(pos) + shift, number)
    return float((found - d @ matrix(net, pos, number) @ d.T).abs().max())


class TestSuite(NetTests):
    """What all nets do."""

    float32_tolerance = 1e-5

    def make_net(self):
        return make()

    def structures(self):
        pos, number = molecule()
        water = Atoms("OH2", positions=[[0, 0, 0], [0.9, 0.2, 0.1], [-0.3, 0.8, 0.4]])
        return {"methanol": Atoms(numbers=number.numpy(), positions=pos.numpy()), "water": water}


class TestSuiteWithoutParity(TestSuite):
    reflections = False

    def make_net(self):
        return make(parity=False)


def test_mirror_image_differs_where_parity_is_off():
    net = make(parity=False)
    assert turning_error(net, *molecule(), orthogonal(1)) < 1e-9
    assert turning_error(net, *molecule(), orthogonal(1, improper=True)) > 1e-6


@pytest.mark.parametrize("parity", [True, False])
def test_matrix_turns_with_the_molecule_after_training(parity):
    net = make(parity=parity)
    pos, number = molecule()
    target = matrix(make(channels=6), pos, number).flatten()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        (entries(net, pos, number) - target).square().sum().backward()
        optimizer.step()
    assert turning_error(net, pos, number, orthogonal(4)) < 1e-9
    assert (turning_error(net, pos, number, orthogonal(4, improper=True)) < 1e-9) == parity
    found = matrix(net, pos, number)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("parity", [True, False])
def test_turns_around_the_pairs_play_no_part(parity, monkeypatch):
    net = make(parity=parity)
    perturb_parameters(net)
    pos, number = molecule()
    before = matrix(net, pos, number)

    def turned(l_max, direction):
        angle = 10 * torch.randn(len(direction), generator=torch.Generator().manual_seed(0)).double()
        about = torch.diag_embed(torch.stack([angle.cos(), torch.ones_like(angle), angle.cos()], dim=1))
        about[:, 0, 2], about[:, 2, 0] = angle.sin(), -angle.sin()
        return wigner_blocks(l_max, aligned_frames(direction) @ about)

    monkeypatch.setattr(so2net, "rotation_blocks", turned)
    assert float((matrix(net, pos, number) - before).abs().max()) < 1e-12


@pytest.mark.parametrize("tilt", [0.0, 1e-12, 1e-8, 1e-4])
@pytest.mark.parametrize("bond", [(1, 0), (0, 1), (2, 0)])
def test_pairs_along_the_polar_axis(bond, tilt):
    """z is the polar axis of harmonics in the order of orbitals."""
    net = make()
    perturb_parameters(net)
    pos, number = molecule()
    along = (pos[bond[0]] - pos[bond[1]]) / (pos[bond[0]] - pos[bond[1]]).norm()
    turn = aligned_frames(along.unsqueeze(0))[0].T[[2, 0, 1]]  # takes the bond to z
    small = torch.linalg.matrix_exp(tilt * torch.tensor([[0.0, 0, 1], [0, 0, -2], [-1, 2, 0]]).double())
    turn = small @ turn
    assert turning_error(net, pos, number, turn) < 1e-11
    turned = (pos @ turn.T).requires_grad_()
    gradients = [
        torch.autograd.grad(entries(net, place, number).square().sum(), place)[0]
        for place in (turned, pos.clone().requires_grad_())
    ]
    assert float((gradients[0] - gradients[1] @ turn.T).abs().max()) < 1e-9 * float(gradients[1].abs().max())


def test_linear_molecules_along_all_axes():
    net = make()
    perturb_parameters(net)
    number = torch.tensor([8, 6, 8])
    for axis in range(3):
        pos = torch.zeros(3, 3).double()
        pos[:, axis] = torch.tensor([-1.16, 0.0, 1.17]).double()
        assert turning_error(net, pos, number, orthogonal(3)) < 1e-9
        place = pos.clone().requires_grad_()
        (slope,) = torch.autograd.grad(entries(net, place, number).square().sum(), place)
        assert bool(slope.isfinite().all())


def test_order_of_atoms_and_batch_play_no_part():
    net = make()
    perturb_parameters(net)
    pos, number = molecule()
    before = matrix(net, pos, number)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    atom, _ = net.layout.orbitals(number)
    rows = torch.cat([(atom == k).nonzero().squeeze(1) for k in order])
    assert float((matrix(net, pos[order], number[order]) - before[rows][:, rows]).abs().max()) < 1e-12
    water = GraphData(pos=pos[:3], atomic_number=torch.tensor([8, 1, 1]))
    lonely = GraphData(pos=pos[:1], atomic_number=torch.tensor([8]))
    whole = GraphData(pos=pos, atomic_number=number)
    batch = collate([net.spec.build(graph) for graph in (water, lonely, whole, water)])
    parts = net(batch)["hamiltonian"].detach().split([24**2, 14**2, len(atom) ** 2, 24**2])
    assert float((parts[2].view_as(before) - before).abs().max()) < 1e-12
    assert torch.allclose(parts[0], parts[3], atol=1e-13)
    assert torch.allclose(parts[1], matrix(net, pos[:1], torch.tensor([8])).flatten(), atol=1e-13)


@pytest.mark.parametrize("state", ["fresh", "perturbed"])
def test_single_precision(state):
    net = make().float()
    if state == "perturbed":
        perturb_parameters(net)
    pos, number = molecule()
    upright = torch.tensor([[0.0, 0, -1.16], [0, 0, 0], [1e-7, 0, 1.17]]).double()
    for improper in (False, True):
        assert turning_error(net, pos, number, orthogonal(1, improper)) < 1e-5
        assert turning_error(net, upright, torch.tensor([8, 6, 8]), orthogonal(1, improper)) < 1e-5


@pytest.mark.parametrize("parity", [True, False])
def test_every_block_is_within_reach(parity):
    """Of five atoms in no symmetric place, all entries of a pair's block move freely, and all of a symmetric one's."""
    net = make(parity=parity, bottleneck=6)  # fewer channels limit the rank of each coupling
    perturb_parameters(net)
    pos, number = molecule()
    graph = net.spec.build(GraphData(pos=pos[:5], atomic_number=number[:5]))
    on_site, between = net.blocks(graph)
    parameters = [parameter for name, parameter in net.named_parameters() if "bias_net" not in name]
    size = on_site.shape[1]
    upper = torch.triu_indices(size, size)
    for block, expected in ((between[0], size**2), (2 * on_site[0][upper[0], upper[1]], size * (size + 1) // 2)):
        rows = []
        for entry in block.flatten():
            slopes = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([slope.flatten() for slope in slopes if slope is not None]))
        assert int(torch.linalg.matrix_rank(torch.stack(rows), rtol=1e-9)) == expected


@pytest.mark.parametrize("basis", ["sto-3g", "def2-tzvp"])
def test_other_basis_sets(basis):
    net = make(basis=basis)
    pos, number = molecule()
    assert turning_error(net, pos[:3], number[:3], orthogonal(1, improper=True)) < 1e-9
    only_s = SO2Net(["H"], basis="sto-3g", channels=4, bottleneck=2, layers=4, delta=False).double()
    assert matrix(only_s, pos[:2], torch.tensor([1, 1])).shape == (2, 2)


def test_far_atoms_leave_each_other_alone():
    """Smoothly: at the cutoff nothing jumps, and beyond it blocks of atoms know nothing of each other."""
    net = make(cutoff=5.0)
    perturb_parameters(net)
    pos, number = molecule()

    def blocks(distance):
        far = torch.cat([pos[:2], torch.tensor([[0.0, 0, distance]]).double() + pos[0]])
        return net.blocks(net.spec.build(GraphData(pos=far, atomic_number=number[[0, 1, 2]])))[0].detach()

    alone = net.blocks(net.spec.build(GraphData(pos=pos[:2], atomic_number=number[:2])))[0].detach()
    assert float((blocks(7.0)[:2] - alone).abs().max()) < 1e-14
    assert float((blocks(4.99)[:2] - alone).abs().max()) < 1e-8
    assert float((blocks(3.0)[:2] - alone).abs().max()) > 1e-5


def test_it_learns():
    net, teacher = make(channels=16, bottleneck=8), make(layers=5)
    perturb_parameters(teacher, 0.5, seed=3)
    frames = [net.spec.build(GraphData(pos=molecule(k)[0][:3], atomic_number=molecule(k)[1][:3])) for k in range(8)]
    batch = collate(frames)
    target = teacher(batch)["hamiltonian"].detach()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(batch)["hamiltonian"] - target).abs().mean()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.2 * errors[0]


def test_bad_input_is_said():
    for options, message in (
        ({"layers": 3}, "layers=3: expected more than 3"),
        ({"copies": 0}, "copies=0: expected at least 1"),
        ({"bottleneck": 0}, "bottleneck=0: expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            SO2Net(["H"], **options)
    with pytest.raises(DataError, match="no field 'initial_hamiltonian'"):
        net = make(delta=True)
        entries(net, *molecule())
