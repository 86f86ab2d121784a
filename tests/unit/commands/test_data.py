"""`geomlib data`. Budget: 3 s."""

import hashlib
import json

import pytest
import yaml

from geomlib.cli import main
from geomlib.data import FlatStore, GraphData, MemoryStore

XYZ = """2
Properties=species:S:1:pos:R:3:forces:R:3 energy={energy} pbc="F F F"
O 0 0 {z} 0 0 {force}
H 0 0 1 0 0 0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("GEOMLIB_DATA", str(tmp_path))
    (tmp_path / "tiny").mkdir()
    graphs = [
        GraphData(
            pos=torch.full((1, 3), float(k), dtype=torch.float64),
            atomic_number=torch.tensor([29]),
            energy=torch.tensor([float(k)], dtype=torch.float64),
        )
        for k in range(4)
    ]
    FlatStore.write(MemoryStore(graphs), tmp_path / "tiny" / "graphs.npz")
    data = (tmp_path / "tiny" / "graphs.npz").read_bytes()
    card = {
        "name": "tiny",
        "title": "Copper atoms",
        "licence": "CC0-1.0",
        "source": "nowhere",
        "files": [{"path": "graphs.npz", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}],
        "store": {"class": "FlatStore", "args": {"path": "graphs.npz"}},
        "fields": {"pos": {"field": "pos", "unit": "Å"}, "energy": {"field": "energy", "unit": "eV"}},
        "graphs": 4,
        "splits": {"train": "0:3", "test": "3"},
    }
    (tmp_path / "tiny" / "card.yaml").write_text(yaml.safe_dump(card, allow_unicode=True), encoding="utf-8")
    return tmp_path


def run(capsys, *argv, code=0):
    assert main(["data", *map(str, argv)]) == code
    return capsys.readouterr()


def test_list(folder, capsys):
    assert "tiny" in run(capsys, "list").out
    rows = {row["name"]: row for row in json.loads(run(capsys, "list", "--json").out)}
    assert rows["tiny"] == {
        "name": "tiny",
        "title": "Copper atoms",
        "graphs": 4,
        "licence": "CC0-1.0",
        "state": "here",
    }


def test_info(folder, capsys):
    facts = json.loads(run(capsys, "info", "tiny", "--json").out)
    assert (facts["graphs"], facts["elements"], facts["licence"]) == (4, {"Cu": 4}, "CC0-1.0")
    assert facts["energy_per_atom_mean"] == 1.5
    assert facts["splits"] == {"train": 3, "test": 1}
    assert "Copper atoms" in run(capsys, "info", "tiny").out


def test_info_and_check_of_a_file(folder, capsys):
    path = folder / "set.xyz"
    path.write_text("".join(XYZ.format(energy=k, force=2 * k, z=-k) for k in range(1, 4)))
    facts = json.loads(run(capsys, "info", path, "--json").out)
    assert set(facts["fields"]) == {"pos", "atomic_number", "cell", "pbc", "energy", "forces"}
    assert json.loads(run(capsys, "check", path, "--json").out) == {"ok": True, "findings": []}


def test_check_reports_all_bad_rows(folder, capsys):
    path = folder / "set.xyz"
    rows = [(1, 1), ("nan", 2), (3, "inf"), (4, 4)]
    path.write_text("".join(XYZ.format(energy=e, force=f, z=-k) for k, (e, f) in enumerate(rows)))
    out = run(capsys, "check", path, code=1).out.splitlines()
    assert out == [
        f"error: {path}, frame 1, energy: missing, NaN or infinite",
        f"error: {path}, frame 2, forces: missing, NaN or infinite at nodes [0]",
        f"{path}: 2 errors, 0 warnings",
    ]


def test_check_of_a_damaged_file(folder, capsys):
    path = folder / "set.xyz"
    path.write_text(XYZ.format(energy=1, force=1, z=1) + "2\n")
    found = json.loads(run(capsys, "check", path, "--json", code=1).out)["findings"]
    assert len(found) == 1
    assert "frame 1: holds 0 of 2 atoms" in found[0]["message"]
    (folder / "tiny" / "graphs.npz").write_bytes(b"no")
    assert run(capsys, "check", "tiny", code=1).out.count("error:") == 2


def test_get(folder, capsys):
    path = folder / "tiny" / "graphs.npz"
    assert run(capsys, "get", "tiny").out.strip() == str(path)
    path.unlink()
    err = run(capsys, "get", "tiny", code=1).err
    assert err.strip() == (
        f"geomlib: error: data set 'tiny': 'graphs.npz' can't be downloaded; get it from nowhere and put it at {path}"
    )


def test_get_checks_what_arrives(folder, capsys):
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    path = folder / "tiny" / "graphs.npz"
    whole = path.read_bytes()
    (folder / "remote").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder / "remote"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        card = folder / "tiny" / "card.yaml"
        values = yaml.safe_load(card.read_text())
        values["files"][0]["url"] = f"http://127.0.0.1:{server.server_port}/graphs.npz"
        card.write_text(yaml.safe_dump(values))
        path.unlink()
        assert "can't be reached" in run(capsys, "get", "tiny", code=1).err
        for wrong in (whole[:-1], whole + b"1", whole[:-1] + b"x"):
            (folder / "remote" / "graphs.npz").write_bytes(wrong)
            assert "what arrived is not the file on the card" in run(capsys, "get", "tiny", code=1).err
            assert sorted(entry.name for entry in path.parent.iterdir()) == ["card.yaml"]
        (folder / "remote" / "graphs.npz").write_bytes(whole)
        assert json.loads(run(capsys, "get", "tiny", "--json").out)["files"] == [str(path)]
        assert path.read_bytes() == whole
    finally:
        server.shutdown()
        server.server_close()


def test_unknown(folder, capsys):
    assert "did you mean 'tiny'" in run(capsys, "info", "tinny", code=1).err
    (folder / "odd.dat").write_text("x")
    assert "of an unknown kind" in run(capsys, "info", folder / "odd.dat", code=1).err
    assert "no data set called" in run(capsys, "get", "nothing", code=1).err


def test_neighbors_of_a_file(tmp_path, capsys):
    path = tmp_path / "pair.extxyz"
    path.write_text(XYZ.format(energy=1.0, z=2.0, force=0.0))
    assert main(["data", "neighbors", str(path), "--cutoff", "1.5", "0.5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["cutoff"], row["mean"], row["largest"], row["selection"]) for row in rows] == [
        (0.5, 0.0, 0, 4),
        (1.5, 1.0, 1, 4),
    ]
    assert main(["data", "neighbors", str(path)]) == 0
    assert "shortest distance 1.000 Å" in capsys.readouterr().out
