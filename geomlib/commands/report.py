"""`geomlib report`: one HTML page about a training run and the dynamics run with its model."""

import argparse
import json

__all__ = ["configure", "run"]

_EPILOG = """
examples:
  geomlib report runs/dpa3/quickstart/version_0                     what is in the folder, simulations too
  geomlib report runs/dpa3/quickstart/version_0 --md water.extxyz   and a simulation from elsewhere
  geomlib report water.extxyz                                       a simulation alone
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `geomlib report`."""
    parser.epilog = _EPILOG
    parser.add_argument("run", metavar="RUN", help="folder of a run, or the trajectory of a simulation")
    parser.add_argument(
        "--md", nargs="+", default=[], metavar="TRAJ", help="further trajectories, or their logs, to report on"
    )
    parser.add_argument("--output", "-o", metavar="FILE", help="HTML file (report.html in the folder)")
    parser.add_argument(
        "--no-explain", action="store_true", help="leave out what a model of molecules looks at (atoms, layers, map)"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Carry out `geomlib report`."""
    from geomlib.apply.report.page import write_report

    file = write_report(args.run, args.output, args.md, explain=not args.no_explain)
    if args.json:
        print(json.dumps({"report": str(file), "bytes": file.stat().st_size}))
    else:
        print(f"report: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if args.open:
        import webbrowser

        webbrowser.open(file.absolute().as_uri())
    return 0
