"""The page about a screening: how many rows passed what, why others did not, the Pareto front, the best."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np

from geomlib.apply.report.page import write_page
from geomlib.apply.report.parts import Fact, Section, figure_card, note, table
from geomlib.apply.screen.ranking import Objective
from geomlib.apply.screen.run import ScreenResult
from geomlib.apply.vector_graphics import MUTED, SERIES, figure, to_svg

__all__ = ["write_screen_page"]

_BEST = 20
_DRAWN = 3000
_CELL = 40
_NAMED = 5
_PICTURES = 12
_ACROSS = 4
_SIZE = 200


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
    sections = [Section("plan", "What was done", f'<figure class="card">{table(["", ""], _plan(result))}</figure>')]
    sections += [Section("funnel", "Funnel", figure_card(_funnel(result)))]
    if result.reasons:
        rows = [[reason, f"{count:,}"] for reason, count in list(result.reasons.items())[:30]]
        sections.append(
            Section("rejects", "Why rows are not ok", f'<figure class="card">{table(["", "rows"], rows)}</figure>')
        )
    if len(result.fronts) and len(result.objectives) > 1:
        sections.append(Section("front", "Pareto front", figure_card(_front(result))))
    if result.best is not None and not result.best.name.endswith(".parquet"):
        head, rows = _best(result.best)
        smiles = _smiles_column(result, head)
        body = f'{figure_card(_drawn(head, rows, smiles))}<figure class="card">{_cells(head, rows)}</figure>'
        sections.append(Section("best", "Best molecules", body if rows else note(["No row is ok."])))
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
        axes.set(xlabel=_wish(first), ylabel=_wish(second))
        axes.legend()
        words = f"{second.column} over {first.column} of the molecules that are ok, the first Pareto front set apart"
        return to_svg(drawing, "pareto-front", words)


def _plan(result: ScreenResult) -> list[list[str]]:
    """What of the plan is set, in words of the command line."""
    plan = result.plan
    rows = {
        "input": (str(result.source),),
        "standardize": plan.standardize,
        "properties": plan.rules.properties,
        "preset": plan.presets,
        "keep": plan.keep,
        "include": plan.include,
        "exclude": plan.exclude,
        "alerts": plan.alerts,
        "reference": plan.references[:_NAMED] + ((f"{len(plan.references)} in all",) if plan.references else ()),
        "model": tuple(name for group in plan.models for name in group),
        "objective": tuple(map(_wish, plan.objectives)),
        "longest SMILES": (f"{plan.max_length:,} characters",),
    }
    return [[name, "; ".join(values)] for name, values in rows.items() if values]


def _wish(objective: Objective) -> str:
    ends = [f"{end:g}" for end in (objective.low, objective.high) if end is not None]
    weight = "" if objective.weight == 1.0 else f", weight {objective.weight:g}"
    return f"{objective.column} ({objective.direction}{' ' if ends else ''}{' to '.join(ends)}{weight})"


def _best(path: Path) -> tuple[list[str], list[list[str]]]:
    """Head and first rows of the file of the best."""
    with gzip.open(path, "rt", encoding="utf-8") if path.name.endswith(".gz") else path.open(encoding="utf-8") as file:
        head, *rows = [row for _, row in zip(range(_BEST + 1), csv.reader(file), strict=False)]
    return head, rows


def _smiles_column(result: ScreenResult, head: list[str]) -> int:
    """Where what was calculated on stands: the standard form if there is one."""
    name = next((n for n in head if n in ("standard_smiles", "screen_standard_smiles")), "")
    return head.index(name) if result.plan.standardize and name else result.smiles_index


def _drawn(head: list[str], rows: list[list[str]], smiles: int) -> str:
    """Drawings of the best molecules by RDKit, with their ranks."""
    from rdkit import Chem
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DSVG

    shown = rows[:_PICTURES]
    lines = -(-len(shown) // _ACROSS) or 1
    drawer = MolDraw2DSVG(_ACROSS * _SIZE, lines * _SIZE, _SIZE, _SIZE)
    rank = next((k for k, name in enumerate(head) if name in ("screen_rank", "rank")), None)
    molecules = [Chem.MolFromSmiles(row[smiles].strip()) for row in shown]
    legends = [f"rank {row[rank]}" if rank is not None else "" for row in shown]
    drawer.DrawMolecules(molecules, legends=legends)
    drawer.FinishDrawing()
    svg = drawer.GetDrawingText()
    return svg[svg.index("<svg") :].replace("<svg", '<svg role="img" aria-label="Best molecules"', 1)


def _cells(head: list[str], rows: list[list[str]]) -> str:
    keep = [index for index, name in enumerate(head) if name != "status"]
    keep.sort(key=lambda index: head[index] != "rank")
    cells = [[row[k] if len(row[k]) <= _CELL else f"{row[k][:_CELL]}…" for k in keep] for row in rows]
    return table([head[k] for k in keep], cells)
