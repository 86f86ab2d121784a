"""`geomlib md`: molecular dynamics."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from geomlib.commands.potential import add_model_arguments, make_calculator, model_words, stem, structure_help
from geomlib.commands.progress import ProgressLine
from geomlib.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

    from geomlib.apply.dynamics import Settings, Simulation
    from geomlib.apply.selection import FrameSelection
    from geomlib.apply.simulation_log import DynamicsSummary

__all__ = ["configure", "run"]

_ENSEMBLES = ("nve", "langevin", "nose-hoover", "bussi", "npt", "npt-full")

_EPILOG = """
examples:
  geomlib md model.safetensors water.xyz --steps 10000                          constant energy, from 300 K
  geomlib md model.safetensors water.xyz --ensemble langevin -T 350             constant temperature
  geomlib md model.safetensors cu.vasp --ensemble npt -T 600 --pressure 1       and pressure [GPa]
  geomlib md model.safetensors --resume --output water-md.extxyz --steps 20000  go on, up to step 20000
  geomlib md committee.json water.xyz --stop-if-deviation 0.5 --select label.extxyz  watch a committee

Beside the trajectory stand a log, <trajectory>.csv, and what --resume needs, <trajectory>.state.npz.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib md`."""
    add_model_arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument("structure", metavar="STRUCTURE", nargs="?", help=f"{structure_help}; not with --resume")
    parser.add_argument("--output", "-o", metavar="FILE", help="trajectory, .extxyz or .traj (<structure>-md.extxyz)")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="number of the last step (1000)")
    parser.add_argument("--ensemble", choices=_ENSEMBLES, help="npt keeps the shape of the cell (nve)")
    parser.add_argument("--timestep", type=float, metavar="FS", help="fs (0.5 with hydrogen, else 1)")
    parser.add_argument("--temperature", "-T", type=float, metavar="K", help="K (300)")
    parser.add_argument("--pressure", type=float, metavar="GPA", help="of npt and npt-full, GPa (0)")
    parser.add_argument("--damping", type=float, metavar="FS", help="time constant of the thermostat, fs (100 steps)")
    parser.add_argument(
        "--pressure-damping", type=float, metavar="FS", help="time constant of the barostat, fs (1000 steps)"
    )
    parser.add_argument("--interval", type=int, metavar="N", help="steps between frames (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="of velocities and random thermostats (0)")
    parser.add_argument("--new-velocities", action="store_true", help="draw velocities even if the structure has some")
    parser.add_argument("--resume", action="store_true", help="go on from the state beside --output")
    group = parser.add_argument_group("with a committee (committee.json, or --committee)")
    group.add_argument(
        "--stop-if-deviation", type=float, metavar="F", help="end when members differ by more about a force, eV/Å"
    )
    group.add_argument("--select", metavar="FILE", help="write frames for labelling here (.extxyz)")
    group.add_argument(
        "--select-between",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="those whose largest deviation of a force is between these, eV/Å (0.05 0.3)",
    )
    group.add_argument("--select-spacing", type=float, metavar="FS", help="and that are so far apart, fs (50)")
    group.add_argument("--select-max", type=int, metavar="N", help="and not more than N")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib md`."""
    selection = _selection(args)
    simulation = _resumed(args) if args.resume else _started(args)
    first, atoms = simulation.step, len(simulation.atoms)
    settings = simulation.settings
    if not args.json:
        begin = f"resumed at step {first:,}" if args.resume else f"{settings.temperature:g} K at the start"
        print(
            f"{simulation.atoms.get_chemical_formula()}, {atoms} atoms: {settings.ensemble}, "
            f"{settings.timestep:g} fs, {args.steps:,} steps ({args.steps * settings.timestep / 1e3:g} ps), {begin}"
        )
    line = ProgressLine(args.steps, "step")
    start: list[float] = []

    def progress(record: Mapping[str, float]) -> None:
        text = f"T {record['temperature_K']:.0f} K, E {record['potential_eV']:.3f} eV"
        if "conserved_eV" in record:
            if not start:
                start.append(record["conserved_eV"])
            text += f", drift {1e3 * (record['conserved_eV'] - start[0]) / atoms:+.3f} meV/atom"
        if "pressure_GPa" in record:
            text += f", P {record['pressure_GPa']:.2f} GPa"
        if "max_devi_f" in record:
            text += f", deviation {record['max_devi_f']:.3f} eV/Å"
        if selection is not None:
            text += f", {selection.count} selected"
        line.update(int(record["step"]), text)

    try:
        summary = simulation.run(args.steps, progress, args.stop_if_deviation, selection)
    finally:
        line.close()
    if args.json:
        print(json.dumps({"settings": asdict(settings), **asdict(summary)}))
    else:
        print("\n".join(_report(args, summary, settings)))
    return 0


def _selection(args: argparse.Namespace) -> "FrameSelection | None":
    from geomlib.apply.selection import FrameSelection, SelectionRule

    names = {"select_between": "between", "select_spacing": "spacing", "select_max": "most"}
    given = {word: getattr(args, name) for name, word in names.items() if getattr(args, name) is not None}
    if args.select is None:
        if given:
            option = next(name for name, word in names.items() if word in given).replace("_", "-")
            raise ConfigError(f"--{option} needs --select, the file for the frames")
        return None
    if "between" in given:
        given["low"], given["high"] = given.pop("between")
    return FrameSelection(args.select, SelectionRule(**given))


def _started(args: argparse.Namespace) -> "Simulation":
    from geomlib.apply.dynamics import Settings, Simulation
    from geomlib.apply.structures import read_structure

    if args.structure is None:
        raise ConfigError("md needs a STRUCTURE, or --resume with --output")
    atoms = read_structure(args.structure)
    if args.new_velocities:
        atoms.set_momenta(0.0 * atoms.positions)
    given = {"timestep": _default_timestep(atoms), **_given(args)}
    atoms.calc = make_calculator(args)
    return Simulation(atoms, Settings(**given), args.output or f"{stem(args.structure)}-md.extxyz")


def _default_timestep(atoms: "Atoms") -> float:
    return 0.5 if 1 in atoms.numbers else 1.0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed."""
    names = ("ensemble", "timestep", "temperature", "pressure", "damping", "pressure_damping", "interval", "seed")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _resumed(args: argparse.Namespace) -> "Simulation":
    from geomlib.apply.dynamics import Simulation

    if args.output is None and args.structure is None:
        raise ConfigError("--resume needs --output, the trajectory to go on with")
    output = args.output or f"{stem(args.structure)}-md.extxyz"
    simulation = Simulation.resume(output, make_calculator(args))
    saved = asdict(simulation.settings)
    for name, value in _given(args).items():
        if value != saved[name]:
            raise ConfigError(
                f"{output}: this simulation has {name.replace('_', ' ')} {saved[name]}, not {value}; leave the option "
                f"out, or begin another simulation from the last frame: geomlib md {args.model} {output}@-1"
            )
    return simulation


def _report(args: argparse.Namespace, summary: "DynamicsSummary", settings: "Settings") -> list[str]:
    lines = [f"temperature (second half)  {summary.temperature_K:.1f} K"]
    if summary.pressure_GPa is not None:
        lines.append(f"pressure (second half)     {summary.pressure_GPa:.3f} GPa")
    if summary.drift_meV_per_atom is not None and summary.drift_meV_per_atom_per_ps is not None:
        what = "energy drift" if settings.ensemble == "nve" else "drift of the conserved energy"
        lines.append(
            f"{what:<26} {summary.drift_meV_per_atom:+.3g} meV/atom in {summary.time_fs / 1e3:g} ps "
            f"({summary.drift_meV_per_atom_per_ps:+.3g} meV/atom/ps, fluctuation "
            f"{summary.fluctuation_meV_per_atom:.3g} meV/atom)"
        )
    if summary.seconds_per_step:
        per_day = 86400 / summary.seconds_per_step * settings.timestep / 1e6
        lines.append(f"speed                      {1e3 * summary.seconds_per_step:.1f} ms/step, {per_day:.2f} ns/day")
    if summary.max_deviation is not None:
        lines.append(f"largest force deviation    {summary.max_deviation:.3f} eV/Å")
    if summary.selected is not None:
        lines.append(f"selected for labelling     {summary.selected} frames in {args.select}")
    if summary.stopped_at_deviation is not None:
        lines.append(
            f"stopped at step {summary.steps:,} of {args.steps:,}: the members differ by "
            f"{summary.stopped_at_deviation:.3f} eV/Å about the force on an atom, more than {args.stop_if_deviation:g}"
        )
    lines.append(f"wrote {summary.trajectory}, {summary.log}, {summary.state}")
    steps = args.steps if summary.stopped_at_deviation is not None else 2 * summary.steps
    lines.append(
        f"next: geomlib report {summary.trajectory}   or go on: geomlib md {model_words(args)} --resume "
        f"--output {summary.trajectory} --steps {steps}"
    )
    return lines
