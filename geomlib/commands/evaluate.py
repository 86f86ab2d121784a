"""`geomlib evaluate`: errors of a model file on labelled structures."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomlib.commands.potential import add_model_arguments, atoms_in_a_batch, make_calculator, model_words
from geomlib.commands.progress import ProgressLine
from geomlib.commands.properties import add_table_arguments, evaluate_table, is_table
from geomlib.errors import ConfigError, DataError, FileFormatError

if TYPE_CHECKING:
    from geomlib.apply.calibration import Calibration
    from geomlib.apply.evaluate import Evaluation
    from geomlib.data.stores import Store

__all__ = ["configure", "run"]

_EPILOG = """
DATA is an extended XYZ file, an ASE database, a deepmd system or a folder of them, a flat store, or card:NAME; for a
model of properties a table of molecules (.csv, .csv.gz) with a column for each target.
Labels under other names: --key energy=dft_energy; in other units: --unit energy=kcal/mol.

examples:
  geomlib evaluate model.safetensors test.extxyz
  geomlib evaluate model.safetensors test.extxyz --output predicted.extxyz --json
  geomlib evaluate model.safetensors card:gfn2-molecules --split test
  geomlib evaluate committee.json test.extxyz --report calibration.html
  geomlib evaluate solubility.safetensors measured.csv --smiles SMILES --key logS=solubility --report scores.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib evaluate`."""
    add_model_arguments(parser)
    parser.epilog = _EPILOG
    parser.add_argument("data", metavar="DATA", help="structures, or molecules, with labels")
    parser.add_argument("--output", "-o", metavar="FILE", help="write the structures with predictions here (.extxyz)")
    parser.add_argument("--report", metavar="FILE", help="write figures here (.html): parity, errors, calibration")
    parser.add_argument("--key", action="append", default=[], metavar="FIELD=KEY", help="name of a label in DATA")
    parser.add_argument("--unit", action="append", default=[], metavar="FIELD=UNIT", help="unit of a label in DATA")
    parser.add_argument("--split", metavar="PART", help="of a data set with a card, or of a table, e.g. test")
    parser.add_argument(
        "--max-atoms",
        type=atoms_in_a_batch,
        default=256,
        metavar="N",
        help="atoms in a batch, or auto for what memory and speed allow (256)",
    )
    add_table_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib evaluate`."""
    if is_table(args.data):
        return evaluate_table(args)
    from geomlib.apply.evaluate import Pairs, evaluate
    from geomlib.apply.report.page import write_evaluation

    keys = _pairs(args.key, "--key")
    store = _open(args.data, keys, _pairs(args.unit, "--unit"), args.split)
    line = ProgressLine(len(store), "structure")
    try:
        result = evaluate(make_calculator(args), store, args.max_atoms, args.output, lambda done, _: line.update(done))
    finally:
        line.close()
    for name in keys.keys() & {"energy", "forces", "stress"} - result.errors.keys():
        raise DataError(f"{args.data}: no structure has the label '{keys[name]}' that --key names for '{name}'")
    if args.report is not None:
        write_evaluation(result, args.report, args.data)
    if args.json:
        values = asdict(replace(result, pairs=Pairs()))
        del values["pairs"]
        values["uncertainty"] = _without_nan(values["uncertainty"])
        print(json.dumps({"model": args.model, "data": args.data, "output": args.output, **values}))
    else:
        print("\n".join(_report(args, result)))
    return 0


def _without_nan(value: Any) -> Any:
    """For JSON, which has no NaN: correlations that are not defined as null."""
    if isinstance(value, dict):
        return {name: _without_nan(row) for name, row in value.items()}
    return None if isinstance(value, float) and value != value else value


def _pairs(words: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{option} {word}: expected FIELD=VALUE, e.g. energy=dft_energy")
        pairs[name] = value
    return pairs


def _open(source: str, keys: dict[str, str], units: dict[str, str], split: str | None) -> "Store":
    """Store of `source`; labels that it lacks become NaN."""
    from geomlib.data.cards import AseDbStore, CardStore, DeepmdStore, ExtxyzStore, FlatStore

    if source.startswith("card:"):
        return CardStore(source.removeprefix("card:"), split)
    path = Path(source)
    if split is not None:
        raise ConfigError(f"--split {split}: only data sets with a card (card:NAME) have splits, not {source}")
    if not path.exists():
        raise FileFormatError(f"{path}: there is no such file or folder")
    if path.suffix == ".npz" or (path / "header.json").is_file():
        return FlatStore(path)
    if path.is_dir() or path.suffix in (".h5", ".hdf5"):
        return DeepmdStore(source, fields=(), partial=("energy", "forces", "virial"), units=units)
    store = AseDbStore if path.suffix in (".db", ".json") else ExtxyzStore
    partial = ("pos", "cell", "energy", "forces", "stress", "virial")
    return store(path, keys=keys, units=units, fields=(), partial=partial)


def _report(args: argparse.Namespace, result: "Evaluation") -> list[str]:
    lines = [f"{result.structures:,} structures of {args.data}", ""]
    rows = [(name, errors) for name, errors in result.errors.items()]
    rows += [(f"  on {symbol}", errors) for symbol, errors in result.forces_by_element.items()]
    lines.append(f"{'':<12}{'MAE':>12}{'RMSE':>12}{'spread':>12}  {'unit':<10}{'count':>12}")
    lines += [
        f"{name:<12}{row.mae:>12.4g}{row.rmse:>12.4g}{row.spread:>12.4g}  {row.unit:<10}{row.count:>12,}"
        for name, row in rows
    ]
    lines += ["", "spread: standard deviation of the labels, the RMSE of a model that only knows their mean"]
    if result.uncertainty is not None:
        lines += _uncertainty(result.uncertainty)
    if result.skipped:
        lines.append(f"skipped, {len(result.skipped)} in all:")
        lines += [f"  {where}: {why}" for where, why in result.skipped[:5]]
        if len(result.skipped) > 5:
            lines.append(f"  and {len(result.skipped) - 5} more (all with --json)")
    written = [name for name in (args.output, args.report) if name]
    if written:
        lines.append(f"wrote {', '.join(written)}")
    structure = args.data if Path(args.data).is_file() else "STRUCTURE"
    lines.append(f"next: geomlib md {model_words(args)} {structure}")
    return lines


def _uncertainty(found: "Calibration") -> list[str]:
    """What the deviation of a committee tells about its errors."""
    rows = {"by atom": found.atoms, "by structure, largest": found.frames}
    return [
        "",
        f"{'deviation and error of forces':<32}{'Spearman':>10}{'Pearson':>10}{'count':>12}",
        *(f"  {name:<30}{row.spearman:>10.3f}{row.pearson:>10.3f}{row.count:>12,}" for name, row in rows.items()),
        f"errors are {found.scale:.2f} × the deviation (ideal: 1), and {100 * found.coverage:.0f} % of the force "
        "components lie within one standard deviation (ideal: 68 %)",
    ]
