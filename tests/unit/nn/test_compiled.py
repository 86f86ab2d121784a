"""Compiled nets against eager ones. Budget: 25 s; what compiles DPA3 is slow."""

import copy

import pytest
import torch
import torch._dynamo.utils
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

import geomlib.nn.compiled as compiled_module
from geomlib.data.graph import GraphData, collate
from geomlib.errors import CompileError, GeomlibWarning, UnknownElement
from geomlib.models import DPA3
from geomlib.nn.compiled import CompiledDerivatives
from geomlib.nn.derivative import Derivatives
from geomlib.tasks import PotentialTask
from geomlib.testing import ToyPotential

SMALL = {
    "layers": 2,
    "node_dim": 16,
    "edge_dim": 8,
    "angle_dim": 4,
    "fitting_layers": [16, 16],
    "cutoff": 4.5,
    "cutoff_smooth": 3.8,
    "angle_cutoff": 3.2,
    "angle_cutoff_smooth": 2.7,
    "precision": "float64",
}
NAMES = ("energy", "atom_energy", "forces", "virial", "stress")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Compiled code goes into a folder that is gone afterwards; nothing is left from earlier tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def cxx():
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("no C++ compiler here: torch.compile needs one on a CPU")


def liquid(atoms: int, *, periodic: bool = True, seed: int = 0) -> GraphData:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*3 * [torch.arange(3.0, dtype=torch.float64)])[torch.randperm(27, generator=generator)]
    return GraphData(
        pos=grid[:atoms] * 5 / 3 + 0.3 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator),
        atomic_number=torch.tensor([8, 1])[torch.randint(0, 2, (atoms,), generator=generator)],
        cell=torch.eye(3, dtype=torch.float64).unsqueeze(0) * 5.0 * periodic,
        pbc=torch.full((1, 3), periodic),
    )


def batches(net) -> list[GraphData]:
    """A periodic graph, one in the open, two together, five together: four sizes of everything.

    Above 16 atoms, below which Inductor makes products of matrices in another way and so compiles once more.
    """
    parts = [
        [liquid(18)],
        [liquid(21, periodic=False, seed=5)],
        [liquid(12, seed=1), liquid(8, periodic=False, seed=2)],
        [liquid(6 + k, seed=k) for k in range(5)],
    ]
    return [net.spec.build(collate(part)) for part in parts]


def graphs_made() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def assert_equal(found, expected, tolerance=1e-9):
    assert set(found) == set(expected)
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=0, atol=tolerance), name


def gradients(net, outputs):
    loss = outputs["energy"].square().sum() + outputs["forces"].square().sum() + outputs["virial"].square().sum()
    names = [name for name, _ in net.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True), strict=True))


def check_evaluation(net, backend):
    net.requires_grad_(False)
    eager, fast = Derivatives(net).eval(), CompiledDerivatives(net, backend=backend).eval()
    for batch in batches(net):
        assert_equal(fast(batch), eager(batch))
    assert graphs_made() == 1, "other sizes were compiled again"
    assert not fast(batch)["energy"].requires_grad


def check_training(net, backend):
    eager, fast = Derivatives(net).train(), CompiledDerivatives(net, backend=backend).train()
    for batch in batches(net):
        found, expected = fast(batch), eager(batch)
        assert_equal(found, expected)
        by_code, by_autograd = gradients(net, found), gradients(net, expected)
        for name, value in by_autograd.items():
            assert torch.allclose(by_code[name], value, rtol=1e-9, atol=1e-9), name
        assert max(float(value.abs().max()) for value in by_autograd.values()) > 1e-3
    assert graphs_made() == 1, "other sizes were compiled again"


def test_compiled_code_is_equal_to_eager(cxx):
    check_evaluation(toy(), "inductor")


@pytest.mark.slow
def test_dpa3_is_equal_to_eager(cxx):
    check_evaluation(DPA3(["O", "H"], **SMALL), "inductor")


@pytest.mark.slow
def test_training_of_dpa3_is_equal_to_eager_to_the_second_order(cxx):
    check_training(DPA3(["O", "H"], **SMALL), "inductor")


def toy() -> ToyPotential:
    return ToyPotential(["H", "O"], cutoff=3.0)


def test_training_is_equal_to_eager_to_the_second_order():
    """Without making code: the graphs that torch would make code of."""
    check_training(toy(), "aot_eager")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_wrong_code_is_refused(mode, monkeypatch):
    net = toy()
    fast = getattr(CompiledDerivatives(net, backend="aot_eager"), mode)()
    real = compiled_module._Program.__call__

    def wrong(self, inputs):
        outputs = real(self, inputs)
        return {**outputs, "forces": outputs["forces"] * (1 + 1e-7)}

    monkeypatch.setattr(compiled_module._Program, "__call__", wrong)
    with pytest.raises(CompileError, match=r"'forces'.*differs from eager evaluation"):
        fast(net.spec.build(liquid(9)))


def test_lost_gradients_are_refused(monkeypatch):
    """Right forces that have forgotten how they depend on the parameters (seen in torch, issue 181581)."""
    net = toy()
    fast = CompiledDerivatives(net, backend="aot_eager").train()
    real = compiled_module._Program.__call__
    monkeypatch.setattr(
        compiled_module._Program,
        "__call__",
        lambda self, inputs: {**(out := real(self, inputs)), "forces": out["forces"].detach()},
    )
    with pytest.raises(CompileError, match="gradient of '"):
        fast(net.spec.build(liquid(9)))


@pytest.mark.parametrize("atoms", [1, 2])
def test_tiny_batches_are_eager(atoms):
    """One atom, or two that do not see each other: sizes that compilers treat apart."""
    net = toy()
    graph = liquid(atoms, periodic=False)
    if atoms == 2:
        graph.pos[1] += 50.0
    graph = net.spec.build(graph)
    fast = CompiledDerivatives(net, backend="aot_eager").eval()
    assert_equal(fast(graph), Derivatives(net).eval()(graph))
    assert graphs_made() == 0


def test_after_too_many_recompilations_a_warning_and_eager(monkeypatch):
    net = toy()
    fast = CompiledDerivatives(net, backend="aot_eager").eval()
    graph = net.spec.build(liquid(9))

    def gives_up(self, inputs):
        raise torch._dynamo.exc.FailOnRecompileLimitHit("limit")

    monkeypatch.setattr(compiled_module._Program, "__call__", gives_up)
    with pytest.warns(GeomlibWarning, match="too many kinds of batches"):
        assert_equal(fast(graph), Derivatives(net).eval()(graph))
    assert_equal(fast(graph), Derivatives(net).eval()(graph))  # and no second warning


def test_no_compiler_is_one_line(monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    get_cpp_compiler.cache_clear() if hasattr(get_cpp_compiler, "cache_clear") else None
    net = toy()
    with pytest.raises(CompileError, match="install g\\+\\+") as caught:
        CompiledDerivatives(net)(net.spec.build(liquid(9)))
    assert "\n" not in str(caught.value)


def test_changed_weights_and_copies(monkeypatch):
    net = toy()
    fast = CompiledDerivatives(net, backend="aot_eager").eval().requires_grad_(False)
    graph = net.spec.build(liquid(9))
    before = fast(graph)["forces"]
    copied = copy.deepcopy(fast)
    with torch.no_grad():
        for value in net.parameters():
            value *= 1.5
    assert_equal(fast(graph), Derivatives(net).eval()(graph))
    assert torch.allclose(copied(graph)["forces"], before, atol=1e-12)
    fast.load_state_dict(copied.state_dict(), assign=True)  # other tensors: traced again
    assert torch.allclose(fast(graph)["forces"], before, atol=1e-12)


def test_checks_of_the_net_still_speak():
    net = toy()
    graph = net.spec.build(liquid(9))
    graph.atomic_number = graph.atomic_number + 70
    with pytest.raises(UnknownElement):
        CompiledDerivatives(net, backend="aot_eager")(graph)


def test_the_precision_of_products_is_put_back():
    net = toy()
    before = torch.get_float32_matmul_precision()
    CompiledDerivatives(net, backend="aot_eager", tf32=True).eval()(net.spec.build(liquid(9)))
    assert torch.get_float32_matmul_precision() == before


def test_a_task_compiles_if_it_is_told_to():
    assert type(PotentialTask(toy(), compile=True).net) is CompiledDerivatives
    assert type(PotentialTask(toy()).net) is Derivatives
    assert set(PotentialTask(toy(), compile=True).state_dict()) == set(PotentialTask(toy()).state_dict())
