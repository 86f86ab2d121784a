"""`geomlib evaluate` of models of properties on tables of molecules."""

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from geomlib.errors import ConfigError

if TYPE_CHECKING:
    from geomlib.apply.evaluate_properties import PropertyEvaluation, Score

__all__ = ["add_table_arguments", "evaluate_table", "is_table"]

_NAMES = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "spearman": "Spearman", "auc": "ROC-AUC", "ap": "AP"}


def is_table(source: str) -> bool:
    """Whether a file is a table of molecules by its name."""
    return source.endswith((".csv", ".csv.gz"))


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of tables."""
    group = parser.add_argument_group("tables of molecules (.csv, .csv.gz)")
    group.add_argument("--smiles", nargs="+", metavar="COLUMN", help="SMILES; of a mixture one column a component")
    group.add_argument("--fractions", nargs="+", metavar="COLUMN", help="mole fractions of the components")
    group.add_argument("--temperature", metavar="COLUMN", help="temperature [K]")
    group.add_argument("--split-column", metavar="COLUMN", help="says which rows are --split; train, val or test")
    group.add_argument("--split-file", metavar="FILE", help="table that holds --split-column; DATA if not given")
    group.add_argument(
        "--dropout-samples", type=int, default=0, metavar="N", help="passes with dropout, as a committee"
    )


def evaluate_table(args: argparse.Namespace) -> int:
    """Carry out `geomlib evaluate` on a table."""
    from geomlib.apply.evaluate_properties import evaluate_properties
    from geomlib.apply.predict import Predictor
    from geomlib.apply.report.properties import write_property_evaluation
    from geomlib.data.stores import Store, SubsetStore
    from geomlib.data.table_splits import ColumnSplit
    from geomlib.data.tables import TableStore

    predictor = Predictor([args.model, *args.committee], args.device, args.dtype, dropout_samples=args.dropout_samples)
    names = [target.name for target in predictor.targets]
    columns = dict(pair.partition("=")[::2] for pair in args.key)
    for name in columns:
        if name not in names:
            raise ConfigError(f"--key {name}: the model has the targets {', '.join(names)}")
    table = TableStore(
        args.data,
        smiles=args.smiles or "smiles",
        targets=[columns.get(name, name) for name in names],
        fractions=args.fractions,
        temperature=args.temperature,
        errors="skip",
    )
    store: Store = table
    if args.split is not None:
        parts = ColumnSplit(args.split_column or "split", args.split_file).indices(table)
        if args.split not in parts:
            raise ConfigError(f"--split {args.split}: the column has {', '.join(parts)}")
        store = SubsetStore(table, parts[args.split])
    elif args.split_column or args.split_file:
        raise ConfigError("--split-column and --split-file need --split, e.g. --split test")
    result = evaluate_properties(predictor, store, args.output)
    result.skipped.extend(table.skipped)
    if args.report is not None:
        write_property_evaluation(result, args.report, args.data)
    if args.json:
        print(json.dumps(_values(args, result)))
    else:
        print("\n".join(_lines(args, result)))
    return 0


def _values(args: argparse.Namespace, result: "PropertyEvaluation") -> dict[str, Any]:
    targets = {
        row.target.name: {
            **row.target.to_dict(),
            "count": len(row.label),
            "scores": {name: {k: _number(v) for k, v in asdict(score).items()} for name, score in row.scores.items()},
            "uncertainty": None if row.sharpness is None else {k: _number(v) for k, v in asdict(row.sharpness).items()},
        }
        for row in result.targets
    }
    return {"model": args.model, "data": args.data, "rows": result.rows, "targets": targets, "skipped": result.skipped}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(args: argparse.Namespace, result: "PropertyEvaluation") -> list[str]:
    lines = [f"{result.rows:,} rows of {args.data}; intervals of 95 % by bootstrap", ""]
    for kind, title in (("regression", "regression"), ("binary", "binary")):
        rows = [row for row in result.targets if row.target.kind == kind]
        if not rows:
            continue
        names = list(rows[0].scores)
        head = [title, "unit", "count", *(_NAMES[name] for name in names)]
        cells = [
            [row.target.name, row.target.unit, f"{len(row.label):,}", *(_interval(row.scores[name]) for name in names)]
            for row in rows
        ]
        widths = [max(len(line[k]) for line in [head, *cells]) for k in range(len(head))]
        for line in [head, *cells]:
            pairs = enumerate(zip(line, widths, strict=True))
            lines.append("  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in pairs))
        lines.append("")
    for row in result.targets:
        if any(math.isnan(score.value) for score in row.scores.values()):
            lines.append(f"{row.target.name}: – where labels or predictions are all alike")
        if (found := row.sharpness) is not None:
            lines.append(
                f"{row.target.name}: errors are {found.scale:.2f} × the deviation (ideal: 1), "
                f"{100 * found.coverage:.0f} % lie within it (ideal: 68 %), Spearman of both {found.spearman:.2f}"
            )
    if result.skipped:
        lines.append(f"skipped, {len(result.skipped)} in all:")
        lines += [f"  {where}: {why}" for where, why in result.skipped[:5]]
        if len(result.skipped) > 5:
            lines.append(f"  and {len(result.skipped) - 5} more (all with --json)")
    written = [name for name in (args.output, args.report) if name]
    if written:
        lines.append(f"wrote {', '.join(written)}")
    return lines


def _interval(score: "Score") -> str:
    if math.isnan(score.value):
        return "–"
    return f"{score.value:.3g} [{score.low:.3g}, {score.high:.3g}]"
