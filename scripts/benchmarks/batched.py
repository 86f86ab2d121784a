"""Many structures at once beside one after the other: relaxation and molecular dynamics, on one CPU thread.

    python scripts/benchmarks/batched.py [--model model.safetensors] [--torch-sim] [--json]

Evaluates ethanol molecules. Relaxes frames of the embedded data (ethanol, water clusters of 1 to 6 molecules), moved at
random, to 0.05 eV/Å with ASE's optimizers and `Calculator`, and with `relax_batched`. Then constant-energy dynamics of
ethanol, with ASE and with `simulate_batched`. `--torch-sim` adds torch-sim's FIRE and NVE on the same model. Without
`--model`, the quick-start net is trained on all of the embedded data first (2 minutes).
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geomlib.allocator import keep_freed_memory


def trained(folder: Path) -> Path:
    """The quick-start recipe, fitted to all of the embedded data."""
    from geomlib.cli import main as geomlib

    words = ["fit", "-c", "dpa3/quickstart", "--folder", str(folder), "--data.split.split", "all"]
    if code := geomlib([*words, "--trainer.enable_progress_bar", "false"]):
        raise SystemExit(code)
    return folder / "model.safetensors"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Result and CPU seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def frames(count: int) -> list[Any]:
    """Half ethanol, half water clusters of all sizes, displaced by 0.05 Å."""
    from geomlib.data.atoms import to_atoms
    from geomlib.data.cards import CardStore

    store = CardStore("gfn2-molecules")
    half = count // 2
    chosen = [800 + 2 * k for k in range(half)] + [1080 + 100 * (k % 6) + k // 6 for k in range(count - half)]
    found = []
    for position, index in enumerate(chosen):
        atoms = to_atoms(store[index])
        atoms.calc = None
        atoms.rattle(0.05, seed=position)
        found.append(atoms)
    return found


def relaxations(calculator: Any, structures: list[Any], torch_sim: bool) -> dict[str, dict[str, float]]:
    """Rows of the table of relaxations."""
    from geomlib.apply.batched.relax import relax_batched
    from geomlib.apply.relax import RelaxSettings, relax

    rows: dict[str, dict[str, float]] = {}
    for optimizer in ("fire", "lbfgs"):
        settings = RelaxSettings(optimizer=optimizer, fmax=0.05, steps=1000)

        def one_by_one(settings: RelaxSettings = settings) -> list[Any]:
            results = []
            for atoms in structures:
                copy = atoms.copy()
                copy.calc = calculator
                results.append(relax(copy, settings))
            return results

        alone, seconds = timed(one_by_one)
        together, batched = timed(lambda settings=settings: relax_batched(structures, calculator, settings))
        differences = [abs(one.energy - other.energy) for one, other in zip(together, alone, strict=True)]
        for name, results, cpu in ((f"{optimizer}, ASE", alone, seconds), (f"{optimizer}, batched", together, batched)):
            rows[name] = {
                "cpu_s": cpu,
                "steps": sum(result.steps for result in results),
                "converged": sum(result.converged for result in results),
            }
        rows[f"{optimizer}, batched"] |= {
            "speedup": seconds / batched,
            "same_steps": sum(one.steps == other.steps for one, other in zip(together, alone, strict=True)),
            "largest_energy_difference_eV": max(differences),
        }
        if torch_sim and optimizer == "fire":
            rows["fire, torch-sim"] = torch_sim_fire(calculator, structures, alone)
            rows["fire, torch-sim"]["speedup"] = seconds / rows["fire, torch-sim"]["cpu_s"]
    return rows


def torch_sim_fire(calculator: Any, structures: list[Any], alone: list[Any]) -> dict[str, float]:
    """torch-sim's FIRE (in its ASE flavour), all structures in one batch, to the same force."""
    import torch
    import torch_sim

    from geomlib.apply.torchsim import torchsim_model

    model = torchsim_model(calculator)
    state = torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
    how = {"optimizer": torch_sim.optimizers.fire, "max_steps": 1000, "steps_between_swaps": 1}
    converged = torch_sim.generate_force_convergence_fn(force_tol=0.05, include_cell_forces=False)
    final, seconds = timed(lambda: torch_sim.optimize(state, model, convergence_fn=converged, **how))
    forces = final.forces.norm(dim=1)
    largest = forces.new_zeros(final.n_systems).scatter_reduce(0, final.system_idx, forces, "amax")
    energies = final.energy.tolist()
    return {
        "cpu_s": seconds,
        "converged": int((largest < 0.05).sum()),
        "largest_energy_difference_eV": max(
            abs(one - other.energy) for one, other in zip(energies, alone, strict=True)
        ),
    }


def evaluations(calculator: Any, count: int) -> dict[str, dict[str, float]]:
    """Rows of the table of evaluations: ethanol, energies and forces."""
    structures = frames(2 * count)[:count]
    alone, seconds = timed(lambda: calculator.evaluate(structures, max_atoms=1))
    together, batched = timed(lambda: calculator.evaluate(structures, max_atoms="auto"))
    difference = max(abs(one["energy"] - other["energy"]) for one, other in zip(together, alone, strict=True))
    return {
        "evaluate, alone": {"cpu_s": seconds, "steps_per_s": count / seconds},
        "evaluate, auto": {
            "cpu_s": batched,
            "steps_per_s": count / batched,
            "speedup": seconds / batched,
            "largest_energy_difference_eV": difference,
        },
    }


def dynamics(calculator: Any, count: int, steps: int, torch_sim: bool) -> dict[str, dict[str, float]]:
    """Rows of the table of dynamics: ethanol, 0.5 fs."""
    import numpy as np
    from ase import units

    from geomlib.apply.batched.dynamics import simulate_batched
    from geomlib.apply.dynamics import Settings, Simulation

    structures = frames(2 * count)[:count]
    settings = [Settings(timestep=0.5, temperature=300, interval=steps, seed=k) for k in range(count)]

    def one_by_one() -> list[Any]:
        results = []
        for atoms, each in zip(structures, settings, strict=True):
            copy = atoms.copy()
            copy.calc = calculator
            Simulation(copy, each).run(steps)
            results.append(copy)
        return results

    alone, seconds = timed(one_by_one)
    together, batched = timed(lambda: simulate_batched(structures, calculator, settings, steps))
    difference = max(
        float(np.abs(one.atoms.positions - other.positions).max()) for one, other in zip(together, alone, strict=True)
    )
    work = count * steps
    rows = {
        "nve, ASE": {"cpu_s": seconds, "steps_per_s": work / seconds},
        "nve, batched": {
            "cpu_s": batched,
            "steps_per_s": work / batched,
            "speedup": seconds / batched,
            "largest_position_difference_A": difference,
        },
    }
    if torch_sim:
        import torch
        import torch_sim as ts

        from geomlib.apply.torchsim import torchsim_model

        model = torchsim_model(calculator)
        state = ts.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
        init, update = ts.nve(model=model, dt=torch.tensor(0.5 * units.fs), kT=torch.tensor(300 * units.kB))
        # the velocities of ours, so that the trajectories can be compared
        started = [Simulation(atoms.copy(), each).atoms for atoms, each in zip(structures, settings, strict=True)]
        current = init(state, seed=0)
        current.momenta = torch.from_numpy(np.concatenate([atoms.get_momenta() for atoms in started]))

        def run() -> Any:
            moving = current
            for _ in range(steps):
                moving = update(moving)
            return moving

        final, other = timed(run)
        positions = np.concatenate([row.atoms.positions for row in together])
        rows["nve, torch-sim"] = {
            "cpu_s": other,
            "steps_per_s": work / other,
            "speedup": seconds / other,
            "largest_position_difference_A": float(np.abs(final.positions.numpy() - positions).max()),
        }
    return rows


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model file that knows H, C and O")
    parser.add_argument("--structures", type=int, default=60)
    parser.add_argument("--replicas", type=int, default=50, help="ethanol molecules in the dynamics")
    parser.add_argument("--steps", type=int, default=100, help="of the dynamics")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--torch-sim", action="store_true", help="run torch-sim, too (needs torch-sim-atomistic)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args = parser.parse_args()
    keep_freed_memory()  # as the geomlib command does
    import torch

    from geomlib.apply.ase import Calculator

    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="torch_sim")
    with tempfile.TemporaryDirectory() as folder:
        calculator = Calculator(args.model or trained(Path(folder) / "fit"), dtype=args.dtype)
        structures = frames(args.structures)
        calculator.evaluate(structures[:4])  # warm
        rows = evaluations(calculator, 2 * args.replicas)
        rows |= relaxations(calculator, structures, args.torch_sim)
        rows |= dynamics(calculator, args.replicas, args.steps, args.torch_sim)
    if args.json:
        print(json.dumps({"structures": args.structures, "dtype": args.dtype, "rows": rows}))
        return
    atoms = sum(len(each) for each in structures)
    print(f"{len(structures)} relaxations ({atoms} atoms) to 0.05 eV/Å")
    print(f"{args.replicas} ethanol molecules, {args.steps} steps of dynamics; {args.dtype}, {args.threads} thread(s)")
    columns = {
        "CPU s": "cpu_s",
        "speedup": "speedup",
        "steps": "steps",
        "converged": "converged",
        "same steps": "same_steps",
        "steps/s": "steps_per_s",
        "energy diff.": "largest_energy_difference_eV",
        "position diff.": "largest_position_difference_A",
    }
    print(f"{'':<18}" + "".join(f"{title:>15}" for title in columns) + "   (eV, Å)")
    for name, row in rows.items():
        print(f"{name:<18}" + "".join(f"{row[key]:>15.4g}" if key in row else " " * 15 for key in columns.values()))


if __name__ == "__main__":
    main()
