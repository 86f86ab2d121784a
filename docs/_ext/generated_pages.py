"""Pages that are made from the code at every build: field table, recipes, command line, Python interface."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sphinx.application import Sphinx

from geomlib.cli import VERBS, actions, command_parser
from geomlib.commands.recipes import recipes
from geomlib.data.fields import FIELDS, LEVELS
from geomlib.models.dpa3.presets import PRESETS


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def field_table() -> str:
    """Rows of the field table, by level."""
    parts = []
    for level in LEVELS:
        rows = [row for row in FIELDS.values() if row.level == level]
        if not rows:
            continue
        cells = []
        for row in rows:
            item = " × ".join("n" if size is None else str(size) for size in row.shape) or "scalar"
            cells.append([f"`{row.name}`", item, row.dtype, row.unit or "–", row.kind, row.doc])
        parts += [
            f"## {level.capitalize()} fields",
            "",
            table(["name", "shape", "dtype", "unit", "kind", ""], cells),
            "",
        ]
    return "\n".join(parts)


def recipe_table() -> str:
    """Recipes and parts, with their headers."""
    rows = recipes()
    parts = [table(["recipe", "what it is"], [[f"`{row.name}`", row.title] for row in rows]), ""]
    for row in rows:
        if not row.name.startswith("_parts"):
            parts += [f"## {row.name}", "", "```text", row.header(), "```", ""]
    return "\n".join(parts)


def preset_table() -> str:
    """The published sizes of DPA3."""
    defaults = {"layers": 6, "node_dim": 128, "edge_dim": 64, "angle_dim": 32}
    rows = []
    for name, preset in PRESETS.items():
        size = {**defaults, **preset}
        rows.append([f"`{name}`", *(str(size[key]) for key in defaults)])
    return table(["preset", "layers", "node width", "edge width", "angle width"], rows)


def command_pages() -> str:
    """Help text of every verb."""
    os.environ["COLUMNS"] = "100"
    parts = []
    for name in VERBS:
        parser = command_parser(name)
        parts += [f"## geomlib {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
        for action, child in actions(parser).items():
            parts += [f"### geomlib {name} {action}", "", "```text", child.format_help().rstrip(), "```", ""]
    return "\n".join(parts)


def module_pages(folder: Path) -> dict[str, str]:
    """A page for every module that the page on the Python interface lists."""
    listed = re.findall(
        r"_generated/(api/(geomlib\.\S+))", (folder / "reference" / "api.md").read_text(encoding="utf-8")
    )
    return {
        f"{name}.rst": f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :members:\n"
        for name, module in listed
    }


def write_pages(app: Sphinx) -> None:
    """Write the pages to `docs/_generated`, unless they are there already with the same text."""
    pages = {
        "fields.txt": field_table(),
        "recipes.txt": recipe_table(),
        "presets.txt": preset_table(),
        "commands.txt": command_pages(),
        **module_pages(Path(app.srcdir)),
    }
    for name, text in pages.items():
        file = Path(app.srcdir) / "_generated" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def tidy_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn the sections of geomlib's docstrings that stand on one line into what reStructuredText understands."""
    text = "\n".join(lines)
    text = re.sub(r"\|", r"\\|", text)
    text = re.sub(r"(`[^`\n]+`)(?=\w)", r"\1\\ ", text)
    text = re.sub(r"^Returns: (.+(?:\n    .+)*)", r"\nReturns:\n    \1\n", text, flags=re.MULTILINE)

    def paragraph(found: re.Match[str]) -> str:
        return f"\n**{found.group(1)}:** {' '.join(found.group(2).split())}\n"

    titles = r"^(Inputs|Source|Properties)(?: \(batch fields\))?: (.+(?:\n(?:    )?\S.*)*?)(?=\n\S+:|\n\n|\s*\Z)"
    text = re.sub(titles, paragraph, text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
