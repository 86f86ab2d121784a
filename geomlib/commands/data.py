"""`geomlib data`: the data sets that geomlib knows, and what is in a file."""

import argparse
import json
import sys
from typing import Any

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names and titles of the data sets")
    info = actions.add_parser("info", help="what a data set or a data file holds")
    check = actions.add_parser("check", help="checksums, counts, units, labels, duplicates and splits")
    get = actions.add_parser("get", help="download a data set, or say where it is")
    neighbors = actions.add_parser("neighbors", help="how many neighbours atoms have within a cutoff")
    neighbors.add_argument(
        "--cutoff", type=float, nargs="+", default=[6.0, 4.0], metavar="Å", help="one or several radii (6 4)"
    )
    for action in (info, check, neighbors):
        action.add_argument(
            "source", metavar="NAME_OR_PATH", help="a name of the list, a card, or a data file or folder"
        )
    get.add_argument("source", metavar="NAME", help="a name of the list")
    for action in (listing, info, check, get, neighbors):
        action.add_argument("--json", action="store_true", help="print one JSON value")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib data`."""
    actions = {"list": _list, "info": _info, "check": _check, "get": _get, "neighbors": _neighbors}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from geomlib.data.cards import find_card, find_cards

    rows: list[dict[str, Any]] = []
    for name in find_cards():
        card = find_card(name)
        state = "here" if not card.missing else "sample" if card.sample else "absent"
        rows.append({"name": name, "title": card.title, "graphs": card.graphs, "licence": card.licence, "state": state})
    if args.json:
        print(json.dumps(rows))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['state']:<6}  {row['graphs']:>8}  {row['title']}")
    if not rows:
        print("no data sets; put folders with a card.yaml into a folder and name it in GEOMLIB_DATA")
    return 0


def _card_of(source: str) -> Any:
    """The card called `source`, or None if that is a data file."""
    from pathlib import Path

    from geomlib.data.cards import find_card, find_cards

    path = Path(source)
    if (path / "card.yaml").is_file() or path.suffix in (".yaml", ".yml") or source in find_cards():
        return find_card(source)
    return None


def _info(args: argparse.Namespace) -> int:
    from geomlib.data.checks import summary
    from geomlib.data.sources import open_source

    card = _card_of(args.source)
    facts: dict[str, Any] = {}
    if card is not None:
        facts = {name: getattr(card, name) for name in ("name", "title", "licence", "source", "citation", "notes")}
    store = open_source(args.source)
    facts.update(summary(store))
    if card is not None and card.splits:
        facts["splits"] = {name: len(indices) for name, indices in card.parts(len(store)).items()}
    if args.json:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        if value in ("", [], {}):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}".strip() for key, entry in value.items())
        print(f"{name.replace('_', ' '):<22}{value:.6g}" if isinstance(value, float) else f"{name:<22}{value}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from geomlib.data.checks import Finding, check_card, check_store
    from geomlib.data.sources import open_source
    from geomlib.errors import GeomlibError

    progress = sys.stderr.isatty()
    findings: list[Finding] = []
    try:
        card = _card_of(args.source)
        if card is not None:
            findings += check_card(card, progress)
        else:
            # gaps become NaN, so that all of them are found and not only the first
            store = open_source(args.source, partial="*")
            findings += check_store(store, progress=progress)
    except GeomlibError as error:
        findings.append(Finding("error", "", "", " ".join(str(error).split())))
    errors = sum(finding.severity == "error" for finding in findings)
    if args.json:
        print(json.dumps({"ok": errors == 0, "findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            place = ", ".join(part for part in (finding.place, finding.key) if part)
            print(f"{finding.severity}: {place}{': ' if place else ''}{finding.message}")
        print(f"{args.source}: {errors} errors, {len(findings) - errors} warnings")
    return 1 if errors else 0


def _get(args: argparse.Namespace) -> int:
    from geomlib.data.cards import find_card
    from geomlib.data.download import download

    card = find_card(args.source)
    if card.missing:
        download(card, progress=sys.stderr.isatty())
    places = [str(card.locate(file.path)) for file in card.files]
    print(json.dumps({"name": card.name, "files": places}) if args.json else "\n".join(places))
    return 0


def _neighbors(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from geomlib.commands.progress import ProgressLine
    from geomlib.data.sources import open_source
    from geomlib.graphs.neighbors import count_neighbors

    store = open_source(args.source, fields=())
    line = ProgressLine(len(store), "structure")
    try:
        counts = count_neighbors((store[k] for k in range(len(store))), args.cutoff, lambda done: line.update(done, ""))
    finally:
        line.close()
    rows = [{**asdict(row), "selection": row.selection()} for row in counts]
    if args.json:
        print(json.dumps(rows))
        return 0
    print(f"{'cutoff [Å]':>10}{'mean':>8}{'largest':>9}   for a net with fixed selection")
    for row in rows:
        print(f"{row['cutoff']:>10g}{row['mean']:>8.1f}{row['largest']:>9}   {row['selection']}")
    print(f"shortest distance {counts[0].shortest:.3f} Å")
    return 0
