"""`geomlib doctor`: what it finds here, and what it says about broken installations."""

import json
from importlib import metadata

import pytest

from geomlib.cli import main
from geomlib.commands import doctor


def by_name(found):
    return {check.name: check for check in found}


def test_this_environment_is_good(capsys):
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    checks = {check["name"]: check for check in answer["checks"]}
    assert checks["torch"] == {
        "group": "required",
        "name": "torch",
        "status": "ok",
        "detail": metadata.version("torch"),
    }
    assert {"python", "recipes", "data sets", "lightning", "md", "processors", "memory"} <= set(checks)


@pytest.mark.parametrize(
    ("lines", "status", "detail"),
    [
        (["not-there-at-all>=2"], "broken", "not installed: pip install 'not-there-at-all>=2'"),
        (["numpy>=999"], "warning", "geomlib asks for >=999"),
        (["numpy>=1"], "ok", metadata.version("numpy")),
    ],
)
def test_required_packages(monkeypatch, lines, status, detail):
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    (check,) = doctor._required()
    assert check.status == status
    assert detail in check.detail


def test_a_package_that_does_not_import(monkeypatch):
    def fail(name):
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(metadata, "requires", lambda name: ["torch"])
    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    (check,) = doctor._required()
    assert check.status == "broken"
    assert "does not import: OSError: libtorch.so" in check.detail


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_harmful_release(monkeypatch, capsys, version):
    versions = {"lightning": version, "pytorch-lightning": "2.6.1"}
    monkeypatch.setattr(metadata, "version", lambda name: versions[name])
    (check,) = doctor._harmful()
    assert (check.name, check.status) == (f"lightning {version}", "broken")


def test_extras(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ['numpy>=1; extra == "a"', 'nope>=1; extra == "b"', "scipy"])

    class Wheel:
        @staticmethod
        def get_all(name):
            return ["a", "b"]

    monkeypatch.setattr(metadata, "metadata", lambda name: Wheel)
    found = by_name(doctor._extras())
    assert found["a"].status == "ok"
    assert found["b"].status == "absent"
    assert "pip install 'geomlib[b]'" in found["b"].detail


def test_exit_code_and_summary(monkeypatch, capsys):
    broken = doctor.Check("required", "torch", "broken", "not installed")
    monkeypatch.setattr(doctor, "checks", lambda: [broken])
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("1 broken: torch\n")
