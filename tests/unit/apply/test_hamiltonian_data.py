"""Making data of matrices: what fails is named and left out, what is done is never lost."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

from geomlib.data.graph import GraphData
from geomlib.data.hamiltonian_splits import QH9Split
from geomlib.data.hamiltonians import HamiltonianStore, checked_molecule
from geomlib.errors import DataError, FileFormatError

pytest.importorskip("pyscf", reason="needs geomlib[dft]")

from geomlib.apply.hamiltonian_data import HamiltonianFile, complete, converged, own_fock_error

ROOT = Path(__file__).parents[3]
BASIS, FUNCTIONAL = "sto-3g", "b3lyp5"


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fake(value, size=28):
    """Arrays of a group of water."""
    return {
        "Z": np.array([8, 1, 1], dtype=np.int16),
        "pos": molecule("H2O").positions[None],
        **{name: np.full((1, size), float(value)) for name in ("fock", "fock_init", "overlap")},
    }


def compute(value):
    if value < 0:
        raise RuntimeError("it is\nnegative")
    return fake(value)


class TestFile:
    def test_what_fails_is_left_out_and_tried_again(self, tmp_path):
        seen = []
        file = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL)
        done = file.extend(enumerate([3, -1, 5]), compute, lambda *row: seen.append(row))
        assert (done.added, done.present, done.complaints) == (2, 0, {1: "it is negative"})
        assert seen == [(0, ""), (1, "it is negative"), (2, "")]
        done = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL).extend(enumerate([99, 4, 99]), compute)
        assert (done.added, done.present, done.complaints) == (1, 2, {})
        store = HamiltonianStore(str(tmp_path / "a.h5"))
        assert [float(graph.hamiltonian[0]) for graph in store] == [3, 4, 5]
        assert store.basis == BASIS and store.functional == FUNCTIONAL
        assert not (tmp_path / "a.h5.parts").exists()

    def test_an_interrupted_run_loses_nothing(self, tmp_path):
        def stops(value):
            if value == 7:
                raise KeyboardInterrupt
            return fake(value)

        file = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL)
        with pytest.raises(KeyboardInterrupt):
            file.extend(enumerate([1, 2, 7, 4]), stops)
        (tmp_path / "a.h5.parts" / "000009.unfinished").write_bytes(b"half")
        again = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL)
        assert again.done == {0, 1}
        assert again.extend(enumerate([1, 2, 3, 4]), fake).added == 2
        assert [float(graph.hamiltonian[0]) for graph in HamiltonianStore(str(tmp_path / "a.h5"))] == [1, 2, 3, 4]

    def test_other_settings_need_another_file(self, tmp_path):
        HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL).extend(enumerate([1]), fake)
        with pytest.raises(FileFormatError, match=r"a.h5: was made with xc b3lyp5, not pbe: name another file"):
            HamiltonianFile(tmp_path / "a.h5", BASIS, "pbe")
        with pytest.raises(FileFormatError, match="was made with grids_level 3, not 4"):
            HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL, level=4)
        assert HamiltonianFile(tmp_path / "a.h5", BASIS.upper(), "B3LYPV5").done == {0}
        (tmp_path / "b.h5").write_text("text")
        with pytest.raises(FileFormatError, match="is no HDF5 file"):
            HamiltonianFile(tmp_path / "b.h5", BASIS, "pbe")

    def test_splits_go_by_the_numbers_of_the_records(self, tmp_path):
        file = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL)
        file.extend(((number, number) for number in range(20) if number not in (3, 11)), fake)
        file.gather(records=20)
        store = HamiltonianStore(str(tmp_path / "a.h5"))
        order = np.random.RandomState(43).permutation(20)
        parts = QH9Split("stable-id").indices(store)
        for part, wanted in zip(parts.values(), np.split(order, [16, 18]), strict=True):
            found = [int(store[int(place)].hamiltonian[0]) for place in part]
            assert found == [number for number in wanted if number not in (3, 11)]


class TestCalculations:
    def test_a_whole_calculation_proves_itself(self):
        values = converged(molecule("H2O"), BASIS, FUNCTIONAL)
        size = 7
        square = np.zeros((size, size))
        square[np.tril_indices(size)] = values["fock"][0]
        square = square + square.T - np.diag(square.diagonal())
        graph = checked_molecule(values["Z"], values["pos"][0], {"hamiltonian": square}, BASIS, "here")
        assert own_fock_error(graph, BASIS, FUNCTIONAL) < 1e-4
        assert own_fock_error(graph, BASIS, "b3lyp") > 1e-3  # VWN3 instead of VWN5
        assert own_fock_error(graph, BASIS, "pbe") > 1e-2
        order = [0, 1, 3, 4, 2, 5, 6]
        turned = GraphData(
            **{**graph.to_dict(), "hamiltonian": graph.hamiltonian.view(7, 7)[order][:, order].reshape(-1)}
        )
        assert own_fock_error(turned, BASIS, FUNCTIONAL) > 1e-2
        found = complete(graph, BASIS, FUNCTIONAL)
        for name in ("fock", "fock_init", "overlap"):
            assert np.allclose(found[name], values[name], atol=1e-9), name

    def test_ions_keep_their_charge(self, tmp_path):
        atoms = molecule("H2O")
        atoms += Atoms("H", [[0.0, 0.0, 1.2]])
        atoms.info["charge"] = 1
        file = HamiltonianFile(tmp_path / "a.h5", BASIS, FUNCTIONAL)
        file.extend([(0, atoms)], lambda atoms: converged(atoms, BASIS, FUNCTIONAL))
        (graph,) = HamiltonianStore(str(tmp_path / "a.h5"))
        assert graph.charge.tolist() == [1]
        assert own_fock_error(graph, BASIS, FUNCTIONAL) < 1e-4

    @pytest.mark.parametrize(
        ("atoms", "options", "message"),
        [
            (molecule("OH"), {}, "9 electrons; the models know closed shells only"),
            (Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), {}, "atoms 0 and 1 are 0.010 Å apart"),
            (Atoms("H2", [[0, 0, 0], [0, 0, 1]], info={"spin": 3}), {}, "2 electrons and spin multiplicity 3"),
            (molecule("H2O"), {"cycles": 1}, "the SCF did not converge in 1 cycles"),
        ],
    )
    def test_what_can_not_be_calculated(self, atoms, options, message):
        with pytest.raises(DataError, match=message):
            converged(atoms, BASIS, FUNCTIONAL, **options)

    def test_an_overlap_in_another_order_is_seen(self):
        values = converged(molecule("H2O"), BASIS, FUNCTIONAL)
        size = 7
        square = np.zeros((size, size))
        square[np.tril_indices(size)] = values["overlap"][0]
        overlap = square + square.T - np.diag(square.diagonal())
        order = [0, 1, 3, 4, 2, 5, 6]
        matrices = {"hamiltonian": overlap, "overlap": overlap[np.ix_(order, order)]}
        graph = checked_molecule(values["Z"], values["pos"][0], matrices, BASIS, "here")
        with pytest.raises(
            DataError, match=r"its overlap differs from PySCF's by .*: another basis set or another order"
        ):
            complete(graph, BASIS, FUNCTIONAL)


def test_prepare_reports_what_it_leaves_out(tmp_path, monkeypatch, capfd):
    bad = [molecule("OH"), Atoms("H2", [[0, 0, 0], [0, 0, 0.01]])]
    write(tmp_path / "a.extxyz", [molecule("H2O"), *bad, molecule("CH4")])
    prepare = script(ROOT / "datasets" / "water-orbitals" / "prepare.py")
    words = [str(tmp_path / "a.extxyz"), str(tmp_path / "a.h5"), "--basis", BASIS, "--level", "1"]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *words])
    prepare.main()
    out, err = capfd.readouterr()
    assert "2 molecules added, 0 were there, 2 left out" in out
    assert "molecule 1 (HO): HO with charge 0 has 9 electrons" in err
    assert "molecule 2 (H2): atoms 0 and 1 are 0.010 Å apart" in err
    assert len(HamiltonianStore(str(tmp_path / "a.h5"))) == 2
    monkeypatch.setattr(sys, "argv", ["prepare.py", *words, "--functional", "pbe"])
    with pytest.raises(SystemExit, match=r"prepare.py: .*a.h5: was made with xc b3lyp5, not pbe"):
        prepare.main()


@pytest.mark.slow
def test_a_killed_preparation_goes_on(tmp_path):
    frames = [molecule("H2O") for _ in range(12)]
    write(tmp_path / "a.extxyz", frames)
    words = [str(ROOT / "datasets/water-orbitals/prepare.py"), str(tmp_path / "a.extxyz"), str(tmp_path / "a.h5")]
    words += ["--basis", BASIS, "--level", "0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, cwd=tmp_path, env=env)
    parts = tmp_path / "a.h5.parts"
    for _ in range(1200):
        if len(list(parts.glob("*.npz"))) >= 3:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.read_bytes() for path in parts.glob("*.npz")}
    assert 3 <= len(before) < 12
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, check=True, env=env)
    assert f"{12 - len(before)} molecules added, {len(before)} were there, 0 left out" in done.stdout
    assert len(HamiltonianStore(str(tmp_path / "a.h5"))) == 12


def test_a_database_is_converted_and_proves_itself(tmp_path, monkeypatch, capfd):
    import sqlite3

    convert = script(ROOT / "scripts" / "convert_hamiltonians.py")
    rows = [converged(molecule(name), "def2-svp", FUNCTIONAL) for name in ("H2O", "CH4")]
    with sqlite3.connect(tmp_path / "a.db") as file:
        file.execute("CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB)")
        for number, row in enumerate([rows[0], rows[1], rows[0]]):
            size = int((2 * row["fock"].size) ** 0.5)
            square = np.zeros((size, size))
            square[np.tril_indices(size)] = row["fock"][0]
            whole = (square + square.T - np.diag(square.diagonal())).tobytes()
            values = [number, len(row["Z"]), row["Z"].astype("<i4").tobytes(), row["pos"].tobytes()]
            file.execute("INSERT INTO data VALUES (?, ?, ?, ?, ?)", [*values, whole[8:] if number == 1 else whole])
    file.close()
    words = ["convert_hamiltonians.py", "qh9", str(tmp_path / "a.db"), str(tmp_path / "a.h5"), "--check", "1"]
    monkeypatch.setattr(sys, "argv", words)
    convert.main()
    out, err = capfd.readouterr()
    assert "2 records added, 0 were there, 1 left out" in out
    assert "record 1 left out: " in err and "its hamiltonian has 1155 numbers, expected 34²" in err
    store = HamiltonianStore(str(tmp_path / "a.h5"))
    assert store.records[0].tolist() == [0, 2] and store.records[1] == 3
    assert torch.allclose(
        store[0].initial_hamiltonian.view(24, 24)[np.tril_indices(24)],
        torch.from_numpy(rows[0]["fock_init"][0]),
        atol=1e-9,
    )
    with h5py.File(tmp_path / "a.h5") as file:
        assert dict(file.attrs)["xc"] == FUNCTIONAL
    monkeypatch.setattr(sys, "argv", [*words[:3], str(tmp_path / "b.h5"), "--functional", "pbe"])
    with pytest.raises(SystemExit, match=r"record 0: is no converged matrix of pbe/def2-svp; the functional"):
        convert.main()
    assert not (tmp_path / "b.h5").exists()
