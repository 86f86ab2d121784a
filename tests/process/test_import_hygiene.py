"""Importing geomlib and asking for help stay light: no heavy package is loaded, and it takes no noticeable time.

Budget: 5 s.
"""

import json
import os
import resource
import subprocess
import sys

import pytest

from geomlib.cli import VERBS

HEAVY = (
    "torch",
    "lightning",
    "pytorch_lightning",
    "torch_geometric",
    "e3nn",
    "rdkit",
    "ase",
    "numpy",
    "matplotlib",
    "yaml",
)

PROBE = """
import json, sys
{action}
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""

HELP = """
import contextlib, io
from geomlib.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main({argv!r}) == 0
assert "usage: geomlib" in out.getvalue()
"""


def loaded(action):
    code = PROBE.format(action=action, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_geomlib_loads_nothing_heavy():
    assert loaded("import geomlib") == []


def test_lazy_names_load_on_use():
    assert "torch" in loaded("import geomlib; geomlib.GraphData")


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_loads_nothing_heavy(verb):
    argv = ["--help"] if verb is None else [verb, "--help"]
    assert loaded(HELP.format(argv=argv)) == []


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["md", "--help"], ["fit", "--help"]], ids=" ".join)
def test_help_is_fast(argv):
    def cpu_seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "geomlib", *argv], stdout=subprocess.DEVNULL, check=True, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < 0.5
