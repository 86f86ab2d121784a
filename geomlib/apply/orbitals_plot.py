"""Levels and density of states of a molecule as a picture."""

from pathlib import Path

from geomlib.apply.orbitals import HARTREE_EV, OrbitalReport

__all__ = ["plot_levels"]


def plot_levels(report: OrbitalReport, path: str | Path, title: str, width: float) -> Path:
    """Density of states with the levels below it, occupied ones filled; returns the file.

    Args:
        report: orbitals.
        path: picture to write.
        title: above it.
        width: of the Gaussians [eV].
    """
    from matplotlib.figure import Figure

    energies, states = report.density_of_states(width)
    levels = HARTREE_EV * report.energies
    shown = (levels > energies[0]) & (levels < energies[-1])
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    filled = energies <= 0.5 * HARTREE_EV * (report.homo + report.lumo)
    axes.plot(energies, states, color="#1b2027", linewidth=1.2)
    axes.fill_between(energies[filled], states[filled], color="#2f6fb4", alpha=0.35, label="occupied")
    for number in shown.nonzero()[0]:
        color = "#2f6fb4" if number < report.occupied else "#d1622b"
        axes.plot([levels[number]] * 2, [-0.12 * states.max(), -0.02 * states.max()], color=color, linewidth=1.5)
    for name, value in (("HOMO", report.homo), ("LUMO", report.lumo)):
        axes.annotate(
            f"{name} {HARTREE_EV * value:.2f} eV",
            (HARTREE_EV * value, states.max()),
            rotation=90,
            ha="right",
            va="top",
            fontsize=8,
        )
        axes.axvline(HARTREE_EV * value, color="#667080", linewidth=0.6, linestyle=":")
    axes.set(xlabel="energy / eV", ylabel="states / eV", title=title)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=160)
    return Path(path)
