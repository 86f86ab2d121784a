"""CPU time and peak memory of DPA3 on liquid water: inference (energy, forces, virial) and one training step.

    python scripts/benchmarks/dpa3.py [--json] [--repeats 5] [--threads 1] [--layers 6] [--dtype float32]
                                      [--compile] [--recompute none|angles|layers] [--peer [--peer-python PYTHON]]

The model is the published water example (L6, 128/64/32, dynamic selection) with random weights; the structure is a
frame of 64 molecules (12.4447 Å, 192 atoms) of the deepmd-kit water set where `../shared/data/water_dpmd` is there,
otherwise randomly oriented molecules of the same density. Each mode runs in a process of its own, so that the peak is
its own; CPU time is that of the process, the minimum over the repeats after one warm-up. With `--compile` the peak is
that of the repeats: before them torch compiles, and the first results are compared with eager ones.

`--peer` runs deepmd-kit beside it, in the same run: same frame, same weights (exported to it), same loss and optimizer,
in the interpreter named by `--peer-python` or GEOMLIB_DEEPMD_PYTHON, or in this one if deepmd is importable. Both
sides get the same settings of the C library's allocator, which are printed.

Floating-point operations are those of matrix products, counted by the formulas of torch.utils.flop_counter in an eager
step that is not timed; the arithmetic limit is the time that they would take at the rate of one large float32 matrix
product, timed in the same run.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BOX = 12.4447
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "water_dpmd" / "data_0"
MODES = {"infer": "energy+forces+virial", "train": "training step"}
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_MAX_": "0", "MALLOC_TOP_PAD_": str(2**26)}
"""glibc keeps freed memory, as the geomlib command makes it do: faulting pages in again costs more than arithmetic."""


def water_frame() -> tuple[np.ndarray, np.ndarray, str]:
    """Positions [Å], atomic numbers and where they come from."""
    coordinates = sorted(SHARED.glob("set.*/coord.npy"))
    if coordinates:
        types = np.loadtxt(SHARED / "type.raw", dtype=int)
        numbers = np.array([8, 1])[types]
        return np.load(coordinates[0], allow_pickle=False)[0].reshape(-1, 3).astype(float), numbers, "water_dpmd/data_0"
    rng = np.random.default_rng(0)
    molecule = np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.24, 0.9266, 0.0]])
    grid = (np.indices((4, 4, 4)).reshape(3, -1).T + 0.5) * BOX / 4
    rotations = np.linalg.qr(rng.normal(size=(64, 3, 3)))[0]
    positions = np.concatenate([center + molecule @ rotation for center, rotation in zip(grid, rotations, strict=True)])
    return positions, np.tile([8, 1, 1], 64), "random orientations"


# --- one side, one mode, in a process of its own ---------------------------------------------------------------------


def fresh_net(arguments: argparse.Namespace) -> Any:
    """The geomlib net with its random weights."""
    import torch

    from geomlib.models import DPA3

    torch.manual_seed(0)
    options = {} if arguments.recompute == "none" else {"recompute": arguments.recompute}
    return DPA3(["O", "H"], layers=arguments.layers, precision=arguments.dtype, **options)


Forward = Callable[[], tuple[Any, Any]]


def geomlib_forward(arguments: argparse.Namespace) -> tuple[Any, Forward, Forward, dict[str, int]]:
    """The net, a function that gives energy and forces, the same one eager, and the sizes of the graph."""
    import torch

    from geomlib.data.graph import GraphData
    from geomlib.nn.derivative import Derivatives

    positions, numbers, _ = water_frame()
    net = eager = Derivatives(fresh_net(arguments))
    if arguments.compile:
        from geomlib.nn.compiled import CompiledDerivatives

        net = CompiledDerivatives(eager.net)
    graph = GraphData(
        pos=torch.from_numpy(positions),
        atomic_number=torch.from_numpy(numbers),
        cell=torch.eye(3, dtype=torch.float64)[None] * BOX,
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    net.spec.build(graph)

    def forward(evaluate: Derivatives = net) -> tuple[Any, Any]:
        out = evaluate(graph)
        return out["energy"], out["forces"]

    return (
        net,
        forward,
        lambda: forward(eager.train(net.training)),
        {"edges": graph.num_edges, "angles": int(graph.line_index.shape[1])},
    )


def peer_forward(arguments: argparse.Namespace) -> tuple[Any, Forward, Forward, dict[str, int]]:
    """The same with deepmd-kit, from the exported weights."""
    import deepmd.pt  # noqa: F401 - registers its models
    import torch
    from deepmd.dpmodel.utils.serialization import load_dp_model
    from deepmd.pt.model.model.model import BaseModel

    positions, numbers, _ = water_frame()
    model = BaseModel.deserialize(load_dp_model(str(Path(arguments.folder) / "model.dp"))["model"])
    coordinates = torch.from_numpy(positions)[None]
    types = torch.from_numpy((numbers == 1).astype(int))[None]
    box = (torch.eye(3, dtype=torch.float64) * BOX).reshape(1, 9)

    def forward() -> tuple[Any, Any]:
        out = model(coordinates, types, box=box)
        return out["energy"], out["force"]

    return model, forward, forward, {}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one mode of one side in this process."""
    import torch

    torch.set_num_threads(arguments.threads)
    net, forward, eager, sizes = (geomlib_forward if arguments.side == "geomlib" else peer_forward)(arguments)
    train = arguments.mode == "train"
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    net.train(train)
    net.requires_grad_(train)

    def step(evaluate: Forward = forward) -> None:
        energy, forces = evaluate()
        if train:
            loss = (energy / forces.shape[-2]).square().sum() + forces.square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    start = time.perf_counter()
    energy, forces = forward()
    first = time.perf_counter() - start
    np.savez(
        Path(arguments.folder) / f"{arguments.side}-{arguments.mode}.npz",
        energy=energy.detach().numpy().reshape(-1),
        forces=forces.detach().numpy().reshape(-1, 3),
    )
    del energy, forces
    step()
    if arguments.compile:
        forget_peak()
    times = []
    for _ in range(arguments.repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    peak = peak_memory() if arguments.compile else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if arguments.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25), file=sys.stderr)
    operations = count_operations(lambda: step(eager))
    return {"cpu_s": min(times), "peak_gib": peak, "first_s": first, "flops": operations, **sizes}


def forget_peak() -> None:
    """Hand freed memory back and let the system's count of the peak begin again."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """The peak since `forget_peak` [GiB]."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def count_operations(step: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products of a step, by the formulas of torch.utils.flop_counter.

    Its FlopCounterMode itself also follows modules, which fails with the forces of deepmd-kit.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    formulas = dict(flop_registry)
    for name in ("addmm", "baddbmm"):
        formulas[getattr(torch.ops.aten, f"{name}_")] = formulas[getattr(torch.ops.aten, name)]
    total = 0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            out = function(*args, **(kwargs or {}))
            formula = formulas.get(function._overloadpacket)
            if formula is not None:
                total += formula(*args, **(kwargs or {}), out_val=out)
            return out

    with Counter():
        step()
    return total


def measure_rate(arguments: argparse.Namespace) -> dict[str, float]:
    """Operations per second [1e9] of one large float32 matrix product."""
    import torch

    torch.set_num_threads(arguments.threads)
    size = 3072
    a, b = torch.rand(size, size), torch.rand(size, size)
    out = a @ b
    times = []
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, b, out=out)
        times.append(time.process_time() - start)
    return {"gflops": 2e-9 * size**3 / min(times)}


# --- all of them -----------------------------------------------------------------------------------------------------


def run_child(python: str, arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    threads = str(arguments.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, threads), **({} if arguments.plain_malloc else ALLOCATOR)}
    command = [python, __file__, *arguments.given, *options]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if python == sys.executable else subprocess.PIPE,
                         text=True, env=environment, check=False)  # fmt: skip
    if run.returncode:
        if run.stderr:
            print(run.stderr, file=sys.stderr)
        raise SystemExit(f"dpa3.py: {' '.join(options)} failed in {python}")
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def peer_python(arguments: argparse.Namespace) -> str:
    """The interpreter that has deepmd-kit."""
    named = arguments.peer_python or os.environ.get("GEOMLIB_DEEPMD_PYTHON")
    if named is None and importlib.util.find_spec("deepmd") is None:
        raise SystemExit(
            "dpa3.py: --peer needs deepmd-kit: name an interpreter that has it by --peer-python or by the environment "
            "variable GEOMLIB_DEEPMD_PYTHON (docs/howto/export-deepmd.md says how to install one)"
        )
    return named or sys.executable


def measure_all(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Every measurement that was asked for."""
    load = os.getloadavg()[0]
    sides = {"geomlib": sys.executable}
    if arguments.peer:
        sides["peer"] = peer_python(arguments)
        export_net(arguments, Path(folder) / "model.dp")
    result: dict[str, Any] = {"gflops": run_child(sys.executable, arguments, "--mode", "rate")["gflops"]}
    rows = {
        (side, mode): run_child(python, arguments, "--mode", mode, "--side", side, "--folder", folder)
        for mode in MODES
        for side, python in sides.items()
    }
    for (side, mode), row in rows.items():
        prefix = f"{mode}_" if side == "geomlib" else f"peer_{mode}_"
        result.update({f"{prefix}{key}": row[key] for key in ("cpu_s", "peak_gib", "first_s")})
        result[f"{prefix}gflop"] = 1e-9 * row["flops"]
        result[f"{prefix}over_limit"] = row["cpu_s"] * result["gflops"] / result[f"{prefix}gflop"]
    if arguments.peer:
        for mode in MODES:
            for key in ("cpu_s", "peak_gib"):
                result[f"{mode}_{key}_ratio"] = result[f"{mode}_{key}"] / result[f"peer_{mode}_{key}"]
        found, expected = (np.load(Path(folder) / f"{side}-infer.npz") for side in sides)
        result["energy_difference"] = float(np.abs(found["energy"] - expected["energy"]).max())
        result["forces_difference"] = float(np.abs(found["forces"] - expected["forces"]).max())
        result["forces_largest"] = float(np.abs(expected["forces"]).max())
    row = rows["geomlib", "infer"]
    result.update(edges=row["edges"], angles=row["angles"], load_average=[load, os.getloadavg()[0]])
    result["allocator"] = {} if arguments.plain_malloc else ALLOCATOR
    return result


def export_net(arguments: argparse.Namespace, file: Path) -> None:
    """Write the net's weights for deepmd-kit."""
    from geomlib.files.deepmd_export import export_deepmd

    export_deepmd(fresh_net(arguments), file)


def table(arguments: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """The results as lines of text."""
    how = f"{'compiled' if arguments.compile else 'eager'}, recompute {arguments.recompute}"
    settings = " ".join(f"{name}={value}" for name, value in result["allocator"].items()) or "as it is"
    lines = [
        f"{water_frame()[2]}: 192 atoms, {result['edges']} edges, {result['angles']} angles; L{arguments.layers} "
        f"{arguments.dtype}, {arguments.threads} thread(s), {how}",
        f"allocator: {settings}",
        f"one large float32 matrix product: {result['gflops']:.0f} GFLOP/s; "
        f"load average {result['load_average'][0]:.1f} before, {result['load_average'][1]:.1f} after",
        f"{'':34s}{'CPU s':>8s}{'peak GiB':>10s}{'GFLOP':>8s}{'× limit':>9s}",
    ]
    sides = {"": "geomlib", "peer_": "deepmd-kit"} if arguments.peer else {"": "geomlib"}
    for mode, label in MODES.items():
        for prefix, side in sides.items():
            numbers = [result[f"{prefix}{mode}_{key}"] for key in ("cpu_s", "peak_gib", "gflop", "over_limit")]
            lines.append(f"{label:23s}{side:11s}{numbers[0]:8.2f}{numbers[1]:10.2f}{numbers[2]:8.1f}{numbers[3]:9.1f}")
        if arguments.peer:
            ratios = [result[f"{mode}_{key}_ratio"] for key in ("cpu_s", "peak_gib")]
            lines.append(f"{label:23s}{'ratio':11s}{ratios[0]:8.2f}{ratios[1]:10.2f}")
    if arguments.compile:
        lines.append(f"first call: {result['infer_first_s']:.0f} s, in training {result['train_first_s']:.0f} s")
    if arguments.peer:
        lines.append(
            f"same weights: energies differ by {result['energy_difference']:.1e} eV, forces by at most "
            f"{result['forces_difference']:.1e} eV/Å of {result['forces_largest']:.1e}"
        )
    return lines


def main() -> None:
    """Measure both modes and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--compile", action="store_true", help="geomlib's compiled path")
    parser.add_argument("--recompute", default="none", choices=["none", "angles", "layers"], help="of geomlib's net")
    parser.add_argument("--peer", action="store_true", help="run deepmd-kit too and print ratios")
    parser.add_argument("--peer-python", help="interpreter with deepmd-kit; GEOMLIB_DEEPMD_PYTHON if not given")
    parser.add_argument("--plain-malloc", action="store_true", help="leave the allocator as it is")
    parser.add_argument("--profile", action="store_true", help="print the operators that take the time")
    parser.add_argument("--mode", choices=[*MODES, "rate"], help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=["geomlib", "peer"], default="geomlib", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(measure_rate(arguments) if arguments.mode == "rate" else measure(arguments)))
        return
    if arguments.compile and importlib.util.find_spec("geomlib.nn.compiled") is None:
        raise SystemExit("dpa3.py: --compile: this geomlib has no compiled path")
    arguments.given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        result = measure_all(arguments, folder)
    print(json.dumps(result) if arguments.json else "\n".join(table(arguments, result)))


if __name__ == "__main__":
    main()
