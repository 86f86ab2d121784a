"""What leaving out paths and pairs saves in SPHNet: time, memory, and the error after equal training.

    python scripts/benchmarks/sparse_hamiltonians.py [--structures ethanol.h5] [--molecules 2] [--channels 128]
        [--sparsity 0.7] [--repeats 5] [--json]
    python scripts/benchmarks/sparse_hamiltonians.py --learn water.h5 [--steps 1500] [--json]

The net has its default sizes and random weights and runs on the first frames of an HDF5 file of matrices
(`HamiltonianStore`; by default `../shared/data/hamiltonian_pyscf/ethanol_train.h5`) in single precision on one thread.
Four nets are compared: dense, without the share `--sparsity` of the paths (which ones is drawn; they are physically
gone), without that share of the pairs, and without both. Timed are a forward and a forward with a backward of the
whole net, and of its four gated products alone with their weights as inputs: CPU seconds of the process, the least of
the repeats, all nets in turn in each repeat so that a busy machine hits all of them. The peak is what a training step
adds to the memory of the process, in a process of its own for each net.

`--learn` trains the net of the recipe `sphnet/water` dense and with paths left out, on the same batches for the same
number of steps (the first tenth explores, the next twentieth competes), and reports errors on the last tenth.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hamiltonian_nets import RECIPE, SHARED, cpu, elements, train
from torch import Tensor

from geomlib.allocator import keep_freed_memory
from geomlib.data.graph import GraphData, collate
from geomlib.data.hamiltonians import HamiltonianStore
from geomlib.models import SPHNet
from geomlib.models.sphnet.compaction import carry_over

NETS = {"dense": (False, False), "paths": (True, False), "pairs": (False, True), "both": (True, True)}


def net_of(name: str, args: argparse.Namespace, symbols: list[str]) -> SPHNet:
    """One of `NETS` with random weights; paths that are left out are gone."""
    paths, pairs = NETS[name]
    torch.manual_seed(0)
    net = SPHNet(
        symbols,
        channels=args.channels,
        delta=False,
        path_sparsity=args.sparsity if paths else 0.0,
        path_steps=[0, 1],
        pair_sparsity=args.sparsity if pairs else 0.0,
    )
    if paths:
        with torch.no_grad():
            for layer in (*net.diagonal, *net.pairs):
                layer.product.schedule.omega.copy_(1.0 + 0.1 * torch.rand(layer.product.schedule.count))
        net.advance(1)
        net.compact()
    return net


def batch_of(net: SPHNet, args: argparse.Namespace) -> GraphData:
    """The molecules."""
    store = HamiltonianStore(args.structures)
    return collate([net.spec.build(store[number]) for number in range(args.molecules)])


def step(net: SPHNet, batch: GraphData) -> None:
    """Forward and backward."""
    net(batch)["hamiltonian"].square().sum().backward()
    net.zero_grad(set_to_none=True)


def products(net: SPHNet, batch: GraphData) -> list[tuple[Any, tuple[Tensor, Tensor, Tensor]]]:
    """The gated products with inputs as they come in the net: what a forward gives them."""
    found: list[tuple[Any, tuple[Tensor, Tensor, Tensor]]] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        x, y, weight, _ = inputs
        found.append((module, tuple(value.detach().clone().requires_grad_() for value in (x, y, weight))))

    hooks = [layer.product.register_forward_pre_hook(keep) for layer in (*net.diagonal, *net.pairs)]
    with torch.no_grad():
        net(batch)
    for hook in hooks:
        hook.remove()
    return found


def multiply(gated: list[tuple[Any, tuple[Tensor, Tensor, Tensor]]], backward: bool) -> None:
    """All gated products."""
    for module, inputs in gated:
        z = module(*inputs, None)
        if backward:
            torch.autograd.grad(z.sum(), inputs)


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Times of all nets, in turn."""
    store = HamiltonianStore(args.structures)
    symbols = elements(store, args.molecules)
    nets = {name: net_of(name, args, symbols) for name in NETS}
    batch = batch_of(nets["dense"], args)
    gated = {name: products(net, batch) for name, net in nets.items()}
    rows: dict[str, dict[str, float]] = {name: {} for name in NETS}
    for _ in range(args.repeats + 1):
        for name, net in nets.items():

            def forward(net: SPHNet = net) -> None:
                with torch.no_grad():
                    net(batch)

            for key, value in (
                ("forward", cpu(forward)),
                ("both", cpu(lambda net=net: step(net, batch))),
                ("products_forward", cpu(lambda name=name: multiply(gated[name], False))),
                ("products_both", cpu(lambda name=name: multiply(gated[name], True))),
            ):
                rows[name][key] = min(rows[name].get(key, float("inf")), value)
    for name, net in nets.items():
        rows[name]["parameters"] = sum(parameter.numel() for parameter in net.parameters())
        rows[name]["paths"] = sum(len(layer.product.paths) for layer in (*net.diagonal, *net.pairs))
        words = [sys.executable, __file__, "--peak", name, "--elements", *symbols]
        for key in ("structures", "molecules", "channels", "sparsity"):
            words += [f"--{key}", str(getattr(args, key))]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows[name]["peak_mib"] = float(done.stdout)
    return rows


def peak(args: argparse.Namespace) -> float:
    """What a training step adds to the peak of the process [MiB]."""
    net = net_of(args.peak, args, args.elements)
    batch = batch_of(net, args)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    Path("/proc/self/clear_refs").write_text("5")  # let the system's count of the peak begin again
    step(net, batch)
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(found.split()[1]) * 1024 - before) / 2**20


def show(rows: dict[str, dict[str, float]], args: argparse.Namespace, atoms: int) -> None:
    """The table."""
    print(f"{args.molecules} molecules, {atoms} atoms, {args.channels} channels, {args.sparsity:.0%} left out")
    columns = ("forward", "both", "products_forward", "products_both")
    print(
        f"{'left out':<10}{'net/ms':>9}{'+backward':>11}{'products/ms':>13}{'+backward':>11}{'MiB':>8}{'params/M':>10}"
    )
    for name, row in rows.items():
        values = [1e3 * row[key] for key in columns]
        label = "nothing" if name == "dense" else name
        print(
            f"{label:<10}{values[0]:>9.0f}{values[1]:>11.0f}{values[2]:>13.1f}{values[3]:>11.1f}"
            f"{row['peak_mib']:>8.0f}{row['parameters'] / 1e6:>10.1f}"
        )
    for name in ("paths", "pairs", "both"):
        ratios = [rows["dense"][key] / rows[name][key] for key in (*columns, "peak_mib")]
        print(
            f"without {name}: net {ratios[0]:.2f} × forward, {ratios[1]:.2f} × with backward; products "
            f"{ratios[2]:.2f} ×, {ratios[3]:.2f} ×; memory of a step {ratios[4]:.2f} ×"
        )


# -------------------------------------------------------------------- learning


def learn(args: argparse.Namespace, sparsity: float) -> dict[str, float]:
    """Errors on the last tenth after training on the first eight tenths."""
    store = HamiltonianStore(args.learn)
    torch.manual_seed(0)
    steps = [args.steps // 10, args.steps // 20]
    options = {"channels": 32, "bottleneck": 16, **RECIPE["sphnet"], "path_sparsity": sparsity, "path_steps": steps}
    net = SPHNet(elements(store, len(store)), **options)

    def choose_paths(number: int, optimizer: torch.optim.Optimizer) -> None:
        net.advance(number)
        if net.can_compact:
            carry_over(optimizer, net.compact())

    error, spent = train(net, store, args.steps, 3e-3, choose_paths)
    kept = sum(len(layer.product.paths) for layer in (*net.diagonal, *net.pairs))
    return {"mae_micro": error, "cpu_s": spent, "paths": kept}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", default=str(SHARED / "ethanol_train.h5"))
    parser.add_argument("--molecules", type=int, default=2)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--learn", metavar="FILE", help="train on water instead")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--peak", choices=list(NETS), help=argparse.SUPPRESS)
    parser.add_argument("--elements", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak(args))
        return
    keep_freed_memory()
    if args.learn:
        rows = {name: learn(args, share) for name, share in (("dense", 0.0), ("paths", args.sparsity))}
        for name, row in rows.items():
            print(f"{name:<8}{row['paths']:>5} paths {row['mae_micro']:>9.1f} µHartree {row['cpu_s']:>8.0f} CPU s")
        print(
            f"error of the sparse one: {rows['paths']['mae_micro'] / rows['dense']['mae_micro']:.2f} of the dense one's"
        )
    else:
        rows = measure(args)
        store = HamiltonianStore(args.structures)
        show(rows, args, sum(len(store[k].atomic_number) for k in range(args.molecules)))
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
