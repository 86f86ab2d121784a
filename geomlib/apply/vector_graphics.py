"""Figures as inline SVG whose colours follow the style sheet of the page that holds them."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "SERIES",
    "density_or_points",
    "figure",
    "hover_titles",
    "plain_log_axis",
    "standalone",
    "to_svg",
]

INK, MUTED, GRID = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{index:02x}" for index in range(1, 8))
"""Stand-ins for the colours of the style sheet; `to_svg` puts its variables in their places."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, start=1)
}
_STYLE: Any = {  # matplotlib types the keys, and other versions know others
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "axes.prop_cycle": rcsetup.cycler(color=list(SERIES)),
}
_MAX_POINTS = 1500


@contextmanager
def figure(width: float, height: float, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with axes side by side, in the style of the page.

    Args:
        width: inches; the page scales it.
        height: inches.
        columns: number of axes.
    """
    with matplotlib.rc_context(_STYLE):
        drawing = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(drawing)
        yield drawing, list(np.atleast_1d(drawing.subplots(1, columns)))


def to_svg(drawing: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        drawing: made inside `figure`.
        name: sets its identifiers apart from those of the other figures of the page.
        description: text for those who can't see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: match.group(0) if match.group(1) in used else "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="@">', text, count=1)
    return text.replace('aria-label="@"', f'aria-label="{_attribute(description)}"', 1).strip()


def standalone(svg: str) -> str:
    """A figure of `to_svg` as a file of its own, in the light colours of the page."""
    style = files("geomlib.apply").joinpath("report.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w-]+): (#\w+)", style[: style.index("@media")]))
    svg = re.sub(r"var\((--[\w-]+)\)", lambda match: light.get(match.group(1), "#000000"), svg)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif"'
    return svg.replace("<svg ", f"<svg {names} ", 1) + "\n"


def hover_titles(svg: str, axes: Axes, xy: NDArray[np.float64], titles: Sequence[str], radius: float = 4.0) -> str:
    """The figure with a text for each point, which a browser shows below the pointer.

    Args:
        svg: of `to_svg`.
        axes: of the figure, as it was drawn.
        xy: points [items, 2].
        titles: of the points.
        radius: within which the pointer is on a point [pt].
    """
    drawing = axes.get_figure(root=True)
    assert drawing is not None
    places = axes.transData.transform(xy) * 72.0 / drawing.dpi
    top = 72.0 * drawing.get_figheight()
    marks = [
        f'<circle cx="{x:.1f}" cy="{top - y:.1f}" r="{radius:g}" fill="transparent"><title>{escape(title)}</title>'
        "</circle>"
        for (x, y), title in zip(places.tolist(), titles, strict=True)
    ]
    return svg.removesuffix("</svg>") + "".join(marks) + "</svg>"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def plain_log_axis(axes: Axes, which: Literal["x", "y", "both"]) -> None:
    """Logarithmic scale with ticks that are written out (0.01, 100) where they are few digits long."""

    def plain(value: float, position: int | None = None) -> str:
        return f"{value:,.6g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")

    for letter in "xy" if which == "both" else which:
        getattr(axes, f"set_{letter}scale")("log")
        axis = getattr(axes, f"{letter}axis")
        low, high = axis.get_view_interval()
        decades = np.log10(high / low)
        subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.3 else (1.0, 2.0, 5.0)
        if decades > 0.7:
            axis.set_major_locator(LogLocator(subs=subs))
        else:
            axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(plain))
        axis.set_minor_formatter(NullFormatter())


def density_or_points(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], limits: tuple[float, float], color: str = SERIES[0]
) -> None:
    """Points, or where they are many the logarithm of their density as a small image.

    Args:
        axes: where to draw.
        x: abscissae.
        y: ordinates.
        limits: of both axes.
        color: of the points.
    """
    if len(x) <= _MAX_POINTS:
        size = 14.0 if len(x) <= 300 else 6.0
        axes.scatter(x, y, s=size, color=color, alpha=0.45, linewidths=0)
        return
    counts, _, _ = np.histogram2d(x, y, bins=160, range=(limits, limits))
    depth = np.log1p(counts.T) / np.log1p(counts.max())
    image = np.zeros((*depth.shape, 4))
    image[..., :3] = (0.24, 0.51, 0.80)  # one hue in both schemes; only its opacity tells the density
    image[..., 3] = np.where(depth > 0, 0.25 + 0.75 * depth, 0.0)
    axes.imshow(image, extent=(*limits, *limits), origin="lower", interpolation="nearest", aspect="equal")
