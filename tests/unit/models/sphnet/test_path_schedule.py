"""Paths of a product in three phases: borders, numbers, going on after a stop, what pruning leaves."""

import copy

import pytest
import torch

import geomlib
from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.files.modelfile import read_manifest
from geomlib.models import SPHNet
from geomlib.models.sphnet.compaction import carry_over
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


# -------------------------------------------------------------------- paths that are gone

SMALL = {"channels": 8, "bottleneck": 4, "functions": 8, "short_layers": 1, "heads": 2, "delta": False}
POS = torch.tensor([[0.0, 0, 0], [0.9, 0.2, 0], [-0.3, 0.9, 0.1]]).double()


def chosen(**options):
    """A net in its third phase with disturbed parameters, and water for it."""
    torch.manual_seed(0)
    net = SPHNet(["H", "O"], basis="sto-3g", path_sparsity=0.6, path_steps=[2, 2], **SMALL, **options).double()
    disturb(net)
    graph = net.spec.build(GraphData(pos=POS, atomic_number=torch.tensor([8, 1, 1])))
    for step in range(5):
        net.advance(step)
    return net, graph


def disturb(net):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("normalization", ["component", "published"])
def test_what_is_left_out_is_gone_and_nothing_changes(normalization):
    net, graph = chosen(normalization=normalization, pair_sparsity=0.4)
    assert net.can_compact
    before = net(graph)["hamiltonian"].detach()
    assert float(before.abs().max()) > 1e-3
    small = copy.deepcopy(net)
    small.compact()
    assert float((small(graph)["hamiltonian"].detach() - before).abs().max()) < 1e-12
    count = len(net.pairs[0].product.paths)
    kept = [len(numbers) for numbers in small.config["kept_paths"]]
    assert all(number <= 0.4 * count + 1 for number in kept)
    for layer, number in zip((*small.diagonal, *small.pairs), kept, strict=True):
        assert len(layer.product.paths) == number
        matrices = [value for name, value in layer.product.operator.named_buffers() if name.startswith("matrix_")]
        orders = 1 + layer.product.both_orders
        assert sum(len(matrix) for matrix in matrices) == orders * sum(
            layer.product.irreps[path.out].dim for path in layer.product.paths
        )
    assert small.diagonal[0].weight.shape == (kept[0], 8)
    assert small.pairs[0].of_invariants[2].weight.shape == (8 * kept[2], 8)
    assert small.pairs[0].of_distance.second.shape == (8, 8 * kept[2])
    assert not [name for name in small.state_dict() if "schedule" in name]
    assert not small.can_compact
    small.advance(3)  # there is nothing to go back to
    with pytest.raises(ConfigError, match="no paths that are chosen for good"):
        small.compact()


def test_a_net_is_made_with_the_paths_that_are_left():
    net, graph = chosen()
    net.compact()
    again = SPHNet(**net.config).double()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(graph)["hamiltonian"], net(graph)["hamiltonian"])
    for kept, message in (
        ([[0]], "has 1 lists: expected one for each of four"),
        ([[0], [0], [0], [999]], r"kept paths \[999\]: expected ascending numbers"),
        ([[0], [1, 0], [0], [0]], r"kept paths \[1, 0\]"),
        ([[0], [], [0], [0]], r"kept paths \[\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            SPHNet(**{**net.config, "kept_paths": kept})


def test_the_model_file_has_no_other_paths(tmp_path):
    net, graph = chosen()
    before = net(graph)["hamiltonian"].detach()
    geomlib.save(net, tmp_path / "model.safetensors")
    assert net.can_compact  # the net itself goes on as it was
    loaded = geomlib.load(tmp_path / "model.safetensors")
    assert float((loaded(graph)["hamiltonian"] - before).abs().max()) < 1e-12
    manifest = read_manifest(tmp_path / "model.safetensors")
    assert manifest["config"]["kept_paths"] == [row.product.schedule.active().tolist() for row in layers(net)]
    assert manifest["parameters"] < sum(parameter.numel() for parameter in net.parameters())


def layers(net):
    return (*net.diagonal, *net.pairs)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_goes_on_with_what_is_left(kind):
    torch.manual_seed(0)
    net = SPHNet(["H", "O"], basis="sto-3g", path_sparsity=0.6, path_steps=[2, 2], **SMALL).double()
    disturb(net)
    graph = net.spec.build(GraphData(pos=POS, atomic_number=torch.tensor([8, 1, 1])))
    options = {"amsgrad": True} if kind is torch.optim.AdamW else {"momentum": 0.9}
    groups = [{"params": list(net.diagonal.parameters())}]
    groups.append({"params": [p for name, p in net.named_parameters() if not name.startswith("diagonal.")]})
    optimizer = kind(groups, lr=1e-3 if kind is torch.optim.AdamW else 1e-9, **options)

    def step(number):
        net.advance(number)
        optimizer.zero_grad()
        (net(graph)["hamiltonian"] - 0.3).square().sum().backward()
        optimizer.step()

    for number in range(4):
        step(number)
    net.advance(4)
    layer = net.pairs[1]
    last, active = layer.of_invariants[2].bias, layer.product.schedule.active()
    columns = layer._columns(active)
    state = {name: value.clone() for name, value in optimizer.state[last].items() if name != "step"}
    factors = (layer.product._shares(active, active.tolist())[0]).repeat_interleave(8)
    whole = last.detach()[columns]
    carry_over(optimizer, net.compact())
    new = layer.of_invariants[2].bias
    assert torch.allclose(new, whole * factors, atol=1e-14)
    powers = {"exp_avg": 1, "momentum_buffer": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}
    for name, value in state.items():
        if value is not None:
            assert value[columns].abs().max() > 0 or name == "max_exp_avg_sq"
            expected = value[columns] / factors ** powers[name]
            assert torch.allclose(optimizer.state[new][name], expected, rtol=1e-12, atol=0.0)  # squares are tiny
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in net.parameters()}
    assert {id(parameter) for parameter in optimizer.state} <= held
    assert [len(group["params"]) for group in optimizer.param_groups] == [
        len(list(net.diagonal.parameters())),
        len(list(net.parameters())) - len(list(net.diagonal.parameters())),
    ]
    before = new.detach().clone()
    step(5)
    assert not torch.equal(layer.of_invariants[2].bias, before)


def test_momentum_points_where_it_did():
    # the step of a plain momentum in a kept weight is the one it would have been, seen through the factor
    net, graph = chosen()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    (net(graph)["hamiltonian"] - 0.3).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    small = copy.deepcopy(net)
    carry = torch.optim.SGD(small.parameters(), lr=1e-4, momentum=0.9)
    carry.load_state_dict(optimizer.state_dict())
    carry_over(carry, small.compact())
    (net(graph)["hamiltonian"] - 0.3).square().sum().backward()
    (small(graph)["hamiltonian"] - 0.3).square().sum().backward()
    whole, part = net.diagonal[1].weight, small.diagonal[1].weight
    active = torch.tensor(small.config["kept_paths"][1])
    shares = net.diagonal[1].product._shares(active, active.tolist())[0].detach().unsqueeze(1)
    assert torch.allclose(part.grad, whole.grad[active] / shares, atol=1e-12)
    buffer = optimizer.state[whole]["momentum_buffer"][active]
    assert torch.allclose(carry.state[part]["momentum_buffer"] * shares, buffer, atol=1e-14)
