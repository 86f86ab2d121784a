"""Pages and tables that are made from the code at every build, so that none of them is typed twice."""

import ast
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from sphinx.application import Sphinx

from geomlib.cli import VERBS, actions, command_parser
from geomlib.commands.recipes import find_recipe, recipes
from geomlib.data.cards import Card, find_card, find_cards
from geomlib.data.elements import SYMBOLS
from geomlib.data.fields import FIELDS, LEVELS
from geomlib.models import DPA3
from geomlib.models.dpa3.presets import PRESETS
from geomlib.units import KNOWN_UNITS

ROOT = Path(__file__).resolve().parents[2]
DATA_SETS = ROOT / "datasets"

MODULES = {
    "Data": (
        "geomlib.data.fields",
        "geomlib.data.graph",
        "geomlib.data.atoms",
        "geomlib.data.stores",
        "geomlib.data.extxyz",
        "geomlib.data.asedb",
        "geomlib.data.deepmd",
        "geomlib.data.flat",
        "geomlib.data.cards",
        "geomlib.data.splits",
        "geomlib.data.samplers",
        "geomlib.data.module",
        "geomlib.data.molecules",
        "geomlib.data.tables",
        "geomlib.data.mixtures",
        "geomlib.data.tokens",
        "geomlib.data.merged_tokens",
        "geomlib.data.molecular_tokenizer",
        "geomlib.data.selfies_tokens",
        "geomlib.data.text_module",
        "geomlib.data.hypergraphs",
        "geomlib.data.networks",
        "geomlib.data.hamiltonians",
        "geomlib.data.hamiltonian_databases",
        "geomlib.data.hamiltonian_splits",
        "geomlib.data.theory",
        "geomlib.data.plain_pickle",
        "geomlib.data.orbitals",
        "geomlib.units",
        "geomlib.errors",
    ),
    "Structure and networks": (
        "geomlib.graphs.spec",
        "geomlib.graphs.builder",
        "geomlib.graphs.radius",
        "geomlib.graphs.line",
        "geomlib.graphs.molecule",
        "geomlib.graphs.tokens",
        "geomlib.graphs.spectral",
        "geomlib.graphs.orbitals",
        "geomlib.nn.derivative",
        "geomlib.nn.targets",
        "geomlib.nn.tensor_product.product",
        "geomlib.nn.tensor_product.so2",
        "geomlib.nn.cutoff",
        "geomlib.nn.activation",
        "geomlib.models.base",
        "geomlib.models.dpa3.net",
        "geomlib.models.dpa3.presets",
        "geomlib.models.dpa3.initialization",
        "geomlib.models.property",
        "geomlib.models.mist.net",
        "geomlib.models.mist.encoder",
        "geomlib.models.mist.property",
        "geomlib.models.dmpnn.net",
        "geomlib.models.spe.encoder",
        "geomlib.models.spe.net",
        "geomlib.models.shyre.net",
        "geomlib.models.shyre.calibration",
        "geomlib.models.sphnet.net",
        "geomlib.models.sphnet.qhnet",
        "geomlib.models.sphnet.so2net",
    ),
    "Files": (
        "geomlib.files.modelfile",
        "geomlib.files.manifest",
        "geomlib.files.checkpoint",
        "geomlib.files.deepmd",
    ),
    "Training": (
        "geomlib.tasks.terms",
        "geomlib.tasks.base",
        "geomlib.tasks.potential",
        "geomlib.tasks.property",
        "geomlib.tasks.language",
        "geomlib.tasks.hyperedges",
        "geomlib.tasks.hamiltonian",
        "geomlib.tasks.hamiltonian_terms",
        "geomlib.training.schedules",
        "geomlib.training.callbacks",
        "geomlib.training.hyperedge_settings",
        "geomlib.training.hyperedge_selection",
    ),
    "Use": (
        "geomlib.apply.ase",
        "geomlib.apply.evaluate",
        "geomlib.apply.relax",
        "geomlib.apply.dynamics",
        "geomlib.apply.integrators",
        "geomlib.apply.eos",
        "geomlib.apply.phonons",
        "geomlib.apply.rdf",
        "geomlib.apply.committee",
        "geomlib.apply.calibration",
        "geomlib.apply.selection",
        "geomlib.apply.pool",
        "geomlib.apply.report",
        "geomlib.apply.predict",
        "geomlib.apply.explain",
        "geomlib.apply.attribution",
        "geomlib.apply.surprise",
        "geomlib.apply.probes",
        "geomlib.apply.hidden_states",
        "geomlib.apply.embedding_map",
        "geomlib.apply.molecule_drawing",
        "geomlib.apply.screen",
        "geomlib.apply.reconstruct",
        "geomlib.apply.hyperedge_baselines",
        "geomlib.apply.hyperedge_mdl",
        "geomlib.apply.marioh",
        "geomlib.apply.orbitals",
        "geomlib.apply.orbitals.ase",
        "geomlib.apply.orbitals.shape",
        "geomlib.apply.hamiltonian_data",
        "geomlib.allocator",
    ),
    "Checks": (
        "geomlib.testing.calculators",
        "geomlib.testing.nets",
        "geomlib.testing.gradients",
        "geomlib.testing.toy",
    ),
}
"""Section of the page on the Python interface → modules that are listed there."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def superscript(unit: str) -> str:
    """A unit as it is printed: eV/Å^3 → eV/Å³."""
    return re.sub(r"\^(\d)", lambda found: "⁰¹²³⁴⁵⁶⁷⁸⁹"[int(found.group(1))], unit).replace("*", "·")


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
            cells.append([f"`{row.name}`", item, row.dtype, superscript(row.unit) or "–", row.kind, row.doc])
        parts += [
            f"## {level.capitalize()} fields",
            "",
            table(["name", "shape", "dtype", "unit", "kind", "meaning"], cells),
            "",
        ]
    return "\n".join(parts)


def header_paragraphs(header: str) -> list[str]:
    """The header of a recipe as Markdown: a line that begins with `Word:` begins a paragraph."""
    paragraphs: list[str] = []
    for line in header.splitlines():
        line = re.sub(r"([\\`*_\[\]<>#])", r"\\\1", line.strip())
        found = re.match(r"([A-Z]\w+):(.*)", line)
        if found:
            paragraphs.append(f"**{found.group(1)}:**{found.group(2)}")
        elif line and paragraphs:
            paragraphs[-1] += f" {line}"
        elif line:
            paragraphs.append(line)
    return paragraphs


def recipe_table() -> str:
    """Recipes and parts, with their headers."""
    rows = recipes()
    whole = [row for row in rows if not row.name.startswith("_parts")]
    parts = ["## Parts", "", "Merged on top of a recipe with a further `-c`.", ""]
    parts += [table(["part", "what it does"], [[f"`{row.name}`", row.title] for row in rows if row not in whole]), ""]
    headers = []
    for row in whole:
        headers += [f"## {row.name}", "", *(f"{paragraph}\n" for paragraph in header_paragraphs(row.header()))]
    names = [[f"[`{row.name}`](#{row.name.replace('/', '').lower()})", row.title] for row in whole]
    return "\n".join([table(["recipe", "what it learns"], names), "", *headers, *parts])


def card_table() -> str:
    """The data sets that have a card, with what stands on it."""
    cards = [find_card(name) for name, path in sorted(find_cards().items()) if path.is_relative_to(DATA_SETS)]
    rows = [[f"[`{card.name}`](#{card.name})", f"{card.graphs:,}", card.licence, card.title] for card in cards]
    parts = [table(["data set", "graphs", "licence", "what it is"], rows), ""]
    for card in cards:
        units = [[f"`{key}`", f"`{entry['field']}`", superscript(entry["unit"])] for key, entry in card.fields.items()]
        parts += [f"## {card.name}", "", card.description, "", f"**Source:** {card.source}", ""]
        parts += [f"**Cite:** {card.citation}", "", f"**Notes:** {card.notes}", ""]
        parts += [table(["stored key", "field", "unit"], units), ""]
        parts += [table(["split", "train", "val", "test"], _split_sizes(card)), ""]
    return "\n".join(parts)


def _split_sizes(card: Card) -> list[list[str]]:
    splits = card.splits
    named = splits if all(isinstance(value, dict) for value in splits.values()) else {"": splits}
    rows = []
    for number, name in enumerate(named):
        parts = card.parts(card.graphs, name or None)
        label = (f"`{name}`" if name else "") + (" (official)" if number == 0 else "")
        sizes = [f"{len(parts[part]):,}" if part in parts else "–" for part in ("train", "val", "test")]
        rows.append([label.strip(), *sizes])
    return rows


def preset_table() -> str:
    """The published sizes of DPA3 with the number of parameters that they have here."""
    rows = []
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            net = DPA3.from_preset(name, None if "elements" in preset else SYMBOLS[1:])
        count = sum(parameter.numel() for parameter in net.parameters())
        sizes = [str(net.config[key]) for key in ("layers", "node_dim", "edge_dim", "angle_dim")]
        rows.append([f"`{name}`", *sizes, str(len(net.elements)), f"{count:,}"])
    return table(["preset", "layers", "node width", "edge width", "angle width", "elements", "parameters"], rows)


def unit_table() -> str:
    """The units that can be written, with their value in internal units and their dimension."""
    rows = []
    for name, (value, dimension) in KNOWN_UNITS.items():
        powers = " · ".join(base if power == 1 else f"{base}^{power}^" for base, power in dimension.items())
        rows.append([f"`{name}`", f"{value:.10g}", re.sub(r"\^(-?\d+)\^", r"<sup>\1</sup>", powers) or "none"])
    return table(["unit", "in internal units", "dimension"], rows)


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


def summary(module: str) -> str:
    """First line of a module's docstring, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n", 1)[0].split())


def module_list() -> str:
    """Listed modules with what they are for."""
    parts = []
    for section, modules in MODULES.items():
        entries = [f"../_generated/api/{module}" for module in modules]
        rows = [[f"[`{module}`](../_generated/api/{module}.rst)", summary(module)] for module in modules]
        parts += [f"## {section}", "", table(["module", "what it holds"], rows), ""]
        parts += ["```{toctree}", ":hidden:", "", *entries, "```", ""]
    return "\n".join(parts)


def module_pages() -> dict[str, str]:
    """A page for every listed module."""
    return {
        f"api/{module}.rst": f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :members:\n"
        for modules in MODULES.values()
        for module in modules
    }


def write_pages(app: Sphinx) -> None:
    """Write the pages to `docs/_generated`, unless they are there already with the same text."""
    pages = {
        "fields.txt": field_table(),
        "recipes.txt": recipe_table(),
        "quickstart.txt": "\n\n".join(header_paragraphs(find_recipe("dpa3/quickstart").header())[1:]),
        "cards.txt": card_table(),
        "presets.txt": preset_table(),
        "units.txt": unit_table(),
        "commands.txt": command_pages(),
        "api.txt": module_list(),
        **module_pages(),
    }
    root = Path(app.srcdir) / "_generated"
    for stale in set(root.rglob("*.*")) - {root / name for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        file = root / name
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
