"""The frame of the command line: finding the verb, exit codes, errors in one line."""

import argparse
import logging
import subprocess
import sys
import types
import warnings

import pytest

import geomlib
from geomlib import cli
from geomlib.errors import DataError, GeomlibWarning


@pytest.fixture
def verb(monkeypatch):
    """Put a verb `probe` into the table that runs the function it is given."""

    def install(run, configure=lambda parser: parser.add_argument("--steps", type=int), passes_rest=False):
        module = types.ModuleType("geomlib.commands.probe")
        module.configure, module.run = configure, run
        monkeypatch.setitem(sys.modules, "geomlib.commands.probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", cli.Verb("probe", "try the frame", "Files", passes_rest))

    return install


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, row in cli.VERBS.items():
        assert f"{name} " in out
        assert row.summary in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"geomlib {geomlib.__version__}\n"


def test_no_verb_is_a_usage_error(capsys):
    assert cli.main([]) == 2
    assert "usage: geomlib" in capsys.readouterr().err


def test_misspelt_verb_names_the_nearest(capsys):
    assert cli.main(["docter"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "'docter' is not a verb (did you mean 'doctor'?)" in err


def test_misspelt_option_names_the_nearest(verb, capsys):
    verb(lambda args: 0)
    assert cli.main(["probe", "--stesp", "3"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "'--stesp' (did you mean '--steps'?)" in err


def test_wrong_value_is_a_usage_error_in_one_line(verb, capsys):
    verb(lambda args: 0)
    assert cli.main(["probe", "--steps", "three"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("geomlib probe: error: argument --steps: invalid int value: 'three'")
    assert err.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 5])
def test_exit_code_is_the_one_of_the_command(verb, code):
    verb(lambda args: code)
    assert cli.main(["probe"]) == code


def test_known_error_is_one_line(verb, capsys):
    def run(args):
        raise DataError("train.xyz, frame 3:\n   'forces' is not finite")

    verb(run)
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err == "geomlib: error: train.xyz, frame 3: 'forces' is not finite\n"
    with pytest.raises(DataError):
        cli.main(["--debug", "probe"])
    with pytest.raises(DataError):
        cli.main(["probe", "--debug"])


def test_missing_file_is_one_line(verb, capsys, tmp_path):
    verb(lambda args: len((tmp_path / "absent").read_text(encoding="utf-8")))
    assert cli.main(["probe"]) == 1
    err = capsys.readouterr().err
    assert err == f"geomlib: error: {tmp_path / 'absent'}: No such file or directory\n"


def test_a_bug_keeps_its_traceback(verb):
    def run(args):
        raise ZeroDivisionError

    verb(run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_interrupt(verb, capsys):
    def run(args):
        raise KeyboardInterrupt

    verb(run)
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "geomlib: interrupted\n"


@pytest.mark.parametrize("argv", [["-v", "probe"], ["probe", "-v"], ["probe", "--verbose"]])
def test_verbose_before_or_after_the_verb(verb, argv):
    seen = []
    verb(lambda args: seen.append(args.verbose) or 0)
    assert cli.main(argv) == 0
    assert cli.main(["probe"]) == 0
    assert seen == [True, False]


def test_common_options_after_the_second_word(verb, capsys):
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_subparsers(dest="action").add_parser("list").add_argument("--json", action="store_true")

    seen = []
    verb(lambda args: seen.append((args.verbose, args.debug)) or 0, configure)
    assert cli.main(["probe", "list", "-v"]) == 0
    assert cli.main(["--debug", "probe", "list"]) == 0
    assert seen == [(True, False), (False, True)]
    assert cli.main(["probe", "list", "--jsn"]) == 2
    assert "(did you mean '--json'?)" in capsys.readouterr().err


def test_rest_is_passed_untouched(verb):
    seen = []
    verb(lambda args: seen.append(args) or 0, configure=lambda parser: None, passes_rest=True)
    assert cli.main(["probe", "-c", "a.yaml", "--model.lr", "1", "--debug", "-v"]) == 0
    assert seen[0].rest == ["-c", "a.yaml", "--model.lr", "1"]
    assert (seen[0].verb, seen[0].debug, seen[0].verbose) == ("probe", True, True)


def test_help_of_a_passing_verb_is_ours(verb, capsys):
    def configure(parser: argparse.ArgumentParser) -> None:
        parser.epilog = "the rest is Lightning's"

    verb(lambda args: 7, configure=configure, passes_rest=True)
    assert cli.main(["probe", "-c", "a.yaml", "--help"]) == 0
    assert "the rest is Lightning's" in capsys.readouterr().out


def test_log_and_warnings_are_lines_on_stderr(verb, capsys):
    def run(args):
        logging.getLogger("geomlib.probe").info("read 3 frames")
        warnings.warn("learning rate\n  is 0.01, not 0.5", GeomlibWarning, stacklevel=1)
        return 0

    verb(run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["probe"]) == 0
        assert capsys.readouterr().err == "geomlib: warning: learning rate is 0.01, not 0.5\n"
        assert cli.main(["probe", "-v"]) == 0
        assert capsys.readouterr().err == ("geomlib: read 3 frames\ngeomlib: warning: learning rate is 0.01, not 0.5\n")


def test_process_state_is_restored(verb):
    verb(lambda args: 0)
    logger = logging.getLogger("geomlib")
    before = (logger.level, list(logger.handlers), warnings.showwarning)
    cli.main(["-v", "probe"])
    assert (logger.level, list(logger.handlers), warnings.showwarning) == before


def test_module_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "geomlib", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"geomlib {geomlib.__version__}\n"


def test_a_reader_that_leaves_is_no_error():
    """`geomlib … | head -1` ends quietly."""
    code = (
        "import sys, types; from geomlib import cli\n"
        "module = types.ModuleType('m'); module.configure = lambda parser: None\n"
        "module.run = lambda args: [print('x' * 1000) for _ in range(1000)] and 0\n"
        "sys.modules['geomlib.commands.m'] = module\n"
        "cli.VERBS['m'] = cli.Verb('m', 'm', 'Files')\n"
        "sys.exit(cli.main(['m']))\n"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.readline()
    command.stdout.close()
    err = command.stderr.read()
    command.stderr.close()
    assert command.wait() == 141
    assert err == b""
