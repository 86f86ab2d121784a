"""Levels and density of states of a molecule as a picture."""

from pathlib import Path

from geomlib.apply.orbitals.fock import HARTREE_EV, OrbitalReport

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
    top = states.max()
    for name, value, side in (("HOMO", report.homo, "right"), ("LUMO", report.lumo, "left")):
        place = HARTREE_EV * value
        axes.plot([place, place], [0.0, 1.22 * top], color="#667080", linewidth=0.8, linestyle=":")
        words = f" {name} {place:.2f} eV ".replace("-", "−")
        axes.annotate(words, (place, 1.16 * top), ha=side, va="center", fontsize=9)
    axes.set(xlabel="energy / eV", ylabel="states / eV", title=title, ylim=(-0.16 * top, 1.32 * top))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0.0 <= tick <= 1.05 * top])
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=160)
    return Path(path)
