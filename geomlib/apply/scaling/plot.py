"""Figures of a scaling law."""

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from geomlib.apply.scaling.bayesian import Scaling
from geomlib.apply.vector_graphics import plain_log_axis

__all__ = ["plot"]

_BLUE, _ORANGE, _GREY = "#1f77b4", "#d95f02", "0.45"


def plot(scaling: Scaling, path: str | os.PathLike[str], batch: float | None = None) -> Path:
    """Draw the law; the ending of `path` decides the format.

    Left: loss of the runs against compute, and the frontier with its 95 % band. Middle: best size and data against
    compute. Right: predicted against observed loss.

    Args:
        scaling: what was fitted.
        path: file to write.
        batch: see `Scaling.optimum`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _frontier(left, middle, scaling, batch)
    _parity(right, scaling)
    for axes in (left, middle, right):
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return Path(path)


def _frontier(left: Axes, middle: Axes, scaling: Scaling, batch: float | None) -> None:
    optima = scaling.frontier(batch=batch)
    compute = np.array([row.compute for row in optima])
    runs = scaling.runs
    dots = left.scatter(runs.compute, runs.loss, c=np.log10(runs.parameters), s=14, cmap="viridis", linewidths=0)
    left.figure.colorbar(dots, ax=left, label="log₁₀ parameters", pad=0.01)
    left.plot(compute, [row.loss.mean for row in optima], color=_ORANGE, label="frontier")
    low, high = [row.loss.low for row in optima], [row.loss.high for row in optima]
    left.fill_between(compute, low, high, color=_ORANGE, alpha=0.25, linewidth=0)
    left.set(xscale="log", yscale="log", xlabel="compute C = 6ND [FLOP]", ylabel="loss")
    plain_log_axis(left, "y")
    left.set_title("runs and compute-optimal loss")
    left.axvline(runs.compute.max(), color=_GREY, linewidth=0.8, linestyle=":")
    left.legend(frameon=False)
    for words, color in (("parameters", _BLUE), ("tokens", _ORANGE)):
        bands = [getattr(row, words) for row in optima]
        middle.plot(compute, [band.mean for band in bands], color=color, label=words)
        middle.fill_between(
            compute, [band.low for band in bands], [band.high for band in bands], color=color, alpha=0.25, linewidth=0
        )
    middle.axvline(runs.compute.max(), color=_GREY, linewidth=0.8, linestyle=":", label="largest run")
    middle.set(xscale="log", yscale="log", xlabel="compute C = 6ND [FLOP]", ylabel="best number")
    middle.set_title("what to train")
    middle.legend(frameon=False)


def _parity(axes: Axes, scaling: Scaling) -> None:
    predicted = scaling.law.log_loss(scaling.point.coordinates).exp().numpy()
    observed = scaling.runs.loss
    limits = [0.95 * min(predicted.min(), observed.min()), 1.05 * max(predicted.max(), observed.max())]
    axes.plot(limits, limits, color=_GREY, linewidth=0.8)
    axes.scatter(observed, predicted, s=14, color=_BLUE, alpha=0.6, linewidths=0)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="loss of the run", ylabel="loss of the law")
    plain_log_axis(axes, "both")
    axes.set_title(f"point fit, mean error {scaling.point.agreement['mape_percent']:.2g} %")
