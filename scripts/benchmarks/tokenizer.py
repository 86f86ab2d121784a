"""SMILES per CPU second of the tokenizer, packed and as lists, one thread; the published package's with --peer.

    python scripts/benchmarks/tokenizer.py [--data ../shared/data/zinc_smiles/zinc_jtnn_29k.smi.gz] [--peer] [--selfies]

`--peer` needs the package `smirk`, which pins an older transformers: run it in an environment of its own.
`--selfies` says how long molecules are as SELFIES and how many the fixed vocabulary covers.
"""

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path


def rate(work: Callable[[], object], count: int) -> float:
    """Molecules per CPU second, best of five runs."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return count / min(times)


def compare_selfies(lines: list[str], every: int = 10) -> None:
    """Tokens of kekulised SMILES and of SELFIES, and the share of molecules without an unknown symbol."""
    from geomlib.graphs.tokens import SmilesTokens

    chosen = lines[::every]
    for form in ("kekule", "selfies"):
        builder = SmilesTokens(form)
        begin = time.process_time()
        texts = [builder.write(line) for line in chosen]
        seconds = time.process_time() - begin
        rows = builder.tokenizer.encode_list(texts)
        known = sum(0 not in row for row in rows)
        print(
            f"{form:8} {sum(map(len, rows)) / len(rows):.1f} tokens a molecule, {100 * known / len(rows):.2f} % of "
            f"{len(rows)} molecules without [UNK], written at {len(rows) / seconds:.0f} molecules per CPU second"
        )


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/zinc_smiles/zinc_jtnn_29k.smi.gz"))
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--selfies", action="store_true")
    arguments = parser.parse_args()
    with gzip.open(arguments.data, "rt") as file:
        lines = [line.strip() for line in file]
    if arguments.selfies:
        compare_selfies(lines)
        return
    ways: dict[str, Callable[[], object]]
    if arguments.peer:
        from smirk import SmirkTokenizerFast

        peer = SmirkTokenizerFast()
        ways = {"published, list": lambda: peer(lines)}
    else:
        from geomlib.data.tokens import SmirkTokenizer

        ways = {
            "packed ids": lambda: SmirkTokenizer().encode_packed(lines),
            "lists": lambda: SmirkTokenizer().encode_list(lines),
        }
    for name, work in ways.items():
        print(f"{name:16} {rate(work, len(lines)):10.0f} SMILES per CPU second ({len(lines)} molecules)")


if __name__ == "__main__":
    main()
