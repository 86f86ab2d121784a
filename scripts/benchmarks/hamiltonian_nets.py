"""SPHNet, QHNet and SO2Net with equal channels: error after equal training, and time.

    python scripts/benchmarks/hamiltonian_nets.py [--learn water.h5] [--steps 600] [--rate 3e-3] [--seeds 0]
        [--structures ethanol.h5] [--molecules 2] [--channels 128] [--repeats 5] [--nets sphnet qhnet so2net] [--json]

Both files of matrices are read by `HamiltonianStore`; by default they are `water_train.h5` and `ethanol_train.h5` of
`../shared/data/hamiltonian_pyscf`. All in single precision on one thread, all times CPU seconds of the process.

Trained are the nets with the channels of the recipe `sphnet/water` (32, 16 to blocks) and else default sizes (SPHNet
as the recipe says), on the same batches of the first eight tenths, with the optimizer and the decay of the recipe in
fewer steps; the error is that of the matrices of the last tenth, one for each seed of the initial weights.

Timed are a forward and a forward with a backward of nets with `--channels` channels and random weights on the first
frames of the other file: the least of the repeats, the nets in turn in each repeat, so that a busy machine hits all.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geomlib.allocator import keep_freed_memory
from geomlib.data.graph import GraphData, collate
from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.models import QHNet, SO2Net, SPHNet

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "hamiltonian_pyscf"
NETS: dict[str, Callable[..., Any]] = {"sphnet": SPHNet, "qhnet": QHNet, "so2net": SO2Net}
SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
RECIPE: dict[str, dict[str, Any]] = {"sphnet": {"short_layers": 2, "heads": 4, "vector_functions": 32}}
"""What else the recipe says."""


def cpu(function: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def elements(store: HamiltonianStore, count: int) -> list[str]:
    """Symbols of the first molecules, by atomic number."""
    return [SYMBOLS[z] for z in sorted({int(z) for k in range(count) for z in store[k].atomic_number})]


def parameters(net: nn.Module) -> int:
    """Their number."""
    return sum(parameter.numel() for parameter in net.parameters())


def measure(names: Sequence[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Times of all nets, in turn."""
    store = HamiltonianStore(args.structures)
    nets: dict[str, Any] = {}
    batches: dict[str, GraphData] = {}
    for name in names:
        torch.manual_seed(0)
        net = NETS[name](elements(store, args.molecules), channels=args.channels, delta=False)
        nets[name] = net
        batches[name] = collate([net.spec.build(store[number]) for number in range(args.molecules)])
    rows: dict[str, dict[str, float]] = {name: {} for name in names}
    for _ in range(args.repeats + 1):
        for name, net in nets.items():

            def forward(net: Any = net, batch: GraphData = batches[name]) -> None:
                with torch.no_grad():
                    net(batch)

            def both(net: Any = net, batch: GraphData = batches[name]) -> None:
                net(batch)["hamiltonian"].square().sum().backward()
                net.zero_grad(set_to_none=True)

            for key, value in (("forward_s", cpu(forward)), ("both_s", cpu(both))):
                rows[name][key] = min(rows[name].get(key, float("inf")), value)
    for name, net in nets.items():
        rows[name]["parameters"] = parameters(net)
    return rows


def train(
    net: Any,
    store: HamiltonianStore,
    steps: int,
    rate: float,
    before_step: Callable[[int, torch.optim.Optimizer], None] = lambda number, optimizer: None,
) -> tuple[float, float]:
    """Error [µHartree] on the last tenth after training on the first eight tenths, and the CPU seconds of that."""
    graphs = [net.spec.build(store[number]) for number in range(len(store))]
    train, test = graphs[: 8 * len(graphs) // 10], collate(graphs[9 * len(graphs) // 10 :])
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.003 ** (1 / steps))
    generator = torch.Generator().manual_seed(0)
    begin = time.process_time()
    for number in range(steps):
        before_step(number, optimizer)
        chosen = torch.randperm(len(train), generator=generator)[:8].tolist()
        batch = collate([train[k] for k in chosen])
        error = net(batch)["hamiltonian"] - batch.hamiltonian
        optimizer.zero_grad()
        (error.abs().mean() + error.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    spent = time.process_time() - begin
    with torch.no_grad():
        error = net.eval()(test)["hamiltonian"] - test.hamiltonian
    return 1e6 * float(error.abs().mean()), spent


def learn(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Error and time of a step of a net with the channels of the recipe."""
    store = HamiltonianStore(args.learn)
    torch.manual_seed(seed)
    net = NETS[name](elements(store, len(store)), channels=32, bottleneck=16, **RECIPE.get(name, {}))
    error, spent = train(net, store, args.steps, args.rate)
    return {"mae_micro": error, "step_s": spent / args.steps, "parameters": parameters(net)}


def show(name: str, times: dict[str, float], learnt: list[dict[str, float]]) -> None:
    """A line of the table."""
    errors = ", ".join(f"{row['mae_micro']:.0f}" for row in learnt) or "-"
    step = f"{1e3 * min(row['step_s'] for row in learnt):.0f} ms a step" if learnt else "-"
    small = f"{learnt[0]['parameters'] / 1e6:.2f} M" if learnt else "-"
    print(
        f"{name:<8} learnt: {errors} µHartree, {step}, {small}; {1e3 * times['forward_s']:.0f} ms forward, "
        f"{1e3 * times['both_s']:.0f} ms with backward, {times['parameters'] / 1e6:.1f} M"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", metavar="FILE", default=str(SHARED / "water_train.h5"))
    parser.add_argument("--steps", type=int, default=600, help="of training; 0 trains none")
    parser.add_argument("--rate", type=float, default=3e-3, help="of learning at the beginning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--structures", metavar="FILE", default=str(SHARED / "ethanol_train.h5"))
    parser.add_argument("--molecules", type=int, default=2)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    times = measure(args.nets, args)
    learnt: dict[str, list[dict[str, float]]] = {name: [] for name in args.nets}
    for name in args.nets if args.steps else ():
        learnt[name] = [learn(name, seed, args) for seed in args.seeds]
    for name in args.nets:
        show(name, times[name], learnt[name])
    if args.json:
        print(json.dumps({"times": times, "learnt": learnt}))


if __name__ == "__main__":
    main()
