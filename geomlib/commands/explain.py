"""`geomlib explain`: what a model of molecules looks at, as a page and tables."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from geomlib.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from geomlib.apply.report.interpretability import Coloring
    from geomlib.data.tables import TableStore

__all__ = ["configure", "run"]

_EPILOG = """
parts:
  attribution  contribution of every atom to a predicted property (models of properties)
  surprise     -ln p of every token when it is hidden (language models)
  probes       how well a linear map reads descriptors, or columns of INPUT, from each layer
  map          the molecules on a plane by the net's embedding

examples:
  geomlib explain model.safetensors molecules.csv -o explained
  geomlib explain model.safetensors "CCO" "c1ccccc1O" --parts attribution --method occlusion
  geomlib explain encoder.safetensors molecules.csv --parts probes map --properties logp TPSA --color logp
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib explain`."""
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="model file, checkpoint or committee of a net of molecules")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="a table (.csv, .csv.gz), or SMILES")
    parser.add_argument("--output", "-o", default="explained", metavar="FOLDER", help="for page and tables (explained)")
    parser.add_argument("--smiles", default="smiles", metavar="COLUMN", help="column of the SMILES (smiles)")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="attribution, surprise, probes, map (all that apply)"
    )
    parser.add_argument(
        "--target", nargs="+", default=[], metavar="NAME", help="properties to attribute (the first one)"
    )
    parser.add_argument(
        "--method", default="integrated", help="of the attribution: integrated, gradient or occlusion (integrated)"
    )
    parser.add_argument(
        "--molecules", type=int, default=12, metavar="N", help="first rows with attribution or surprise (12)"
    )
    parser.add_argument(
        "--properties", nargs="+", default=[], metavar="NAME", help="to probe: columns of INPUT or RDKit descriptors"
    )
    parser.add_argument(
        "--color", metavar="NAME", help="of the map: a column of INPUT or an RDKit descriptor (MolLogP)"
    )
    parser.add_argument("--map", default="pca", metavar="METHOD", help="pca, or umap, which needs geomlib[maps] (pca)")
    parser.add_argument("--limit", type=int, default=2000, metavar="N", help="rows to use at most (2000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib explain`."""
    from geomlib.apply.explain import PARTS, explain, write_explanation
    from geomlib.commands.properties import is_table
    from geomlib.data.tables import TableStore

    if args.molecules < 1 or args.limit < 1:
        raise ConfigError(f"--molecules {args.molecules} and --limit {args.limit}: expected at least 1")
    table = None
    if len(args.input) == 1 and is_table(args.input[0]):
        table = TableStore(args.input[0], smiles=args.smiles, errors="skip")
        rows = [text for texts in map(table.smiles_of, range(min(len(table), args.limit))) for text in texts]
    else:
        rows = args.input[: args.limit]
    found = explain(
        args.model,
        rows,
        args.parts or PARTS,
        targets=args.target,
        method=args.method,
        molecules=args.molecules,
        properties={name: _numbers(name, rows, table) for name in args.properties} or None,
        coloring=_coloring(args.color, rows, table) if args.color else None,
        map_method=args.map,
    )
    files = write_explanation(
        found, args.output, Path(args.input[0]).name if table is not None else f"{len(rows)} molecules"
    )
    if args.json:
        print(json.dumps({"files": [str(file) for file in files], "molecules": len(rows), "missing": found.missing}))
    else:
        print("\n".join([*found.missing, f"wrote {', '.join(map(str, files))}"]))
    return 0


def _numbers(name: str, rows: list[str], table: "TableStore | None") -> "NDArray[np.float64]":
    """Values of a column, where the table has it, or of a descriptor."""
    import numpy as np

    from geomlib.apply.probes import described

    words = _column(name, rows, table)
    if words is None:
        return described(rows, [name])[name]
    try:
        return np.array([float(word) if word else np.nan for word in words])
    except ValueError:
        raise ConfigError(f"--properties {name}: column '{name}' holds words; expected numbers") from None


def _column(name: str, rows: list[str], table: "TableStore | None") -> list[str] | None:
    if table is None or name not in table.columns:
        return None
    return table.column(name)[: len(rows)]


def _coloring(name: str, rows: list[str], table: "TableStore | None") -> "Coloring":
    from geomlib.apply.report.interpretability import Coloring

    words = _column(name, rows, table)
    if words is None:
        return Coloring(name, _numbers(name, rows, table))
    try:
        [float(word) for word in words if word]
    except ValueError:
        return Coloring(name, words)
    numbers = _numbers(name, rows, table)
    few = len({word for word in words if word}) <= 3
    return Coloring(name, words) if few else Coloring(name, numbers)
