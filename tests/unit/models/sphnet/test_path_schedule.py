"""Paths of a product in three phases: borders, numbers, going on after a stop, what pruning leaves."""

import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models import SPHNet
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.path_gate import PathSchedule, SparseProduct
from geomlib.nn.tensor_product import natural_irreps


def schedule(seed=0, count=20, sparsity=0.7):
    return PathSchedule(count, sparsity, explore=10, compete=5, seed=seed)


def test_phases_begin_where_they_are_said_to():
    paths = schedule()
    phases = []
    for step in (0, 9, 10, 14, 15, 1000):
        paths.advance(step)
        phases.append(paths.phase)
    assert phases == [1, 1, 2, 2, 3, 3]


def test_first_phase_draws_another_subset_at_each_step_and_the_same_on_every_process():
    first, second = schedule(), schedule()
    drawn = []
    for step in range(10):
        first.advance(step)
        second.advance(step)
        assert torch.equal(first.active(), second.active())
        assert len(first.active()) == 6
        drawn.append(tuple(first.active().tolist()))
    assert len(set(drawn)) > 5
    other = schedule(seed=1)
    assert any(not torch.equal(other.active(), torch.tensor(row)) for row in drawn[:1])


def test_second_phase_follows_omega_and_the_third_keeps_its_last_choice():
    paths = schedule()
    with torch.no_grad():
        paths.omega.copy_(torch.arange(20.0))
    paths.advance(12)
    assert paths.active().tolist() == [14, 15, 16, 17, 18, 19]
    with torch.no_grad():
        paths.omega.copy_(torch.arange(20.0).flip(0))
    assert paths.active().tolist() == [0, 1, 2, 3, 4, 5]
    paths.advance(15)
    with torch.no_grad():
        paths.omega.copy_(torch.arange(20.0))
    assert paths.active().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("step", [4, 12, 30])
def test_every_phase_is_taken_up_from_its_state(step):
    paths = schedule()
    with torch.no_grad():
        paths.omega.copy_(torch.randn(20, generator=torch.Generator().manual_seed(0)))
    for number in range(step + 1):
        paths.advance(number)
    again = schedule()
    again.load_state_dict(paths.state_dict())
    assert again.phase == paths.phase
    assert torch.equal(again.active(), paths.active())
    again.advance(step + 1)
    paths.advance(step + 1)
    assert torch.equal(again.active(), paths.active())


def test_evaluation_does_not_draw():
    paths = schedule().eval()
    assert paths.active().tolist() == list(range(20))  # all ω are equal at the start


def test_paths_left_out_are_as_if_their_weights_were_zero():
    irreps = natural_irreps(2)
    paths = PathSchedule(11, 0.5, 1, 1, seed=0).double()
    product = SparseProduct(irreps, irreps, 3, Normalization(), paths).double()
    assert len(product.paths) == 11
    with torch.no_grad():
        paths.omega.copy_(torch.rand(11, generator=torch.Generator().manual_seed(1)) + 0.5)
    paths.advance(5)
    active = product.active()
    x, y = (torch.randn(9, 4, 3, generator=torch.Generator().manual_seed(k)).double() for k in (2, 3))
    weight = torch.randn(11, 4, 3, generator=torch.Generator().manual_seed(4)).double()
    found = product(x, y, weight[active], active)
    dense = SparseProduct(irreps, irreps, 3, Normalization(), None).double()
    every = torch.tensor(Normalization().coefficients(product.paths, irreps), dtype=torch.float64)
    factors = torch.zeros(11, dtype=torch.float64)
    factors[active] = product._coefficients(active, active.tolist()).detach() / every[active]
    assert torch.allclose(found, dense(x, y, weight * factors.view(-1, 1, 1), None), atol=1e-12)


def test_the_size_of_omega_plays_no_part():
    irreps = natural_irreps(2)
    paths = PathSchedule(11, 0.5, 1, 1, seed=0).double()
    product = SparseProduct(irreps, irreps, 3, Normalization(), paths).double()
    active = torch.arange(11)
    every = torch.tensor(Normalization().coefficients(product.paths, irreps), dtype=torch.float64)
    for size in (1.0, 3.0):
        with torch.no_grad():
            paths.omega.fill_(size)
        assert torch.allclose(product._coefficients(active, active.tolist()), every)


def test_omega_learns_and_the_net_is_told_the_step():
    torch.manual_seed(0)
    options = {"channels": 8, "bottleneck": 4, "functions": 8, "short_layers": 1, "heads": 2, "delta": False}
    net = SPHNet(["H", "O"], basis="sto-3g", path_sparsity=0.6, path_steps=[2, 2], **options).double()
    pos = torch.tensor([[0.0, 0, 0], [0.9, 0.2, 0], [-0.3, 0.9, 0]]).double()
    graph = net.spec.build(GraphData(pos=pos, atomic_number=torch.tensor([8, 1, 1])))
    sizes = []
    for step in range(6):
        net.advance(step)
        net.zero_grad()
        net(graph)["hamiltonian"].square().sum().backward()
        schedules = [layer.product.schedule for layer in (*net.diagonal, *net.pairs)]
        sizes.append({len(row.active()) for row in schedules})
        assert all(float(row.omega.grad.abs().max()) > 0 for row in schedules[1:])
    count = len(net.pairs[0].product.paths)
    assert sizes[0] == {int(0.4 * count)}
    assert schedules[0].phase == 3
    # the symmetry holds whatever the paths
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    turned = net(net.spec.build(GraphData(pos=pos @ turn.T, atomic_number=graph.atomic_number)))["hamiltonian"]
    before = net(graph)["hamiltonian"]
    assert torch.allclose(
        torch.linalg.eigvalsh(turned.view(7, 7)), torch.linalg.eigvalsh(before.view(7, 7)), atol=1e-10
    )


@pytest.mark.parametrize("arguments", [(20, 0.0, 1, 1, 0), (20, 1.0, 1, 1, 0), (20, 0.5, -1, 1, 0), (20, 0.5, 1, 0, 0)])
def test_bad_schedules_are_refused(arguments):
    with pytest.raises(ConfigError, match="path sparsity"):
        PathSchedule(*arguments)
