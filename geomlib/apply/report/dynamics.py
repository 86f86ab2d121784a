"""The part of a report about a simulation."""

from collections.abc import Iterator
from html import escape

import numpy as np
from ase import Atoms

from geomlib.apply.past_simulation import PastSimulation
from geomlib.apply.rdf import radial_distributions
from geomlib.apply.report.parts import Fact, Section, facts, figure_card, note, number
from geomlib.apply.report.plots import deviation_plot, energy_plot, radial_plot, temperature_plot
from geomlib.apply.simulation_log import DynamicsSummary, summarize
from geomlib.errors import DataError

__all__ = ["dynamics_section"]

_FRAMES = 200
_PAIRS = 15


def dynamics_section(simulation: PastSimulation, index: int) -> tuple[Section, Fact | None]:
    """Temperature, energy and radial distribution functions of a simulation.

    Args:
        simulation: what was run.
        index: its number on the page.

    Returns:
        The section, and the drift of the energy for the head of the page where an energy should be conserved.
    """
    missing: list[str] = []
    parts: list[str] = []
    fact = None
    if not simulation.records:
        missing.append(f"{simulation.trajectory.name}.csv is missing, so there are no temperatures and energies.")
    elif simulation.atoms is None:
        missing.append("The number of atoms is unknown without trajectory and state, so energies can't be shown.")
    else:
        summary = summarize(simulation.records, simulation.atoms)
        parts += [facts(list(_facts(simulation, summary))), _courses(simulation, summary, simulation.atoms, index)]
        if summary.drift_meV_per_atom_per_ps is not None:
            below = f"over {summary.time_fs / 1e3:g} ps at {summary.temperature_K:.0f} K"
            fact = Fact("Energy drift, MD", f"{summary.drift_meV_per_atom_per_ps:+.2g}", "meV/atom/ps", below)
    if simulation.has_frames:
        try:
            parts.append(_distributions(simulation.frames(_FRAMES), index))
        except DataError as error:
            missing.append(f"There are no radial distribution functions: {error}.")
    else:
        missing.append(f"{simulation.trajectory.name} is missing, so there are no radial distribution functions.")
    title = f"Dynamics: {simulation.trajectory.name}"
    return Section(f"dynamics-{index}", title, note(missing) + "".join(parts)), fact


def _facts(simulation: PastSimulation, summary: DynamicsSummary) -> Iterator[Fact]:
    settings = simulation.settings
    yield Fact("atoms", f"{simulation.atoms:,}")
    if "ensemble" in settings:
        yield Fact("ensemble", str(settings["ensemble"]))
    if "timestep" in settings:
        yield Fact("time step", f"{settings['timestep']:g}", "fs")
    yield Fact("length", f"{summary.time_fs / 1e3:g}", f"ps, {summary.steps:,} steps")
    yield Fact("temperature", f"{summary.temperature_K:.1f}", "K, second half")
    if summary.pressure_GPa is not None:
        yield Fact("pressure", f"{summary.pressure_GPa:.3g}", "GPa, second half")
    if summary.drift_meV_per_atom is not None:
        yield Fact("drift", f"{summary.drift_meV_per_atom:+.3g}", "meV/atom in all")
    if summary.fluctuation_meV_per_atom is not None:
        yield Fact("fluctuation about it", number(summary.fluctuation_meV_per_atom), "meV/atom")


def _courses(simulation: PastSimulation, summary: DynamicsSummary, atoms: int, index: int) -> str:
    """Temperature and energy against time."""
    columns = {name: np.array([row[name] for row in simulation.records]) for name in simulation.records[0]}
    time = columns["time_fs"] / 1e3
    cards = []
    if "temperature_K" in columns:
        cards.append(figure_card(temperature_plot(time, columns["temperature_K"], str(index))))
    conserved = "conserved_eV" in columns
    source = "conserved_eV" if conserved else "total_eV"
    if source in columns:
        constant_energy = simulation.settings.get("ensemble", "nve") == "nve"
        title = "total energy" if constant_energy or not conserved else "conserved energy"
        energy = 1e3 * (columns[source] - columns[source][0]) / atoms
        cards.append(figure_card(energy_plot(time, energy, str(index), title, summary.drift_meV_per_atom_per_ps)))
    if "max_devi_f" in columns:
        cards.append(figure_card(deviation_plot(time, columns["max_devi_f"], columns["avg_devi_f"], str(index))))
    return f'<div class="grid spaced">{"".join(cards)}</div>'


def _distributions(frames: list[Atoms], index: int) -> str:
    found = [row for row in radial_distributions(frames) if row.values.any()]
    cards = [figure_card(radial_plot(row, str(index))) for row in found[:_PAIRS]]
    words = f"Radial distribution of {len(frames):,} frames, all periodic images counted. "
    words += (
        "g(r) is one where atoms are distributed evenly."
        if found and found[0].periodic
        else "The structure does not fill space, so neighbours are counted: the area under a curve is the mean number "
        "of atoms of the second element around one of the first."
    )
    if len(found) > _PAIRS:
        words += f" The first {_PAIRS} of {len(found)} pairs are shown."
    return f'<div class="grid small spaced">{"".join(cards)}</div><p class="caption">{escape(words)}</p>'
