"""The page about a screening: how many rows passed what, why others did not, the Pareto front, the best."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np

from geomlib.apply.report import write_page
from geomlib.apply.report_parts import Fact, Section, figure_card, table
from geomlib.apply.screen import ScreenResult
from geomlib.apply.vector_graphics import MUTED, SERIES, figure, to_svg

__all__ = ["write_screen_page"]

_BEST = 20
_DRAWN = 3000
_CELL = 40


def write_screen_page(result: ScreenResult, output: str | os.PathLike[str], title: str = "Screening") -> Path:
    """Write the page.

    Args:
        result: of `geomlib.apply.screen.screen`.
        output: HTML file.
        title: of the page.
    """
    share = f"{100 * result.ok / result.rows:.3g} %" if result.rows else ""
    headline = [Fact("rows", f"{result.rows:,}"), Fact("ok", f"{result.ok:,}", below=share)]
    if len(result.fronts):
        headline.append(Fact("first Pareto front", f"{int((result.fronts == 1).sum()):,}"))
    sections = [Section("funnel", "Funnel", figure_card(_funnel(result)))]
    if result.reasons:
        rows = [[reason, f"{count:,}"] for reason, count in list(result.reasons.items())[:30]]
        sections.append(
            Section("rejects", "Why rows are not ok", f'<figure class="card">{table(["", "rows"], rows)}</figure>')
        )
    if len(result.fronts) and len(result.objectives) > 1:
        sections.append(Section("front", "Pareto front", figure_card(_front(result))))
    if result.best is not None and not result.best.name.endswith(".parquet"):
        sections.append(Section("best", "Best molecules", f'<figure class="card">{_best(result.best)}</figure>'))
    return write_page(Path(output), title, f"{result.rows:,} rows", headline, sections)


def _funnel(result: ScreenResult) -> str:
    stages = [*result.funnel(), ("ok", result.ok)]
    with figure(7.4, 0.5 + 0.32 * len(stages)) as (drawing, (axes,)):
        places = np.arange(len(stages))
        counts = [rows for _, rows in stages]
        axes.barh(places, counts, color=SERIES[0], alpha=0.8, height=0.7)
        for place, rows in zip(places.tolist(), counts, strict=True):
            axes.annotate(f"{rows:,}", (rows, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.set_yticks(places, [name for name, _ in stages])
        axes.invert_yaxis()
        axes.set(xlabel="rows that passed", xlim=(0, 1.12 * max(result.rows, 1)))
        axes.grid(axis="y", visible=False)
        return to_svg(drawing, "funnel", "Rows that passed each stage of the screening")


def _front(result: ScreenResult) -> str:
    first, second = result.objectives[:2]
    points = result.points[:, :2]
    inside = result.fronts == 1
    others = np.flatnonzero(~inside)
    shown = others[:: max(1, len(others) // _DRAWN)]
    with figure(5.6, 3.6) as (drawing, (axes,)):
        axes.scatter(points[shown, 0], points[shown, 1], s=7, color=MUTED, alpha=0.35, linewidths=0, label="ok")
        axes.scatter(points[inside, 0], points[inside, 1], s=18, color=SERIES[1], linewidths=0, label="first front")
        axes.set(xlabel=f"{first.column} ({first.direction})", ylabel=f"{second.column} ({second.direction})")
        axes.legend()
        words = f"{second.column} over {first.column} of the molecules that are ok, the first Pareto front set apart"
        return to_svg(drawing, "pareto-front", words)


def _best(path: Path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") if path.name.endswith(".gz") else path.open(encoding="utf-8") as file:
        head, *rows = [row for _, row in zip(range(_BEST + 1), csv.reader(file), strict=False)]
    keep = [index for index, name in enumerate(head) if name != "status"]
    keep.sort(key=lambda index: head[index] != "rank")
    cells = [[row[k] if len(row[k]) <= _CELL else f"{row[k][:_CELL]}…" for k in keep] for row in rows]
    return table([head[k] for k in keep], cells)
