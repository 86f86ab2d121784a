"""QH9, PubChemQH and MD17's Hamiltonians: files in these formats, written here, and what is wrong with bad ones."""

import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.db import connect
from torch_geometric.data import Data

from geomlib.data.hamiltonian_databases import MD17HamiltonianStore, PubChemQHStore, QH9Store
from geomlib.data.orbitals import shells_of
from geomlib.errors import DataError, FileFormatError, MissingExtra

BOHR = 1.8897259886


def orbitals(numbers, basis="def2-svp"):
    return sum(2 * degree + 1 for z in numbers for degree in shells_of(basis, int(z)))


def record(name, seed=0, basis="def2-svp"):
    """Atoms and a symmetric matrix, as QH9 has them in a row."""
    atoms = molecule(name)
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=2 * (orbitals(atoms.numbers, basis),))
    return {
        "num_nodes": len(atoms),
        "atoms": atoms.numbers.astype(np.int32),
        "pos": atoms.positions,
        "Ham": matrix + matrix.T,
        "Ham_init": matrix @ matrix.T,
    }


RECORDS = [record("H2O", 0), record("NH3", 1), record("CH3OH", 2)]


def write_sqlite(path, records, *, dynamic=False):
    names = ["N", "Z", "pos", "Ham"]
    kinds = "geo_id INTEGER NOT NULL, N INTEGER, Z BLOB, pos BLOB, ekin FLOAT, Ham BLOB"
    columns = kinds if dynamic else "N INTEGER, Z BLOB, pos BLOB, Ham BLOB"
    with sqlite3.connect(path) as file:
        file.execute(f"CREATE TABLE data (id INTEGER NOT NULL{'' if dynamic else ' PRIMARY KEY'}, {columns})")
        for number, row in enumerate(records):
            pos = row["pos"] * BOHR if dynamic else row["pos"]
            values = [row["num_nodes"], row["atoms"].tobytes(), pos.tobytes(), row["Ham"].tobytes()]
            keys, extra = ["id", *names], []
            if dynamic:
                keys, extra = ["id", "geo_id", *names], [0]
            places = ", ".join("?" for _ in keys)
            file.execute(f"INSERT INTO data ({', '.join(keys)}) VALUES ({places})", [number, *extra, *values])
    file.close()
    return str(path)


def write_lmdb(path, values, *, digits=False, length=None, subdir=True):
    lmdb = pytest.importorskip("lmdb", reason="needs geomlib[lmdb]")
    with lmdb.open(str(path), map_size=2**24, subdir=subdir) as environment, environment.begin(write=True) as writing:
        for number, value in values.items():
            content = value if isinstance(value, bytes) else pickle.dumps(value)
            writing.put(str(number).encode() if digits else number.to_bytes(4, "big"), content)
        if length is not None:
            writing.put(b"length", pickle.dumps(length))
    return str(path)


def raw(row, **change):
    """As QH9's LMDB files have it: bytes."""
    found = {"id": 0, **{key: value if key == "num_nodes" else value.tobytes() for key, value in row.items()}}
    return {**found, **change}


class TestQH9:
    def check(self, store, fields=("hamiltonian",)):
        assert len(store) == 3
        assert store.sizes.tolist() == [3, 4, 6]
        for graph, row in zip(store, RECORDS, strict=True):
            graph.validate()
            assert graph.atomic_number.tolist() == row["atoms"].tolist()
            assert torch.allclose(graph.pos, torch.from_numpy(row["pos"]), atol=1e-12)
            for name in fields:
                key = {"hamiltonian": "Ham", "initial_hamiltonian": "Ham_init"}[name]
                assert torch.equal(graph[name], torch.from_numpy(row[key].reshape(-1)))
        assert "record 2" in store.describe(-1)

    def test_sqlite(self, tmp_path):
        store = QH9Store(write_sqlite(tmp_path / "a.db", RECORDS))
        self.check(store)
        assert (store.basis, store.functional, store.pos_unit) == ("def2-svp", "b3lyp5", "Å")
        again = pickle.loads(pickle.dumps(store))  # noqa: S301 as a worker of a data loader gets it
        self.check(again)

    def test_dynamic_positions_are_in_bohr(self, tmp_path):
        store = QH9Store(write_sqlite(tmp_path / "a.db", RECORDS, dynamic=True))
        self.check(store)
        assert (store.functional, store.pos_unit) == ("b3lyp", "Bohr")

    @pytest.mark.parametrize("digits", [False, True])
    def test_lmdb(self, tmp_path, digits):
        path = write_lmdb(tmp_path / "a.lmdb", {k: raw(row) for k, row in enumerate(RECORDS)}, digits=digits)
        store, twice = QH9Store(path), QH9Store(path)
        self.check(store)
        self.check(twice)
        assert (store.functional, store.pos_unit) == ("b3lyp5", "Å")

    def test_lmdb_with_initial_matrices_and_a_length(self, tmp_path):
        values = {k: dict(row, edge_index=torch.zeros(2, 3), labels=[1]) for k, row in enumerate(RECORDS)}
        path = write_lmdb(tmp_path / "a.mdb", {**values, 7: raw(RECORDS[0])}, length=3, subdir=False)
        self.check(QH9Store(path, ["hamiltonian", "initial_hamiltonian"]), ["hamiltonian", "initial_hamiltonian"])

    def test_lmdb_of_dynamic_geometries(self, tmp_path):
        values = {k: raw(row, geo_id=k, pos=(BOHR * row["pos"]).tobytes()) for k, row in enumerate(RECORDS)}
        store = QH9Store(write_lmdb(tmp_path / "a.lmdb", values))
        self.check(store)
        assert store.pos_unit == "Bohr"
        with pytest.raises(
            DataError, match=r"record 0 can't be read: its closest atoms are 1\.8.. Å apart if positions"
        ):
            QH9Store(str(tmp_path / "a.lmdb"), pos_unit="Å")[0]

    def test_the_pickles_are_not_executed(self, tmp_path):
        class Touch:
            def __reduce__(self):
                return Path.touch, (tmp_path / "made",)

        store = QH9Store(write_lmdb(tmp_path / "a.lmdb", {0: raw(RECORDS[0]), 1: raw(RECORDS[1], Ham=Touch())}))
        with pytest.raises(DataError, match=r"record 1 can't be read: its 'Ham' is no array \(asks for pathlib"):
            store[1]
        assert not (tmp_path / "made").exists()
        assert store[0].num_nodes == 3

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"Ham": RECORDS[0]["Ham"].tobytes()[:-8]}, "its hamiltonian has 575 numbers, expected 24² for 3 atoms"),
            ({"Ham": RECORDS[0]["Ham"].tobytes()[:-3]}, "its 'Ham' is no array .buffer size must be a multiple"),
            ({"Ham": None}, "has no 'Ham'"),
            ({"Ham": np.full((24, 24), np.nan).tobytes()}, "its hamiltonian holds numbers that are not finite"),
            ({"Ham": np.arange(576.0).tobytes()}, "its hamiltonian is not symmetric"),
            ({"pos": RECORDS[0]["pos"].tobytes()[:-8]}, "its 'pos' has 8 numbers, expected 3 for each of 3 atoms"),
            ({"pos": np.zeros((3, 3)).tobytes()}, "its closest atoms are 0.000 Å apart"),
            ({"num_nodes": 4}, "says 4 atoms and has 3 atomic numbers"),
            ({"atoms": np.array([8, 1, 8], dtype=np.int32).tobytes()}, "17 electrons make no closed shell"),
            (
                {"atoms": np.array([8, 1, 54], dtype=np.int32).tobytes()},
                "basis set .def2-svp. has no",
            ),
            ({"atoms": np.array([8, 1, 0], dtype=np.int32).tobytes()}, "its atomic numbers are 0…8"),
        ],
    )
    def test_bad_records_are_named(self, tmp_path, change, message):
        bad = raw(RECORDS[0], **change)
        lmdb = write_lmdb(tmp_path / "a.lmdb", {0: raw(RECORDS[1]), 1: bad, 2: raw(RECORDS[2])})
        columns = ("num_nodes", "atoms", "pos", "Ham")
        write_sqlite(tmp_path / "a.db", [RECORDS[1], RECORDS[0], RECORDS[2]])
        with sqlite3.connect(tmp_path / "a.db") as file:
            file.execute("UPDATE data SET N=?, Z=?, pos=?, Ham=? WHERE id=1", [bad[column] for column in columns])
        file.close()
        for path in (lmdb, tmp_path / "a.db"):
            store = QH9Store(str(path))
            with pytest.raises(DataError, match=rf"a\.(lmdb|db), record 1.*{message}"):
                store[1]
            assert [store[k].num_nodes for k in (0, 2)] == [4, 6]

    def test_damaged_values_of_lmdb(self, tmp_path):
        path = write_lmdb(
            tmp_path / "a.lmdb", {0: raw(RECORDS[0]), 1: b"\x80\x04nothing", 2: [1, 2], 4: raw(RECORDS[1])}
        )
        store = QH9Store(path)
        for number, message in ((1, "is no pickle of plain data"), (2, "holds a list"), (3, "it is missing")):
            with pytest.raises(DataError, match=f"record {number} can't be read: {message}"):
                store[number]
        with pytest.raises(DataError, match="record 1 can't be read: is no pickle"):
            _ = store.sizes

    def test_files_that_are_none(self, tmp_path, monkeypatch):
        for name, content in (("a.db", b"SQLite format 3\x00" + bytes(100)), ("a.lmdb", bytes(8192)), ("b", b"text")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FileFormatError, match=rf"{name}.*(can't be read as an SQLite file|is no LMDB file)"):
                QH9Store(str(tmp_path / name))
        with pytest.raises(FileFormatError, match=r"there is no such file; docs/howto/hamiltonians.md says where"):
            QH9Store(str(tmp_path / "none.db"))
        path = write_lmdb(tmp_path / "cut", {k: raw(row) for k, row in enumerate(RECORDS)})
        data = (Path(path) / "data.mdb").read_bytes()
        (Path(path) / "data.mdb").write_bytes(data[: len(data) // 2])
        with pytest.raises(FileFormatError, match="is cut off, it says"):
            QH9Store(path)
        with pytest.raises(FileFormatError, match="has no record 0 by either kind of key"):
            QH9Store(write_lmdb(tmp_path / "other", {5: raw(RECORDS[0])}))
        with pytest.raises(FileFormatError, match="its 'length' is 'many'"):
            QH9Store(write_lmdb(tmp_path / "length", {0: raw(RECORDS[0])}, length="many"))
        with sqlite3.connect(tmp_path / "c.db") as file:
            file.execute("CREATE TABLE data (id INTEGER, Z BLOB)")
        file.close()
        with pytest.raises(FileFormatError, match="its table 'data' lacks Ham, N, pos"):
            QH9Store(str(tmp_path / "c.db"))
        with pytest.raises(DataError, match=r"has no initial_hamiltonian; scripts/convert_hamiltonians\.py"):
            QH9Store(write_sqlite(tmp_path / "d.db", RECORDS), ["initial_hamiltonian"])
        with pytest.raises(DataError, match="QH9Store has no field 'overlap'"):
            QH9Store(str(tmp_path / "d.db"), ["overlap"])
        monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
        with pytest.raises(MissingExtra, match=r"pip install 'geomlib\[lmdb\]'"):
            QH9Store(str(tmp_path / "length"))


class TestPubChemQH:
    def data(self, name, seed):
        row = record(name, seed, "def2-tzvp")
        return Data(
            pos=torch.from_numpy(row["pos"]).float(),
            atomic_numbers=torch.from_numpy(row["atoms"]),
            energy=torch.tensor([1.0]),
            fock=torch.from_numpy(row["Ham"]),
            init_fock=torch.from_numpy(row["Ham_init"]),
        )

    def test_objects_are_read_without_being_made(self, tmp_path):
        objects = [self.data("H2O", 0), self.data("CH3OH", 1)]
        path = write_lmdb(tmp_path / "a.lmdb", dict(enumerate(objects)), digits=True, length=2, subdir=False)
        store = PubChemQHStore(path)
        assert len(store) == 2
        for graph, value in zip(store, objects, strict=True):
            assert torch.equal(graph.pos, value.pos.double())
            assert torch.equal(graph.atomic_number, value.atomic_numbers.long())
            assert torch.equal(graph.hamiltonian, value.fock.reshape(-1))
            assert torch.equal(graph.initial_hamiltonian, value.init_fock.reshape(-1))
        with pytest.raises(DataError, match=r"record 0 can't be read: has no 's1e'; it has pos, atomic_numbers"):
            PubChemQHStore(path, ["overlap"])[0]

    def test_other_objects_are_refused(self, tmp_path):
        odd = self.data("H2O", 0)
        odd.fock = None
        path = write_lmdb(tmp_path / "a.lmdb", {0: [1], 1: odd, 2: Path("a")}, digits=True, length=3)
        store = PubChemQHStore(path)
        for number, message in ((0, "holds a list"), (1, "has no 'fock'"), (2, "holds a call that is not made")):
            with pytest.raises(DataError, match=f"record {number} can't be read: {message}"):
                store[number]


def to_orca(matrix, numbers):
    """The order of ORCA, written anew: p as z, x, y; d as z², xz, yz, x²−y², xy."""
    names, wanted = [], []
    for atom, z in enumerate(numbers):
        for shell, degree in enumerate(shells_of("def2-svp", int(z))):
            pyscf = {0: "s", 1: "x y z", 2: "xy yz zz xz xx-yy"}[degree].split()
            orca = {0: "s", 1: "z x y", 2: "zz xz yz xx-yy xy"}[degree].split()
            names += [(atom, shell, word) for word in pyscf]
            wanted += [(atom, shell, word) for word in orca]
    order = [names.index(name) for name in wanted]
    return matrix[np.ix_(order, order)]


class TestMD17:
    def write(self, path, frames, **change):
        with connect(str(path)) as file:
            for number, (atoms, matrix, overlap) in enumerate(frames):
                data = {"energy": np.zeros(1), "forces": np.zeros((len(atoms), 3))}
                data |= {"hamiltonian": to_orca(matrix, atoms.numbers), "overlap": to_orca(overlap, atoms.numbers)}
                file.write(atoms, data={**data, **(change if number == 1 else {})})
        return str(path)

    @pytest.fixture
    def frames(self):
        rng = np.random.default_rng(0)
        rows = []
        for _ in range(3):
            atoms = molecule("CH3CH2OH")
            atoms.positions += rng.normal(0, 0.02, atoms.positions.shape)
            matrix = rng.normal(size=(72, 72))
            rows.append((atoms, matrix + matrix.T, matrix @ matrix.T))
        return rows

    def test_orbitals_are_in_the_order_of_pyscf(self, tmp_path, frames):
        store = MD17HamiltonianStore(self.write(tmp_path / "a.db", frames))
        assert (len(store), store.basis, store.functional) == (3, "def2-svp", "pbe")
        assert store.sizes.tolist() == [9, 9, 9]
        for graph, (atoms, matrix, overlap) in zip(pickle.loads(pickle.dumps(store)), frames, strict=True):  # noqa: S301
            graph.validate()
            assert torch.allclose(graph.pos, torch.from_numpy(atoms.positions), atol=1e-12)
            assert torch.equal(graph.hamiltonian.view(72, 72), torch.from_numpy(matrix))
            assert torch.equal(graph.overlap.view(72, 72), torch.from_numpy(overlap))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hamiltonian": np.zeros((71, 71))}, r"its 'hamiltonian' has shape \[71, 71\], expected 72 orbitals"),
            ({"overlap": np.full((72, 72), np.inf)}, "its overlap holds numbers that are not finite"),
        ],
    )
    def test_bad_frames_are_named(self, tmp_path, frames, change, message):
        store = MD17HamiltonianStore(self.write(tmp_path / "a.db", frames, **change))
        with pytest.raises(DataError, match=f"record 1.*{message}"):
            store[1]
        assert store[2].num_nodes == 9

    def test_damaged_rows_are_named(self, tmp_path, frames):
        path = self.write(tmp_path / "a.db", frames)
        with sqlite3.connect(path) as file:
            content = file.execute("SELECT data FROM systems WHERE id=2").fetchone()[0]
            file.execute("UPDATE systems SET data=? WHERE id=2", [content[: len(content) // 2]])
            file.execute("UPDATE systems SET data=? WHERE id=3", [b"nothing that can be decoded"])
            file.execute("UPDATE systems SET positions=? WHERE id=1", [bytes(5)])
        file.close()
        store = MD17HamiltonianStore(path)
        for number in range(3):
            with pytest.raises(DataError, match=f"record {number} can't be read"):
                store[number]

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "a.db").write_text("text")
        with pytest.raises(FileFormatError, match="can't be read as an ASE database"):
            MD17HamiltonianStore(str(tmp_path / "a.db"))
        self.write(tmp_path / "b.db", [(Atoms("OH", [[0, 0, 0], [0, 0, 1]]), np.eye(19), np.eye(19))])
        with pytest.raises(DataError, match="record 0: 9 electrons make no closed shell"):
            MD17HamiltonianStore(str(tmp_path / "b.db"))[0]
