"""The parts that a report is put together from: facts, tables, figures, sections, as HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Fact", "Section", "facts", "figure_card", "note", "number", "table"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and a value.

    Args:
        name: what it is.
        value: as text.
        unit: set small after the value.
        below: a line below it.
    """

    name: str
    value: str
    unit: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading.

    Args:
        id: of the heading, for links.
        title: plain text.
        body: HTML.
    """

    id: str
    title: str
    body: str

    def html(self) -> str:
        """The section as HTML."""
        return f'<section>\n<h2 id="{escape(self.id)}">{escape(self.title)}</h2>\n{self.body}\n</section>\n'


def number(value: float | None) -> str:
    """A number with three significant digits, a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.3g}"
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e6 else text


def facts(rows: Sequence[Fact], headline: bool = False) -> str:
    """Facts as a grid; large ones for the head of the page."""
    if not rows:
        return ""
    cells = []
    for row in rows:
        unit = f" <small>{escape(row.unit)}</small>" if row.unit else ""
        below = f"<span>{escape(row.below)}</span>" if row.below else ""
        cells.append(f"<div><dt>{escape(row.name)}</dt><dd>{escape(row.value)}{unit}</dd>{below}</div>")
    return f'<dl class="facts{" headline" if headline else ""}">{"".join(cells)}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows; a column called `unit` is set as text."""
    kinds = [' class="unit"' if name == "unit" else "" for name in head]
    lines = ["".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in zip(head, kinds, strict=True))]
    for row in rows:
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        cells += [f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        lines.append("".join(cells))
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def figure_card(svg: str, caption: str = "") -> str:
    """A figure with its caption."""
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="card">{svg}{words}</figure>'


def note(sentences: Sequence[str]) -> str:
    """A box with what a reader should know first; nothing if there is nothing."""
    if not sentences:
        return ""
    return f'<div class="note">{"".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)}</div>'
