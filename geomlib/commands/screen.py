"""`geomlib screen`: filter, predict and rank the molecules of a file."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomlib.apply.screen.run import ScreenResult

__all__ = ["configure", "run"]

_SPAN = 5.0
"""Seconds over which the rate of rows is taken."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib screen`."""
    parser.epilog = (
        "examples:\n"
        "  geomlib screen molecules.csv screened.csv --preset lipinski --alerts PAINS BRENK\n"
        '  geomlib screen a.smi.gz b.parquet --model m.safetensors --keep "logp<3" --objective "max tpsa" --top 100\n\n'
        "every row comes out again, with a status: ok, or what is wrong; the same command goes on after an interruption"
    )
    parser.add_argument("input", metavar="INPUT", help=".csv, .tsv, .smi, .sdf, each also .gz, or .parquet")
    parser.add_argument("output", metavar="OUTPUT", help=".csv, .csv.gz or .parquet")
    parser.add_argument("--smiles", metavar="COLUMN", help="column of the SMILES (the one that is called so)")
    chemistry = parser.add_argument_group("molecules")
    chemistry.add_argument(
        "--standardize", nargs="+", default=[], metavar="STEP", help="cleanup, fragment, uncharge, tautomer"
    )
    chemistry.add_argument(
        "--properties",
        nargs="*",
        metavar="NAME",
        help="to calculate (MW logP TPSA HBD HBA rotatable_bonds); those that rules need are added",
    )
    chemistry.add_argument("--max-length", type=int, default=5000, metavar="N", help="longest SMILES tried (5000)")
    rules = parser.add_argument_group("what is kept")
    rules.add_argument(
        "--preset", nargs="+", default=[], metavar="NAME", help="lipinski, veber, ghose, egan, rule-of-three"
    )
    rules.add_argument(
        "--keep", nargs="+", default=[], metavar="RULE", help='as "MW<=500", "0<logP<5", "elements in C,H,N,O"'
    )
    rules.add_argument("--include", nargs="+", default=[], metavar="SMARTS", help="substructures that must occur")
    rules.add_argument("--exclude", nargs="+", default=[], metavar="SMARTS", help="substructures that must not occur")
    rules.add_argument("--alerts", nargs="+", default=[], metavar="CATALOG", help="PAINS, BRENK, NIH")
    rules.add_argument(
        "--reference", nargs="+", default=[], metavar="SMILES", help="molecules to be similar to, or a file of them"
    )
    models = parser.add_argument_group("predictions")
    models.add_argument(
        "--model", nargs="+", default=[], metavar="MODEL", help="model files; those of the same targets are a committee"
    )
    models.add_argument("--device", help="of the models (cpu)")
    ranking = parser.add_argument_group("ranking")
    ranking.add_argument(
        "--objective",
        action="append",
        default=[],
        metavar="WISH",
        help='"max NAME [LOW HIGH]", "min NAME [LOW HIGH]" or "in NAME LOW HIGH"; may be given several times',
    )
    ranking.add_argument("--top", type=int, default=0, metavar="N", help="write the N best into OUTPUT-top as well")
    ranking.add_argument("--diverse", type=int, default=0, metavar="N", help="pick N that differ most from one another")
    work = parser.add_argument_group("how it is done")
    work.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1)")
    work.add_argument("--engine", default="local", choices=["local", "ray"], help="ray: Ray Data (local)")
    work.add_argument("--chunk-rows", type=int, default=2000, metavar="N", help="rows that are done at once (2000)")
    work.add_argument("--restart", action="store_true", help="begin anew after an interruption")
    work.add_argument("--report", metavar="FILE", help="HTML page with the funnel and the best molecules")
    work.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib screen`."""
    from geomlib.apply.screen.plan import DEFAULT_PROPERTIES
    from geomlib.apply.screen.ranking import parse_objective
    from geomlib.apply.screen.run import ScreenPlan, screen

    plan = ScreenPlan(
        standardize=tuple(args.standardize),
        properties=DEFAULT_PROPERTIES if args.properties is None else tuple(args.properties),
        presets=tuple(args.preset),
        keep=tuple(args.keep),
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        references=_references(args.reference),
        alerts=tuple(args.alerts),
        models=tuple((name,) for name in args.model),
        device=args.device,
        max_length=args.max_length,
        objectives=tuple(map(parse_objective, args.objective)),
        diverse=args.diverse,
        top=args.top,
    )
    line = _RowLine()
    try:
        result = screen(
            args.input,
            args.output,
            plan,
            smiles=args.smiles,
            workers=args.workers,
            engine=args.engine,
            chunk_rows=args.chunk_rows,
            restart=args.restart,
            progress=line.update,
        )
    finally:
        line.close()
    if args.report:
        from geomlib.apply.screen.page import write_screen_page

        write_screen_page(result, args.report)
    if args.json:
        print(json.dumps(_summary(result, args.report)))
        return 0
    _print(result, args.report)
    return 0


def _references(given: list[str]) -> tuple[str, ...]:
    """SMILES, and those of files."""
    from geomlib.apply.screen.reading import MoleculeFile

    found: list[str] = []
    for text in given:
        if not Path(text).is_file():
            found.append(text)
            continue
        file = MoleculeFile(Path(text))
        found += [cell for row in file.rows() if (cell := row.cells[file.smiles_index].strip())]
    return tuple(found)


class _RowLine:
    """How many rows are done, and how fast; the total is not known, since the file is read only once."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = 1
        self._mark: tuple[float, int] | None = None
        self._rate = ""

    def update(self, rows: int) -> None:
        now = time.monotonic()
        if self._mark is None:
            self._mark = (now, rows)
        elif (seconds := now - self._mark[0]) >= _SPAN:  # of late: rows of an interrupted run are there at once
            self._rate = f", {(rows - self._mark[1]) / seconds:,.0f} a second"
            self._mark = (now, rows)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[Krow {rows:,}{self._rate}")
        elif rows >= self._next:
            sys.stderr.write(f"row {rows:,}{self._rate}\n")
            while self._next <= rows:
                self._next *= 10
        sys.stderr.flush()

    def close(self) -> None:
        if self._terminal and self._mark is not None:
            sys.stderr.write("\n")


def _summary(result: "ScreenResult", report: str | None) -> dict[str, object]:
    return {
        "rows": result.rows,
        "ok": result.ok,
        "funnel": [{"stage": stage, "rows": rows} for stage, rows in result.funnel()],
        "reasons": result.reasons,
        "output": str(result.output),
        "top": None if result.best is None else str(result.best),
        "report": report,
    }


def _print(result: "ScreenResult", report: str | None) -> None:
    for stage, rows in result.funnel():
        print(f"{stage:<16}{rows:>12,}")
    print(f"{'ok':<16}{result.ok:>12,}")
    for reason, count in list(result.reasons.items())[:12]:
        print(f"  {count:>10,}  {reason}")
    if len(result.reasons) > 12:
        print(f"  {sum(list(result.reasons.values())[12:]):>10,}  {len(result.reasons) - 12} other reasons")
    written = [str(result.output), *([str(result.best)] if result.best else []), *([report] if report else [])]
    print(f"wrote {', '.join(written)}")
