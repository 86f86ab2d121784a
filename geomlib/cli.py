"""The `geomlib` command: a table of verbs, each carried out by one module of `geomlib.commands`.

Only the standard library is imported here, and the help of a verb imports only that verb's module, so help stays
fast. A module of `geomlib.commands` offers `configure(parser)`, which adds its arguments, and `run(args) -> exit code`.
The verbs of training have Lightning's own parser: for them `configure` only describes, and `run` finds everything
after the verb, untouched, in `args.rest`. `args.verb` is the verb that was typed.
"""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TextIO

from geomlib import __version__
from geomlib.allocator import keep_freed_memory
from geomlib.errors import GeomlibError, GeomlibWarning, nearest

__all__ = ["VERBS", "CommandParser", "Verb", "actions", "command_parser", "main"]


@dataclass(frozen=True, slots=True)
class Verb:
    """One word of the command line.

    Args:
        module: module of `geomlib.commands` that carries it out.
        summary: one line for the list of verbs.
        group: heading it stands under.
        passes_rest: whether everything after the verb goes to another parser (Lightning's).
    """

    module: str
    summary: str
    group: str
    passes_rest: bool = False


VERBS: dict[str, Verb] = {
    "fit": Verb("fit", "train a model from a recipe", "Training", passes_rest=True),
    "validate": Verb("fit", "metrics on the validation set", "Training", passes_rest=True),
    "test": Verb("fit", "metrics and predictions on the test set", "Training", passes_rest=True),
    "predict": Verb("fit", "write predictions for a data set", "Training", passes_rest=True),
    "evaluate": Verb("evaluate", "errors of a model file on a data file", "Using a model"),
    "relax": Verb("relax", "relax positions and cell", "Using a model"),
    "md": Verb("md", "molecular dynamics", "Using a model"),
    "eos": Verb("eos", "equation of state and bulk modulus", "Using a model"),
    "phonons": Verb("phonons", "phonon bands and density of states", "Using a model"),
    "orbitals": Verb("orbitals", "orbitals of a molecule from a predicted Kohn-Sham matrix", "Using a model"),
    "reconstruct": Verb("reconstruct", "hyperedges of a projected graph", "Using a model"),
    "select": Verb("select", "structures of a pool that are worth a label", "Using a model"),
    "screen": Verb("screen", "filter, predict and rank the molecules of a file", "Using a model"),
    "explain": Verb("explain", "what a model of molecules looks at: atoms, tokens, layers", "Using a model"),
    "scaling": Verb("scaling", "scaling law of finished runs, and the best net for a given compute", "Using a model"),
    "report": Verb("report", "one HTML page about a training run and its MD", "Using a model"),
    "model": Verb("model", "model files: info, import, verify", "Files"),
    "data": Verb("data", "data sets: list, get, check, info", "Files"),
    "recipes": Verb("recipes", "the recipes that come along: list, show", "Files"),
    "doctor": Verb("doctor", "check the installation", "Files"),
}
"""Verb → what carries it out, in the order of the help text."""


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, with the closest valid option for a misspelt one."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # noqa: ANN001,ANN201
        """Parse all of `args`; anything left over is a usage error."""
        parsed, left = self.parse_known_args(args, namespace)
        if left:
            hint = nearest(left[0].split("=")[0], self._known_options())
            self.error(f"unrecognized argument '{left[0]}'{hint}")
        return parsed

    def _known_options(self) -> list[str]:
        return [option for parser in (self, *actions(self).values()) for option in parser._option_string_actions]

    def error(self, message: str) -> NoReturn:
        """Print the one line and leave with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see '{self.prog} --help')\n")


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Second words of a verb (`geomlib data list`) and their parsers; empty if it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _add_common_options(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", default=default, help="say more about what is done")
    parser.add_argument("--debug", action="store_true", default=default, help="show the traceback of an error")


def _top_parser() -> CommandParser:
    width = max(map(len, VERBS))
    lines: list[str] = []
    for group in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items() if verb.group == group]
    parser = CommandParser(
        prog="geomlib",
        usage="geomlib [-v] [--debug] VERB ...",
        description="Train, check and use geometric models of molecules, materials, meshes and graphs.\n"
        + "\n".join(lines),
        epilog="'geomlib VERB --help' describes a verb. First steps: geomlib fit -c dpa3/quickstart",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"geomlib {__version__}")
    _add_common_options(parser, default=False)
    return parser


def command_parser(name: str) -> CommandParser:
    """Parser of one verb, with the arguments that its module adds (used for the docs too)."""
    verb = VERBS[name]
    parser = CommandParser(
        prog=f"geomlib {name}",
        description=verb.summary[0].upper() + verb.summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common_options(parser, default=argparse.SUPPRESS)
    importlib.import_module(f"geomlib.commands.{verb.module}").configure(parser)
    for action in actions(parser).values():
        _add_common_options(action, default=argparse.SUPPRESS)
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    top = _top_parser()
    split = next((k for k, word in enumerate(argv) if not word.startswith("-")), len(argv))
    args = top.parse_args(argv[:split])
    if split == len(argv):
        top.print_help(sys.stderr)
        top.exit(2)
    name, rest = argv[split], list(argv[split + 1 :])
    if name not in VERBS:
        top.error(f"'{name}' is not a verb{nearest(name, VERBS)}")
    parser = command_parser(name)
    if VERBS[name].passes_rest:
        if "-h" in rest or "--help" in rest:
            parser.print_help()
            parser.exit(0)
        args.verbose |= "-v" in rest or "--verbose" in rest
        args.debug |= "--debug" in rest
        args.rest = [word for word in rest if word not in ("-v", "--verbose", "--debug")]
    else:
        args = parser.parse_args(rest, args)
    args.verb = name
    return args


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return " ".join(str(error).split())


@contextmanager
def _messages(verbose: bool) -> Iterator[None]:
    """Send geomlib's log and warnings to stderr, one line each, as long as a command runs."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = " ".join(str(message).split())
        kind = "" if issubclass(category, GeomlibWarning) else f" ({category.__name__} from {filename}:{lineno})"
        print(f"geomlib: warning: {text}{kind}", file=file or sys.stderr)

    logger = logging.getLogger("geomlib")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("geomlib: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _carry_out(args: argparse.Namespace) -> int:
    module = importlib.import_module(f"geomlib.commands.{VERBS[args.verb].module}")
    try:
        with _messages(args.verbose):
            code = module.run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has left (`| head`); keep the interpreter from complaining about it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (GeomlibError, OSError) as error:
        if args.debug or (isinstance(error, OSError) and error.filename is None):
            raise
        print(f"geomlib: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return int(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 good, 1 failed, 2 wrong usage, 130 interrupted.

    Args:
        argv: the words after `geomlib`; those of the process if not given.
    """
    if argv is None:  # a process of its own, not a call from a program
        keep_freed_memory()
    try:
        return _carry_out(_parse(sys.argv[1:] if argv is None else list(argv)))
    except SystemExit as leave:  # argparse leaves this way, also after --help and --version
        if isinstance(leave.code, str):
            print(leave.code, file=sys.stderr)
            return 1
        return leave.code or 0
    except KeyboardInterrupt:
        print("geomlib: interrupted", file=sys.stderr)
        return 130
