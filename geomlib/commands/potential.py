"""What the verbs that use a potential have in common: options, the calculator, names of files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomlib.apply.ase import Calculator

__all__ = ["add_model_arguments", "atoms_in_a_batch", "make_calculator", "model_words", "stem", "structure_help"]

structure_help = "a file that ASE reads, with @INDEX for one of its frames, or card:NAME:INDEX of a data set"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, --committee, --device, --dtype, --compile and --json."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model file (.safetensors; FILE#HEAD for one of its heads), a checkpoint (.ckpt), "
        "a compiled file (.pt2) or a committee (committee.json)",
    )
    parser.add_argument(
        "--committee", nargs="+", action="extend", default=[], metavar="FILE", help="models that join MODEL"
    )
    parser.add_argument("--device", help="e.g. cuda; the CPU if not given")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="precision; that of the model if not given")
    parser.add_argument("--compile", action="store_true", help="compile MODEL first: faster after a minute or so")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def make_calculator(args: argparse.Namespace) -> "Calculator":
    """The calculator that the options describe."""
    from geomlib.apply.ase import Calculator

    return Calculator([args.model, *args.committee], device=args.device, dtype=args.dtype, compile=args.compile)


def atoms_in_a_batch(word: str) -> int | str:
    """What --max-atoms says: a number, or `"auto"`; for argparse."""
    if word == "auto":
        return word
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}': expected a number of atoms, at least 1, or auto")
    return int(word)


def model_words(args: argparse.Namespace) -> str:
    """The models as they were typed, for the command that could come next."""
    return " ".join([args.model, *(["--committee", *args.committee] if args.committee else [])])


def stem(source: str) -> str:
    """Beginning of the names of files about a structure: its file's name without folder, ending and index."""
    if source.startswith("card:"):
        return source.removeprefix("card:").replace(":", "-").replace("/", "-")
    name = Path(source.rpartition("@")[0] or source).name
    return name.removesuffix(".gz").split(".")[0] or name
