"""deepmd-kit systems. Budget: 5 s."""

import pickle

import h5py
import numpy as np
import pytest
import torch

from geomlib.data.deepmd import DeepmdStore
from geomlib.errors import DataError, FileFormatError, GeomlibWarning, UnknownElement, UnknownField


def system(folder, frames=(3, 2), types=(0, 1, 1), type_map="O\nH\n", dtype=np.float32, cell=True, seed=0, **extra):
    """Write a system with one set for each entry of `frames`; extra arrays are functions of the number of frames."""
    random = np.random.default_rng(seed)
    atoms = len(types)
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("\n".join(map(str, types)) + "\n")
    if type_map:
        (folder / "type_map.raw").write_text(type_map)
    if not cell:
        (folder / "nopbc").touch()
    for number, count in enumerate(frames):
        part = folder / f"set.{number:03d}"
        part.mkdir()
        arrays = {
            "coord": random.standard_normal((count, 3 * atoms)),
            "energy": random.standard_normal(count),
            "force": random.standard_normal((count, 3 * atoms)),
        }
        if cell:
            arrays["box"] = np.tile((8 * np.eye(3)).reshape(1, 9), (count, 1))
        arrays |= {name: make(count) for name, make in extra.items()}
        for name, value in arrays.items():
            kind = value.dtype if value.dtype.kind == "i" else dtype
            np.save(part / f"{name}.npy", np.asarray(value, dtype=kind))
    return folder


def load(folder, part, name):
    return np.load(folder / part / f"{name}.npy")


def test_sets_in_order_of_their_names_and_float32(tmp_path):
    folder = system(tmp_path / "a")
    store = DeepmdStore(str(folder))
    assert len(store) == 5
    assert store.sizes.tolist() == [3] * 5
    graph = store[3]
    assert np.array_equal(graph.pos.numpy(), load(folder, "set.001", "coord")[0].reshape(3, 3).astype(np.float64))
    assert graph.energy.item() == float(load(folder, "set.001", "energy")[0])
    assert graph.pos.dtype == graph.energy.dtype == graph.forces.dtype == torch.float64
    assert graph.atomic_number.tolist() == [8, 1, 1]
    assert graph.pbc.tolist() == [[True] * 3]
    assert store.describe(3) == f"{folder}/set.001, frame 0"
    graph.validate(("energy", "forces", "cell"))


def test_no_cell(tmp_path):
    graph = DeepmdStore(str(system(tmp_path / "a", cell=False)))[0]
    assert graph.pbc.tolist() == [[False] * 3]
    assert graph.cell.abs().max() == 0


def test_roots_lists_patterns(tmp_path):
    system(tmp_path / "x" / "a", frames=(1,))
    system(tmp_path / "x" / "deep" / "b", frames=(2,), types=(0, 1))
    system(tmp_path / "y", frames=(3,))
    assert DeepmdStore(str(tmp_path)).sizes.tolist() == [3, 2, 2, 3, 3, 3]
    assert len(DeepmdStore([str(tmp_path / "y"), str(tmp_path / "x")])) == 6
    assert DeepmdStore([str(tmp_path / "y"), str(tmp_path / "x" / "a")]).describe(0).endswith("y/set.000, frame 0")
    assert len(DeepmdStore(str(tmp_path / "*" / "a"))) == 1
    with pytest.raises(FileFormatError, match="no deepmd-kit system"):
        DeepmdStore(str(tmp_path / "z"))


def test_virial_stress_and_units(tmp_path):
    symmetric = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    folder = system(tmp_path / "a", virial=lambda n: np.tile(symmetric.reshape(1, 9), (n, 1)))
    store = DeepmdStore(str(folder), fields=["virial", "stress", "energy"], units={"energy": "Hartree"})
    assert np.array_equal(store[0].virial[0], symmetric)
    assert np.allclose(store[0].stress[0], -symmetric / 512)
    assert store[0].energy.item() == pytest.approx(27.211386245988 * float(load(folder, "set.000", "energy")[0]))
    with pytest.raises(DataError, match="no cell"):
        DeepmdStore(str(system(tmp_path / "b", cell=False, virial=lambda n: np.zeros((n, 9)))), fields=["stress"])


def test_optional_arrays(tmp_path):
    random = np.random.default_rng(3)
    hessian = random.standard_normal((2, 81))
    folder = system(
        tmp_path / "a",
        frames=(2,),
        dtype=np.float64,
        atom_ener=lambda n: np.arange(3.0 * n).reshape(n, 3),
        fparam=lambda n: np.ones((n, 2)),
        aparam=lambda n: np.arange(6.0 * n).reshape(n, 6),
        charge_spin=lambda n: np.array([[1, 2], [-1, 3]]),
        hessian=lambda n: hessian,
    )
    names = ["atom_energy", "frame_parameters", "atom_parameters", "hessian"]
    store = DeepmdStore(str(folder), fields=names)
    graph = store[1].validate(names)
    assert graph.atom_energy.tolist() == [3, 4, 5]
    assert graph.frame_parameters.tolist() == [[1, 1]]
    assert graph.atom_parameters.tolist() == [[6, 7], [8, 9], [10, 11]]
    assert (graph.charge.tolist(), graph.spin_multiplicity.tolist()) == ([-1], [3])
    assert graph.hessian[2, 0, 1, 2].item() == hessian[1].reshape(9, 9)[7, 2]


def mixed(folder, dtype=np.float64):
    types = np.array([[0, 1, 1, -1], [1, -1, 0, -1], [0, 0, 1, 1]])  # padding may stand anywhere
    values = np.arange(36.0).reshape(3, 12)
    return system(
        folder,
        frames=(3,),
        types=(0, 0, 0, 0),
        dtype=dtype,
        real_atom_types=lambda n: types,
        aparam=lambda n: np.arange(12.0).reshape(3, 4),
        force=lambda n: values,
        hessian=lambda n: np.arange(3 * 144.0).reshape(3, 144),
    )


def test_mixed_types_drop_the_padding(tmp_path):
    store = DeepmdStore(str(mixed(tmp_path / "a")), fields=["forces", "atom_parameters", "hessian"])
    assert store.sizes.tolist() == [3, 2, 4]
    graph = store[1].validate(("forces",))
    assert graph.atomic_number.tolist() == [1, 8]
    assert graph.forces.tolist() == [[12, 13, 14], [18, 19, 20]]
    assert graph.atom_parameters.tolist() == [[4], [6]]
    assert graph.hessian.shape == (2, 2, 3, 3)
    assert graph.hessian[1, 0, 2, 1].item() == np.arange(3 * 144.0).reshape(3, 12, 12)[1, 8, 1]


def test_one_mixed_frame(tmp_path):
    folder = system(tmp_path / "a", frames=(1,), real_atom_types=lambda n: np.array([[1, 0, -1]]), types=(0, 0, 0))
    assert DeepmdStore(str(folder))[0].atomic_number.tolist() == [1, 8]


def as_hdf5(folder, file, group):
    for path in sorted(folder.rglob("*")):
        name = f"{group}/{path.relative_to(folder)}"
        if path.suffix == ".npy":
            file[name] = np.load(path)
        elif path.name == "type.raw":
            file[name] = np.loadtxt(path, dtype=int)
        elif path.name == "type_map.raw":
            file[name] = np.array(path.read_text().split(), dtype="S2")
        elif path.name == "nopbc":
            file[name] = True


def test_hdf5(tmp_path):
    one = system(tmp_path / "one")
    two = system(tmp_path / "two", frames=(2,), types=(0, 1), cell=False, seed=5)
    with h5py.File(tmp_path / "all.hdf5", "w") as file:
        as_hdf5(one, file, "group/one")
        as_hdf5(two, file, "two")
    path = str(tmp_path / "all.hdf5")
    for name, folders in ((path, [one, two]), (f"{path}#/group", [one]), (f"{path}#/two", [two])):
        store, same = DeepmdStore(name), DeepmdStore([str(folder) for folder in folders])
        assert len(store) == len(same)
        for index in range(len(store)):
            assert all(torch.equal(store[index][key], same[index][key]) for key in same.fields)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert torch.equal(again[1].pos, store[1].pos)
    source = store._sets[0].source
    opened = source._file
    source._pid = -1  # as if this were a forked worker: it must open the file itself
    store[0]
    assert source._file is not opened
    with pytest.raises(FileFormatError, match="no group '/three'"):
        DeepmdStore(f"{path}#/three")


def test_store_can_be_sent_to_a_worker(tmp_path):
    store = DeepmdStore(str(system(tmp_path / "a")))
    before = store[0]
    sent = pickle.dumps(store)
    assert torch.equal(pickle.loads(sent)[0].pos, before.pos)  # noqa: S301


def test_missing_label(tmp_path):
    system(tmp_path / "a", virial=lambda n: np.ones((n, 9)))
    system(tmp_path / "b")
    with pytest.raises(DataError, match=r"b/set\.000/virial\.npy is missing for the field 'virial'; the arrays"):
        DeepmdStore(str(tmp_path), fields=["virial"])
    store = DeepmdStore(str(tmp_path), fields=["energy"], partial=["virial"])
    assert store[0].virial.isfinite().all()
    assert store[5].virial.isnan().all()
    assert store[5].virial.shape == (1, 3, 3)
    with pytest.raises(UnknownField):
        DeepmdStore(str(tmp_path), fields=["force"])


def test_not_finite_says_file_and_frame(tmp_path):
    folder = system(tmp_path / "a")
    force = load(folder, "set.001", "force")
    force[1, 4] = np.nan
    np.save(folder / "set.001" / "force.npy", force)
    store = DeepmdStore(str(folder))
    with pytest.raises(DataError, match=r"set\.001/force\.npy, frame 1: 'force' is NaN or infinite"):
        store[4]
    DeepmdStore(str(folder), partial=["forces"])[4]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("force", np.zeros((3, 8)), r"force\.npy: shape \[3, 8\], expected \[3, 9\]"),
        ("force", np.zeros((2, 9)), r"force\.npy: shape \[2, 9\], expected \[3, 9\]"),
        ("coord", np.zeros((3, 6)), r"coord\.npy: shape \[3, 6\], expected \[3, 9\]"),
        ("box", np.zeros((3, 6)), r"box\.npy: shape \[3, 6\], expected \[3, 9\]"),
        ("energy", np.zeros((3, 2)), r"energy\.npy: shape \[3, 2\], expected \[3, 1\]"),
        ("aparam", np.zeros((3, 4)), r"expected \[3, a multiple of 3\]"),
    ],
)
def test_shapes_that_disagree(tmp_path, name, value, message):
    folder = system(tmp_path / "a")
    np.save(folder / "set.000" / f"{name}.npy", value)
    with pytest.raises(DataError, match=message):
        DeepmdStore(str(folder))


def test_damaged_files(tmp_path):
    folder = system(tmp_path / "a")
    path = folder / "set.000" / "force.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(FileFormatError, match=r"force\.npy: not a whole \.npy file"):
        DeepmdStore(str(folder))
    path.write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"force\.npy: not a whole \.npy file"):
        DeepmdStore(str(folder))
    np.save(path, np.array([{}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"force\.npy: not a whole \.npy file"):
        DeepmdStore(str(folder))
    path.write_bytes(whole)
    (folder / "set.000" / "box.npy").unlink()
    with pytest.raises(DataError, match=r"box\.npy is missing; a system without a cell has a file 'nopbc'"):
        DeepmdStore(str(folder))


def test_types(tmp_path):
    with pytest.raises(DataError, match=r"no type_map\.raw; name the elements"):
        DeepmdStore(str(system(tmp_path / "a", type_map="")))
    assert DeepmdStore(str(tmp_path / "a"), type_map=["C", "N"])[0].atomic_number.tolist() == [6, 7, 7]
    with pytest.raises(UnknownElement, match=r"b/type_map\.raw: 'Qq' is no chemical element"):
        DeepmdStore(str(system(tmp_path / "b", type_map="O Qq")))
    with pytest.raises(DataError, match=r"atom types 0…2, but the type map has 2 elements"):
        DeepmdStore(str(system(tmp_path / "c", types=(0, 1, 2))))
    with pytest.raises(FileFormatError, match=r"type\.raw: expected one whole number"):
        (tmp_path / "a" / "type.raw").write_text("O H H")
        DeepmdStore(str(tmp_path / "a"))


def test_charge_spin_of_all_or_none(tmp_path):
    system(tmp_path / "a", charge_spin=lambda n: np.ones((n, 2)))
    system(tmp_path / "b")
    with pytest.warns(GeomlibWarning, match=r"2 of 4 sets have charge_spin\.npy"):
        store = DeepmdStore(str(tmp_path))
    assert "charge" not in store.fields


def test_real_systems(shared_data):
    water = shared_data / "water_dpmd"
    store = DeepmdStore([str(water / f"data_{k}") for k in (0, 1, 2)])
    assert len(store) == 320
    energies = torch.cat([graph.energy for graph in store])
    forces = torch.cat([graph.forces for graph in store])
    assert float(energies.mean() / 192) == pytest.approx(-155.956, abs=1e-3)
    assert float(forces.square().mean().sqrt()) == pytest.approx(0.81, abs=0.01)
    assert DeepmdStore(str(water / "nopbc")).sizes.bincount().tolist()[7:11] == [1562, 15, 0, 485]
    assert DeepmdStore(str(water / "mixed_property"), fields=[])[3].num_nodes == 20
    hessian = DeepmdStore(str(water / "hessian"), fields=["hessian"])[0].hessian
    assert torch.allclose(hessian, hessian.permute(1, 0, 3, 2), atol=1e-4)
    virial = DeepmdStore(str(water / "dplr_virial"), fields=["virial", "stress"])[0]
    assert torch.allclose(virial.stress * 16.421**3, -virial.virial, rtol=1e-3)
