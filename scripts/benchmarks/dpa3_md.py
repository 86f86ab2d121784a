"""Speed and energy conservation of ASE dynamics of liquid water with DPA3: eager, compiled and from a compiled file.

    python scripts/benchmarks/dpa3_md.py [MODEL] [--steps 200] [--paths eager compiled pt2] [--threads 1] [--json]

192 atoms (64 molecules, 12.4447 Å, the first frame of `../shared/data/water_dpmd/data_0`, else random orientations),
constant energy from 300 K, 0.5 fs a step. MODEL is a model file; without one a net with random weights (L6, 128/64/32)
is timed, whose dynamics mean nothing. Each path runs in a process of its own. CPU time is that of the process from the
21st step on; before that the code is compiled and compared, which is given apart. The drift is the slope of a straight
line through the total energy.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from dpa3 import BOX, water_frame

PATHS = ("eager", "compiled", "pt2")
WARM = 20


def model_file(arguments: argparse.Namespace, folder: Path) -> Path:
    """The model, or one with random weights."""
    if arguments.model is not None:
        return Path(arguments.model)
    import torch

    import geomlib
    from geomlib.models import DPA3

    torch.manual_seed(0)
    return geomlib.save(DPA3(["O", "H"]), folder / "random.safetensors")


def measure(path: str, model: Path, steps: int, threads: int) -> dict[str, float]:
    """Dynamics in this process."""
    from geomlib.allocator import keep_freed_memory

    keep_freed_memory()
    import torch
    from ase import Atoms, units
    from ase.md.verlet import VelocityVerlet

    from geomlib import Calculator
    from geomlib.apply.dynamics import draw_velocities

    torch.set_num_threads(threads)
    positions, numbers, _ = water_frame()
    atoms = Atoms(numbers, positions, cell=[BOX] * 3, pbc=True)
    start, start_cpu = time.perf_counter(), time.process_time()
    atoms.calc = Calculator(model, compile=path == "compiled")
    atoms.get_potential_energy()
    ready, ready_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.run(WARM)
    times, energies = [], []
    for _ in range(steps):
        before, before_cpu = time.perf_counter(), time.process_time()
        dynamics.run(1)
        times.append((time.perf_counter() - before, time.process_time() - before_cpu))
        energies.append(atoms.get_total_energy())
    wall, cpu = np.array(times).T
    picoseconds = 0.5e-3 * np.arange(steps)
    slope, intercept = np.polyfit(picoseconds, energies, 1) if steps > 1 else (np.nan, np.nan)
    rest = np.array(energies) - slope * picoseconds - intercept
    return {
        "ready_s": ready,
        "ready_cpu_s": ready_cpu,
        "cpu_ms_per_step": 1e3 * float(cpu.mean()),
        "steps_per_cpu_s": 1 / float(cpu.mean()),
        "steps_per_s": 1 / float(wall.mean()),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "drift_mev_per_atom_ps": 1e3 * float(slope) / len(atoms),
        "fluctuation_mev_per_atom": 1e3 * float(rest.std()) / len(atoms),
        "temperature_K": float(atoms.get_temperature()),
    }


def main() -> None:
    """Measure each path in a process of its own and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model file (.safetensors)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", choices=PATHS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, Path(arguments.model), arguments.steps, arguments.threads)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        model = model_file(arguments, Path(folder))
        for path in arguments.paths:
            file = model
            if path == "pt2":
                from geomlib.files.compiled import export_compiled
                from geomlib.files.modelfile import load

                start = time.process_time()
                file = export_compiled(load(model), Path(folder) / "model.pt2")
                export_cpu = time.process_time() - start
            options = ["--one", path, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            command = [sys.executable, __file__, str(file), *options]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows[path] = json.loads(run.stdout.splitlines()[-1])
            if path == "pt2":
                rows[path]["export_cpu_s"] = export_cpu
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{water_frame()[2]}: 192 atoms, NVE, 0.5 fs, {arguments.steps} steps, {arguments.threads} thread(s)")
    print(f"{'':10s}{'CPU ms/step':>12s}{'steps/CPU s':>12s}{'peak GiB':>10s}{'ready s':>9s}{'drift meV/atom/ps':>19s}")
    for path, row in rows.items():
        print(
            f"{path:10s}{row['cpu_ms_per_step']:12.1f}{row['steps_per_cpu_s']:12.2f}{row['peak_gib']:10.2f}"
            f"{row['ready_s']:9.1f}{row['drift_mev_per_atom_ps']:19.3f}"
        )


if __name__ == "__main__":
    main()
