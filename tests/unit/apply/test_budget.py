"""How much goes into a batch. Budget: 2 s."""

import pytest
import torch
from torch import Tensor

from geomlib.apply.budget import CPU_ATOMS, Budget, Size, is_out_of_memory, total
from geomlib.errors import ConfigError

CPU = torch.device("cpu")
GPU = torch.device("cuda")  # never touched where the memory is given


def test_sizes_add_and_compare():
    assert total([Size(1, 2, 3), Size(4, 5, 6)]) == Size(5, 7, 9)
    assert total([]) == Size()
    assert Size(2, 30, 100).relative_to(Size(1, 10, 100)) == 3.0
    assert Size(1, 0, 7).relative_to(Size(1, 0, 0)) == 7.0


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        ({"max_atoms": 5}, [(0, 1), (1, 3), (3, 4)]),
        ({"max_atoms": 100, "max_edges": 55}, [(0, 1), (1, 2), (2, 4)]),
        ({"max_atoms": 100, "max_angles": 1}, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ({"max_atoms": 100}, [(0, 4)]),
    ],
)
def test_parts_keep_the_limits_and_one_always_goes(limits, parts):
    sizes = [Size(9, 50, 9), Size(2, 50, 9), Size(3, 30, 9), Size(5, 20, 9)]
    assert Budget(**limits).parts(sizes, CPU) == parts
    assert Budget(**limits).parts([], CPU) == []


def test_one_measurement_bounds_all_others():
    """For any bytes per atom, edge and angle, what is allowed does fit."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        costs = torch.rand(3, generator=generator).tolist()

        def used(size: Size, costs: list[float] = costs) -> float:
            return 1e4 * (costs[0] * size.atoms + costs[1] * size.edges + costs[2] * size.angles)

        budget = Budget("auto", memory=10**9, fraction=0.5)
        first = Size(10, 100, 1000)
        budget.learn(first, int(used(first)))
        sizes = torch.randint(1, 2000, (20, 3), generator=generator).tolist()
        for size in (Size(*row) for row in sizes):
            if size.relative_to(first) <= 4 and budget.fits(size, GPU):
                assert used(size) <= budget.bytes_for(size) * (1 + 1e-9) <= 0.5e9 * (1 + 1e-9)


def test_auto_starts_small_and_grows_by_what_it_learns():
    budget = Budget("auto", memory=10**9, fraction=0.5)
    assert budget.fits(Size(256), GPU) and not budget.fits(Size(257), GPU)
    budget.learn(Size(256, 1000, 1000), 10_000_000)
    assert budget.fits(Size(1024, 4000, 4000), GPU)
    assert not budget.fits(Size(1025, 4000, 4000), GPU)  # more than four times what is known
    budget.learn(Size(1024, 4000, 4000), 300_000_000)
    assert budget.fits(Size(1500, 6000, 6000), GPU)
    assert not budget.fits(Size(100_000, 6000, 6000), GPU)
    assert not budget.fits(Size(1024, 4000, 9000), GPU)  # the first measurement was 7.5 times too low
    budget = Budget("auto", memory=10**12)
    for atoms in (256, 1024, 4096):
        budget.learn(Size(atoms), 10 * atoms)
    assert budget.fits(Size(CPU_ATOMS), CPU) and not budget.fits(Size(CPU_ATOMS + 1), CPU)


def test_half_of_what_did_not_fit():
    for budget in (Budget("auto", memory=10**12), Budget(max_atoms=1000)):
        budget.shrink(Size(200, 400))
        assert budget.fits(Size(100, 200), GPU)
        assert not budget.fits(Size(101, 200), GPU) and not budget.fits(Size(50, 201), GPU)


def test_measures_what_autograd_keeps():
    weight = torch.ones(1000, 1000, requires_grad=True)

    def evaluate() -> Tensor:
        return (weight.exp() * 2.0).sin().sum()  # exp keeps its output, sin its input: 2 × 4 MB

    budget = Budget("auto", memory=10**9)
    assert budget.bytes_for(Size(10)) == 0
    value = budget.run(Size(10), CPU, evaluate)
    assert value.item() == evaluate().item()
    assert 8e6 <= budget.bytes_for(Size(10)) <= 16e6
    assert budget.bytes_for(Size(30)) == 3 * budget.bytes_for(Size(10))
    calls = []
    budget.run(Size(11), CPU, lambda: calls.append(torch.is_grad_enabled()))  # no news: not measured again
    assert calls == [True] and budget.bytes_for(Size(11)) == pytest.approx(1.1 * budget.bytes_for(Size(10)))
    fixed = Budget(10)
    fixed.run(Size(10), CPU, evaluate)
    assert fixed.bytes_for(Size(10)) == 0


def test_a_net_that_keeps_nothing_still_needs_something():
    budget = Budget("auto", memory=10**6, fraction=1.0)
    budget.run(Size(100, 2000, 10_000), CPU, lambda: None)
    assert budget.bytes_for(Size(100, 2000, 10_000)) > 5e5
    assert not budget.fits(Size(200, 4000, 20_000), CPU)


def test_compiled_nets_are_taken_for_large_ones():
    size = Size(100, 2000, 10_000)
    budget = Budget("auto", memory=10**9)

    def evaluate() -> Tensor:
        weight = torch.ones(3)
        return torch.func.grad(lambda x: x.exp().sum())(weight)  # does not bear the hooks that count

    assert torch.equal(budget.run(size, CPU, evaluate, eager=False), torch.ones(3).exp())
    assert budget.bytes_for(size) == 100 * 20_000 + 2000 * 5_000 + 10_000 * 5_000


def test_what_running_out_of_memory_looks_like():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_a_real_refusal_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "arguments", [{"max_atoms": 0}, {"max_atoms": "all"}, {"max_edges": 0}, {"max_angles": -1}, {"fraction": 0.0}]
)
def test_limits_out_of_range(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Budget(**arguments)


def test_a_budget_stays_what_it_is():
    budget = Budget(7)
    assert Budget.of(budget) is budget
    assert Budget.of("auto").auto and not Budget.of(12).auto
