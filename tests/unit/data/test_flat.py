"""The flat store: round trip, vectorised batches, damage. Budget: 4 s."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from geomlib.data.flat import FlatStore
from geomlib.data.graph import collate
from geomlib.data.stores import MemoryStore
from geomlib.errors import DataError, FileFormatError, NewerFile, UnitError
from geomlib.graphs.line import LineGraph
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec

FORMS = ("flat", "flat.npz")


def same(one, other):
    assert set(one.keys()) == set(other.keys())
    for name in one.keys():  # noqa: SIM118
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(torch.nan_to_num(one[name]), torch.nan_to_num(other[name])), name
    return True


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(store, tmp_path, form):
    flat = FlatStore.write(store, tmp_path / form)
    assert len(flat) == len(store)
    assert flat.fields == store.fields
    assert torch.equal(flat.sizes, store.sizes)
    for index in range(len(store)):
        assert same(flat[index], store[index])
        assert flat[index].validate()
    assert same(flat[-1], store[-1])
    assert [path.name for path in tmp_path.iterdir()] == [form]
    assert flat.content_hash == FlatStore(tmp_path / form).content_hash


@pytest.mark.parametrize("form", FORMS)
def test_batch_is_collate_of_the_items(store, tmp_path, form):
    flat = FlatStore.write(store, tmp_path / form)
    for indices in ([3], [0, 1, 2], [20, 3, 3, 7, 0]):
        one, other = flat.batch(indices), collate([store[index] for index in indices])
        assert same(one, other)
        assert all(same(a, b) for a, b in zip(one.to_data_list(), other.to_data_list(), strict=True))
    with pytest.raises(DataError, match="empty"):
        flat.batch([])
    with pytest.raises(IndexError):
        flat.batch([0, 24])


def test_structure_is_kept_and_shifted(store, tmp_path):
    spec = GraphSpec((RadiusEdges(5.0), LineGraph(4.0)))
    graphs = [spec.build(graph) for graph in store]
    assert any(graph.num_edges == 0 for graph in graphs) or min(g.num_edges for g in graphs) < 5
    flat = FlatStore.write(MemoryStore(graphs), tmp_path / "flat")
    indices = [5, 1, 9, 9]
    assert same(flat.batch(indices), collate([graphs[index] for index in indices]))
    assert same(flat[5], graphs[5])
    assert flat.header["fields"]["edge_index"]["dtype"] == "int32"


def test_narrow_dtypes_are_widened_again(store, tmp_path):
    flat = FlatStore.write(store, tmp_path / "a.npz", dtypes={"forces": "float32", "pos": "float32"})
    assert flat[0].forces.dtype == torch.float64
    assert torch.equal(flat[3].forces, store[3].forces.float().double())
    assert torch.equal(flat[3].energy, store[3].energy)


def test_integers_that_do_not_fit_are_refused(store, tmp_path):
    graphs = list(store)
    graphs[4].charge = torch.tensor([300])
    for graph in graphs:
        graph.charge = graph.charge if "charge" in graph else torch.tensor([0])
    with pytest.raises(DataError, match=r"charge\.npy: a value of 300…300 does not fit int8"):
        FlatStore.write(MemoryStore(graphs), tmp_path / "flat", dtypes={"charge": "int8"})
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_overwriting(store, tmp_path):
    FlatStore.write(store, tmp_path / "flat")
    with pytest.raises(DataError, match="exists; remove it or pass overwrite=True"):
        FlatStore.write(store, tmp_path / "flat")
    assert len(FlatStore.write(MemoryStore([store[0]]), tmp_path / "flat", overwrite=True)) == 1
    with pytest.raises(DataError, match="no graphs"):
        FlatStore.write(MemoryStore([]), tmp_path / "empty")


def test_partial_labels(graph, tmp_path):
    gap = graph(3, seed=1)
    gap.forces = torch.full_like(gap.forces, torch.nan)
    flat = FlatStore.write(MemoryStore([graph(2), gap], partial=["forces"]), tmp_path / "flat")
    assert flat.partial == ("forces",)
    assert flat[1].forces.isnan().all()
    assert FlatStore(tmp_path / "flat", fields=["energy"]).partial == ()


def test_choice_of_fields(store, tmp_path):
    FlatStore.write(store, tmp_path / "flat")
    flat = FlatStore(tmp_path / "flat", fields=["energy"])
    assert set(flat.fields) == {"pos", "atomic_number", "cell", "pbc", "energy"}
    assert "forces" not in flat.batch([0, 1])
    with pytest.raises(DataError, match=r"field 'dipole' is not stored; it has \["):
        FlatStore(tmp_path / "flat", fields=["dipole"])


def test_mapped_arrays_are_not_pickled(graph, tmp_path):
    flat = FlatStore.write(MemoryStore([graph(400, seed=k) for k in range(20)]), tmp_path / "flat")
    flat.batch([0, 1])
    sent = pickle.dumps(flat)
    assert len(sent) < 10_000
    assert same(pickle.loads(sent)[3], flat[3])  # noqa: S301


def test_widths_must_agree(graph, tmp_path):
    graphs = [graph(2, frame_parameters=torch.zeros(1, width, dtype=torch.float64)) for width in (2, 3)]
    with pytest.raises(DataError, match=r"graph 1: 'frame_parameters' has items of shape \[3\]"):
        FlatStore.write(MemoryStore(graphs), tmp_path / "flat")


def edit(path, change):
    header = json.loads((path / "header.json").read_text())
    change(header)
    (path / "header.json").write_text(json.dumps(header))


def test_units_of_the_header(store, tmp_path):
    path = tmp_path / "flat"
    FlatStore.write(store, path)
    edit(path, lambda header: header["fields"]["energy"].update(unit="Hartree"))
    assert FlatStore(path)[0].energy.item() == pytest.approx(27.211386245988 * store[0].energy.item())
    assert FlatStore(path).batch([0]).energy.item() == FlatStore(path)[0].energy.item()
    edit(path, lambda header: header["fields"]["energy"].update(unit="Å"))
    with pytest.raises(UnitError, match="can't be converted"):
        FlatStore(path)
    edit(path, lambda header: header["fields"]["energy"].pop("unit"))
    with pytest.raises(UnitError, match="field 'energy' has no unit; expected one such as 'eV'"):
        FlatStore(path)


def test_newer_schema(store, tmp_path):
    path = tmp_path / "flat"
    FlatStore.write(store, path)
    edit(path, lambda header: header.update(schema=99, geomlib="9.0.0"))
    with pytest.raises(NewerFile, match=r"schema 99 was written by geomlib 9\.0\.0; .* upgrade geomlib"):
        FlatStore(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: (p / "header.json").unlink(), "no flat store is there"),
        (lambda p: (p / "header.json").write_text("{"), "not the header of a flat store"),
        (lambda p: (p / "header.json").write_text("[]"), "not the header of a flat store"),
        (lambda p: edit(p, lambda h: h.update(format="other")), "format is 'other'"),
        (lambda p: edit(p, lambda h: h.pop("fields")), "not the header"),
        (lambda p: edit(p, lambda h: h.update(graphs=25)), "'node_offset' is not 26 ascending numbers"),
        (lambda p: (p / "forces.npy").unlink(), r"forces\.npy: there is no such file"),
        (lambda p: (p / "forces.npy").write_bytes((p / "forces.npy").read_bytes()[:-8]), r"forces\.npy: not a whole"),
        (lambda p: np.save(p / "forces.npy", np.zeros((3, 3))), r"'forces' has shape \[3, 3\] of float64, expected"),
        (lambda p: np.save(p / "node_offset.npy", np.arange(25)[::-1]), "'node_offset' is not 25 ascending"),
        (lambda p: np.save(p / "energy.npy", np.array([None] * 24), allow_pickle=True), r"energy\.npy: not a whole"),
    ],
)
def test_damaged_folder(store, tmp_path, change, message):
    path = tmp_path / "flat"
    FlatStore.write(store, path)
    change(path)
    with pytest.raises(FileFormatError, match=message) as error:
        FlatStore(path)
    assert "\n" not in str(error.value)


def test_damaged_archive(store, tmp_path):
    path = tmp_path / "flat.npz"
    FlatStore.write(store, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a zip" * 100, whole[:300] + b"\0" * 64 + whole[364:]):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"flat\.npz: not a whole \.npz file"):
            FlatStore(path)
    with pytest.raises(FileFormatError, match="no flat store is there"):
        FlatStore(tmp_path / "nothing.npz")


def test_archive_sizes_are_checked_before_reading(store, tmp_path):
    path = tmp_path / "flat.npz"
    FlatStore.write(store, path)
    big = tmp_path / "big.npz"
    shutil.copy(path, big)
    header = b"\x93NUMPY\x01\x00v\x00"
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000,), }"
    with zipfile.ZipFile(big, "a") as archive:
        archive.writestr("bomb.npy", header + text.ljust(117) + b"\n")
    with pytest.raises(
        FileFormatError, match=r"'bomb\.npy' says shape \(900000000000,\), which its size does not match"
    ):
        FlatStore(big)


def test_pickles_in_an_archive_never_run(store, tmp_path):
    path = tmp_path / "evil.npz"
    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (witness.touch, ())

    np.savez(path, header=np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match="holds Python objects"):
        FlatStore(path)
    assert not witness.exists()


def test_many_rows_keep_a_valid_header(tmp_path):
    from geomlib.data.arrays import ArrayWriter, map_array

    writer = ArrayWriter(tmp_path / "a.npy", "float32", (2,))
    for _ in range(1000):
        writer.append(np.ones((1234, 2)))
    writer.close()
    assert map_array(tmp_path / "a.npy").shape == (1_234_000, 2)
