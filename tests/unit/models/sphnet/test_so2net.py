"""SO2Net: whatever the frames are, the matrix turns with the molecule, and every block of it is within reach."""

import json

import pytest
import torch
from ase import Atoms

from geomlib.data.atoms import from_atoms
from geomlib.data.graph import GraphData, collate
from geomlib.data.orbitals import shells_of
from geomlib.errors import ConfigError, DataError
from geomlib.models import SO2Net
from geomlib.models.sphnet import so2net
from geomlib.models.sphnet.expansion import block_irreps
from geomlib.models.sphnet.frame import FrameLayout
from geomlib.models.sphnet.frame_layers import FrameProduct, sum_over_degrees
from geomlib.nn.tensor_product import Irrep, TensorProduct, all_paths, natural_irreps, wigner_matrix
from geomlib.nn.tensor_product.grid import spherical_harmonics_at
from geomlib.nn.tensor_product.so2 import aligned_frames, rotation_blocks, wigner_blocks
from geomlib.testing import NetTests, perturb_parameters

TURN_AXES = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]).double()
"""From (x, y, z) to the order (y, z, x) in which harmonics and orbitals agree."""


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
    pos = [
        [-0.05, 0.66, 0.02],
        [-0.05, -0.75, 0.01],
        [-1.08, 0.98, 0.1],
        [0.44, 1.07, 0.88],
        [0.43, 1.06, -0.92],
        [0.87, -1.05, 0.05],
    ]
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double()
    return torch.tensor(pos).double() + 0.15 * noise, torch.tensor([6, 8, 1, 1, 1, 1])


def entries(net, pos, number):
    return net(net.spec.build(GraphData(pos=pos, atomic_number=number)))["hamiltonian"]


def matrix(net, pos, number):
    values = entries(net, pos, number).detach()
    return values.view(round(len(values) ** 0.5), -1)


def representation(net, number, turn):
    """Matrix that turns the orbitals of a molecule, in PySCF's order."""
    blocks = []
    for element in number.tolist():
        for degree in shells_of(net.config["basis"], element):
            block = wigner_matrix([Irrep(degree, (-1) ** degree)], TURN_AXES @ turn @ TURN_AXES.T)
            order = [2, 0, 1] if degree == 1 else list(range(2 * degree + 1))
            blocks.append(block[order][:, order])
    return torch.block_diag(*blocks)


def orthogonal(seed: int, improper: bool = False) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double())[0]
    turn = turn * torch.linalg.det(turn)
    return -turn if improper else turn


def turning_error(net, pos, number, turn) -> float:
    d = representation(net, number, turn).to(pos.dtype)
    shift = torch.tensor([3.0, -2.0, 1.0]).to(pos)
    found = matrix(net, pos @ turn.T.to(pos) + shift, number)
    return float((found - d @ matrix(net, pos, number) @ d.T).abs().max())


class TestSuite(NetTests):
    """What all nets do; of entries of a matrix the suite knows no symmetry and no batches, which are below."""

    float32_tolerance = 1e-5

    def make_net(self):
        return make()

    def structures(self):
        pos, number = molecule()
        water = Atoms("OH2", positions=[[0, 0, 0], [0.9, 0.2, 0.1], [-0.3, 0.8, 0.4]])
        return {"methanol": Atoms(numbers=number.numpy(), positions=pos.numpy()), "water": water}

    def test_config_round_trip(self):
        """As in the suite, which asks for a net that is made in float64."""
        net = self.make_net()
        again = SO2Net(**json.loads(json.dumps(net.config))).double()
        again.load_state_dict(net.state_dict(), strict=True)
        assert again.config == net.config and again.spec == net.spec
        pos, number = molecule()
        assert torch.equal(entries(net, pos, number), entries(again, pos, number))

    def _check_symmetries(self, net):
        for atoms in self.structures().values():
            graph = from_atoms(atoms)
            for improper in (False, True):
                error = turning_error(net, graph.pos, graph.atomic_number, orthogonal(1, improper))
                assert error < self.tolerance


class TestSuiteWithoutParity(TestSuite):
    def make_net(self):
        return make(parity=False)

    def _check_symmetries(self, net):
        pos, number = molecule()
        assert turning_error(net, pos, number, orthogonal(1)) < self.tolerance
        assert turning_error(net, pos, number, orthogonal(1, improper=True)) > 1e-6


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


# ------------------------------------------------------------------ frames


@pytest.mark.parametrize("parity", [True, False])
def test_what_turns_and_reflections_do_in_the_frame(parity):
    irreps = block_irreps((3, 2, 1), natural_irreps(4)) if parity else natural_irreps(4, parity=False)
    layout = FrameLayout(irreps, parity=parity).double()
    assert sum(layout.reals) + sum(layout.imaginaries) == layout.components
    direction = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
    frames = aligned_frames(direction)
    turns = layout.turns(rotation_blocks(4, direction))
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(layout.components).double(), atol=1e-13)
    x = torch.randn(layout.components, 2, generator=torch.Generator().manual_seed(1)).double()

    def orders(values):
        sizes = [size for pair in zip(layout.reals, layout.imaginaries, strict=True) for size in pair]
        parts = iter(values.split(sizes, dim=-2))
        return list(zip(parts, parts, strict=True))

    half_turn = frames @ torch.diag(torch.tensor([1.0, -1, -1])).double()
    expected = layout.turns(wigner_blocks(4, half_turn)) @ x
    assert torch.allclose(layout.reversed(turns @ x), expected, atol=1e-13)
    assert torch.allclose(half_turn[:, :, 1], -frames[:, :, 1], atol=1e-15)

    cosine, sine = torch.tensor(0.7).cos(), torch.tensor(0.7).sin()
    about = torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]).double()
    for order, (before, after) in enumerate(
        zip(orders(turns @ x), orders(layout.turns(wigner_blocks(4, frames @ about)) @ x), strict=True)
    ):
        if order == 0:
            assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(before, after, strict=True))
        else:
            turn = torch.polar(torch.tensor(1.0), torch.tensor(-0.7 * order)).to(torch.complex128)
            assert torch.allclose(turn * torch.complex(*before), torch.complex(*after), atol=1e-6)

    if parity:
        mirror = frames @ torch.diag(torch.tensor([-1.0, 1, 1])).double() @ frames.transpose(1, 2)
        reflected = torch.stack([wigner_matrix(irreps, each) for each in mirror]) @ x
        for before, after in zip(orders(turns @ x), orders(turns @ reflected), strict=True):
            assert torch.allclose(before[0], after[0], atol=1e-12)
            assert torch.allclose(before[1], -after[1], atol=1e-12)


def test_sums_over_degrees_are_products_with_harmonics():
    """With a weight for every degree in and out they span what Clebsch-Gordan paths with all harmonics span."""
    l_max = 2
    irreps, harmonics = natural_irreps(l_max), natural_irreps(2 * l_max)
    layout = FrameLayout(irreps, parity=True).double()
    direction = torch.tensor([[0.3, -0.5, 0.8]]).double()
    turns = layout.turns(rotation_blocks(l_max, direction))[0]
    x = torch.eye(9).double()
    y = spherical_harmonics_at(range(2 * l_max + 1), direction).unsqueeze(1)
    basis = []
    for path in all_paths(irreps, harmonics, irreps):
        product = TensorProduct("cg_dense", irreps, harmonics, irreps, 1, paths=[path], weights="none").double()
        basis.append(product(x.unsqueeze(1), y.expand(9, -1, -1)).flatten())
    maps = []
    for number, order in enumerate(order for order, count in enumerate(layout.reals) for _ in range(count)):
        weight = torch.zeros(sum(layout.reals), 1, 1).double()
        weight[number] = 1.0
        reals, imaginaries = sum_over_degrees(layout, turns @ x, weight.expand(-1, 1, 9))
        for degree in range(order, l_max + 1):
            back = torch.zeros(9, 9).double()
            begin = sum(layout.reals[:order]) + sum(layout.imaginaries[:order]) + degree - order
            back[begin] = reals[order]
            if order:
                back[begin + layout.reals[order]] = imaginaries[order]
            maps.append((turns.T @ back).T.flatten())
    spanned, found = torch.stack(basis), torch.stack(maps)
    assert int(torch.linalg.matrix_rank(spanned, rtol=1e-9)) == len(basis) == len(maps)
    assert int(torch.linalg.matrix_rank(torch.cat([spanned, found]), rtol=1e-9)) == len(basis)
    assert int(torch.linalg.matrix_rank(found, rtol=1e-9)) == len(basis)


def test_products_of_orders_are_products_on_a_circle():
    """With weights 1 those of two real functions of the angle, and what they leave out is beyond the largest order."""
    l_max = 3
    product = FrameProduct(l_max, 2).double()
    with torch.no_grad():
        for weight in product.weight:
            weight.fill_(1.0)
    generator = torch.Generator().manual_seed(0)

    def orders():
        reals, imaginaries = torch.randn(2, l_max + 1, 5, 2, generator=generator).double()
        imaginaries[0] = 0.0
        return list(reals), list(imaginaries)

    angles = 2 * torch.pi * torch.arange(32) / 32

    def on_circle(x):
        total = x[0][0].unsqueeze(0).expand(32, -1, -1)
        for order in range(1, l_max + 1):
            phase = (order * angles).double().view(-1, 1, 1)
            total = total + 2 * (x[0][order] * phase.cos() - x[1][order] * phase.sin())
        return total

    x, y = orders(), orders()
    z = product(x, y)
    spectrum = torch.fft.fft(on_circle(x) * on_circle(y), dim=0) / 32
    for order in range(l_max + 1):
        found = torch.complex(z[0][order] - x[0][order], z[1][order] - x[1][order])
        assert torch.allclose(found, spectrum[order], atol=1e-6)
