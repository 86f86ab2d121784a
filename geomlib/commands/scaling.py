"""`geomlib scaling`: the scaling law of finished runs, and what to train with more compute."""

import argparse
import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from geomlib.commands.progress import ProgressLine

if TYPE_CHECKING:
    from geomlib.apply.scaling.bayesian import Band, Scaling

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib scaling`."""
    parser.epilog = (
        "example:\n  geomlib scaling runs.csv --compute 1e20\n\n"
        "columns: tokens, loss, and n_par or n_layers, hidden, ff; lr and batch, heads where they vary"
    )
    parser.add_argument("runs", metavar="RUNS", help="CSV file with one finished run a line")
    parser.add_argument("--out", "-o", metavar="FOLDER", help="where to write (scaling-<name of RUNS>)")
    parser.add_argument(
        "--compute", type=float, nargs="+", metavar="C", help="FLOP to find the best net for (10 and 100 × the largest)"
    )
    parser.add_argument(
        "--batch", type=float, metavar="B", help="batch to find the best learning rate for (middle run)"
    )
    parser.add_argument("--shape", default="linear", choices=["linear", "log"], help="penalty of shapes (linear)")
    parser.add_argument("--point-only", action="store_true", help="no posterior: the point fit alone")
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="draws of each chain (1000)")
    parser.add_argument("--warmup", type=int, default=500, metavar="N", help="iterations of each chain before (500)")
    parser.add_argument("--chains", type=int, default=16, metavar="N", help="chains (16)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib scaling`."""
    from geomlib.apply.scaling.bayesian import fit_scaling
    from geomlib.apply.scaling.plot import plot
    from geomlib.apply.scaling.runs import read_runs

    runs = read_runs(args.runs)
    draws = 0 if args.point_only else args.draws
    line = ProgressLine(args.warmup + draws, "iteration") if draws else None
    try:
        scaling = fit_scaling(
            runs, args.shape, draws, args.warmup, args.chains, args.seed, None if line is None else line.update
        )
    finally:
        if line is not None:
            line.close()
    largest = float(runs.compute.max())
    optima = [scaling.optimum(value, args.batch) for value in args.compute or (10 * largest, 100 * largest)]
    folder = Path(args.out or f"scaling-{Path(args.runs).name.split('.')[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    values = {"runs": len(runs), "notes": list(runs.notes), "shape": args.shape, **_summary(scaling)}
    values["optimum"] = [asdict(row) for row in optima]
    table = _write_frontier(scaling, folder / "frontier.csv", args.batch)
    figure = plot(scaling, folder / "scaling.png", args.batch)
    values |= {"frontier": str(table), "figure": str(figure)}
    (folder / "scaling.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(values))
        return 0
    _print(scaling)
    print()
    for row in optima:
        print(f"compute {row.compute:.3g} FLOP")
        print(f"  parameters     {_band(row.parameters)}")
        print(f"  tokens         {_band(row.tokens)}")
        print(f"  loss           {_band(row.loss)}")
        if row.rate is not None:
            print(f"  learning rate  {_band(row.rate)} at a batch of {row.batch:g}")
    print(f"wrote {folder / 'scaling.json'}, {table}, {figure}")
    return 0


def _summary(scaling: "Scaling") -> dict[str, object]:
    point, posterior = scaling.point, scaling.posterior
    found: dict[str, object] = {
        "point": {"constants": point.values, "objective": point.objective, **point.agreement},
        "posterior": None,
    }
    if posterior is not None:
        found["posterior"] = {
            "constants": {
                name: {**asdict(band), "rhat": posterior.rhat[name], "effective_draws": posterior.effective[name]}
                for name, band in posterior.constants.items()
            },
            "acceptance": posterior.acceptance,
            "divergent": posterior.divergent,
            "waic": posterior.waic,
            "waic_error": posterior.waic_error,
            "waic_parameters": posterior.waic_parameters,
            **posterior.agreement,
        }
    return found


def _write_frontier(scaling: "Scaling", path: Path, batch: float | None) -> Path:
    names = ("parameters", "tokens", "loss", "rate")
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["compute", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))])
        for row in scaling.frontier(batch=batch):
            bands: list[Band | None] = [getattr(row, name) for name in names]
            cells = [f"{x:.6g}" for band in bands if band is not None for x in (band.mean, band.low, band.high)]
            rows.writerow([f"{row.compute:.6g}", *cells, *([""] * (12 - len(cells)))])
    return path


def _print(scaling: "Scaling") -> None:
    point, posterior = scaling.point, scaling.posterior
    for note in scaling.runs.notes:
        print(f"note: {note}")
    if posterior is None:
        print(f"{'constant':<12} {'point fit':>12}")
        for name, value in point.values.items():
            print(f"{name:<12} {value:>12.5g}")
    else:
        print(f"{'constant':<12} {'point fit':>12} {'mean':>12}   {'95 % band':<26} {'R̂':>6} {'draws':>6}")
        for name, band in posterior.constants.items():
            between = f"{band.low:.5g} … {band.high:.5g}"
            print(
                f"{name:<12} {point.values[name]:>12.5g} {band.mean:>12.5g}   {between:<26} "
                f"{posterior.rhat[name]:>6.3f} {posterior.effective[name]:>6.0f}"
            )
        print(
            f"WAIC {posterior.waic:.1f} ± {posterior.waic_error:.1f}, {posterior.waic_parameters:.1f} effective "
            f"constants; {100 * posterior.divergent:.2g} % of trajectories diverged"
        )
    best = point.agreement if posterior is None else posterior.agreement
    print(
        f"off by {best['mape_percent']:.3g} % on average, Pearson {best['pearson']:.5f}, "
        f"Spearman {best['spearman']:.5f}"
    )
    alpha, beta = point.values["alpha"], point.values["beta"]
    print(f"α/β = {alpha / beta:.2f}: {'data binds' if alpha > beta else 'size binds'} first")


def _band(band: "Band") -> str:
    return f"{band.mean:.4g} ({band.low:.4g} … {band.high:.4g})"
