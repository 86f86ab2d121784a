"""The data sets in the repository: cards, splits, and labels against the programs that made them."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT

from geomlib.data.atoms import to_atoms
from geomlib.data.cards import Card, CardSplit, CardStore, file_sha256
from geomlib.data.checks import check_card

FOLDER = Path(__file__).parents[3] / "datasets"
NAMES = ("gfn2-molecules", "emt-alloy")
PARTS = ("train", "val", "test")


@pytest.fixture(params=NAMES)
def card(request):
    return Card.read(FOLDER / request.param / "card.yaml")


def script(name):
    """The module datasets/<name>/prepare.py."""
    spec = importlib.util.spec_from_file_location(f"prepare_{name.replace('-', '_')}", FOLDER / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def molecules():
    return CardStore(str(FOLDER / "gfn2-molecules"))


@pytest.fixture(scope="module")
def alloy():
    return CardStore(str(FOLDER / "emt-alloy"))


def test_card_fits_its_file(card):
    (entry,) = card.files
    path = card.folder / entry.path
    assert path.stat().st_size == entry.bytes
    assert file_sha256(path) == entry.sha256
    assert len(card.open()) == card.graphs == card.sample["graphs"]
    assert card.name == card.folder.name
    assert card.licence == "CC0-1.0"


def test_geomlib_data_check_finds_nothing(card):
    assert list(check_card(card, False)) == []


def test_files_are_small_enough_to_ship():
    assert (FOLDER / "gfn2-molecules" / "sample.npz").stat().st_size < 400_000
    assert (FOLDER / "emt-alloy" / "sample.npz").stat().st_size < 200_000


def test_readme_shows_what_the_script_prints(card, capsys):
    script(card.name).statistics(card.folder / "sample.npz")
    printed = capsys.readouterr().out
    assert "mean predictor" in printed
    assert printed in (card.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ethanol", "water", "all"])
def test_molecule_splits_are_disjoint_and_in_order_of_time(molecules, name):
    parts = CardSplit(str(FOLDER / "gfn2-molecules"), name).indices(molecules)
    runs = [(0, 1000)] * (name != "water") + [(1000 + 100 * n, 1100 + 100 * n) for n in range(6)] * (name != "ethanol")
    assert sum(len(part) for part in parts.values()) == sum(end - begin for begin, end in runs)
    assert len(torch.cat(list(parts.values())).unique()) == sum(len(part) for part in parts.values())
    for begin, end in runs:
        train, val, test = (parts[part][(parts[part] >= begin) & (parts[part] < end)] for part in PARTS)
        assert train.min() == begin
        assert train.max() < val.min()
        assert val.max() < test.min()
        assert test.max() == end - 1
        assert len(molecules[begin].atomic_number) == len(molecules[end - 1].atomic_number)
    assert {part: indices.tolist() for part, indices in parts.items()} == script("gfn2-molecules").splits()[name]


def test_official_split_of_molecules_is_ethanol(molecules):
    parts = CardSplit(str(FOLDER / "gfn2-molecules")).indices(molecules)
    assert [len(parts[part]) for part in PARTS] == [760, 40, 200]
    test = CardStore(str(FOLDER / "gfn2-molecules"), "test")
    assert len(test) == 200
    assert all(sorted(graph.atomic_number.tolist()) == [1] * 6 + [6, 6, 8] for graph in test)
    assert len(CardStore(str(FOLDER / "gfn2-molecules"), "water/test")) == 120


def test_molecules_did_not_fall_apart(molecules):
    prepare = script("gfn2-molecules")
    begin = 0
    for run in (prepare.ETHANOL, *prepare.WATER):
        count = sum(run.blocks)
        prepare.check([to_atoms(molecules[i]) for i in range(begin, begin + count)], run)
        begin += count
    assert begin == len(molecules)


def test_the_check_refuses_broken_frames(molecules):
    prepare = script("gfn2-molecules")
    good = to_atoms(molecules[len(molecules) - 1])

    def moved(atoms_of, by):
        graph = molecules[len(molecules) - 1]
        graph.pos[atoms_of] += torch.tensor(by, dtype=torch.float64)
        return to_atoms(graph)

    prepare.check([good], prepare.WATER[-1])
    with pytest.raises(ValueError, match="frame 0: came apart"):
        prepare.check([moved(slice(0, 3), [30.0, 0.0, 0.0])], prepare.WATER[-1])
    with pytest.raises(ValueError, match="hydrogen atom left"):
        prepare.check([moved(1, [0.0, 0.0, 30.0])], prepare.WATER[-1])
    outlier = molecules[0]
    outlier.forces[3, 1] = 20.0
    with pytest.raises(ValueError, match=r"20\.0 eV/Å"):
        prepare.check([to_atoms(outlier)], prepare.ETHANOL)


def need_tblite():
    pytest.importorskip("tblite.ase", reason="tblite is not installed: pip install 'geomlib[labels]'")


@pytest.mark.parametrize("index", [0, 799, 999, 1000, 1234, 1599])
def test_molecule_labels_are_those_of_tblite(molecules, index):
    need_tblite()
    graph = molecules[index]
    frame = script("gfn2-molecules").label(Atoms(graph.atomic_number.numpy(), graph.pos.numpy()))
    assert frame.get_potential_energy() == pytest.approx(float(graph.energy), abs=1e-5)
    np.testing.assert_allclose(frame.get_forces(), graph.forces.numpy(), atol=1e-4)


def test_dynamics_are_reproduced(molecules):
    """One water molecule, the start of the trajectory: chaos has no time to grow."""
    need_tblite()
    prepare = script("gfn2-molecules")
    run = prepare.WATER[0]
    rng = np.random.default_rng(run.seed)
    frames = prepare.trajectory(prepare.water_cluster(1, rng), run, rng)
    for index, (frame, temperature) in zip(range(5), frames, strict=False):
        np.testing.assert_allclose(frame.positions, molecules[1000 + index].pos.numpy(), atol=1e-3)
        assert 0 < temperature < 2000


@pytest.mark.slow
def test_all_molecules_are_reproduced(molecules):
    need_tblite()
    frames = script("gfn2-molecules").frames()
    assert len(frames) == len(molecules)
    for frame, graph in zip(frames, molecules, strict=True):
        np.testing.assert_allclose(frame.positions, graph.pos.numpy(), atol=1e-3)
        assert frame.get_potential_energy() == pytest.approx(float(graph.energy), abs=1e-2)


def test_alloy_labels_are_those_of_ase(alloy):
    for graph in alloy:
        atoms = to_atoms(graph)
        atoms.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(float(graph.energy), abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), graph.forces.numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), graph.stress[0].numpy(), atol=1e-12)


def test_alloy_is_reproduced(alloy):
    frames = script("emt-alloy").frames()
    assert len(frames) == len(alloy)
    for frame, graph in zip(frames, alloy, strict=True):
        stored = to_atoms(graph)
        assert frame.symbols.formula == stored.symbols.formula
        assert (frame.pbc == stored.pbc).all()
        np.testing.assert_allclose(frame.positions, stored.positions, atol=1e-5)
        np.testing.assert_allclose(frame.cell.array, stored.cell.array, atol=1e-5)
        assert frame.get_potential_energy() == pytest.approx(float(graph.energy), abs=1e-4)


def test_alloy_covers_what_its_card_says(alloy):
    parts = CardSplit(str(FOLDER / "emt-alloy")).indices(alloy)
    assert {part: [f"{part_.min()}:{part_.max() + 1}"] for part, part_ in parts.items()} == {
        part: [text] for part, text in script("emt-alloy").splits().items()
    }
    for part in PARTS:
        graphs = [alloy[int(index)] for index in parts[part]]
        assert {tuple(graph.pbc[0].tolist()) for graph in graphs} == {(True, True, True), (True, True, False)}
        assert min(graph.num_nodes for graph in graphs) == 1
        assert {int(z) for graph in graphs for z in graph.atomic_number} == {29, 47, 79}
        seeds = {int(index) // 4 for index in parts[part]}
        assert len(parts[part]) == 4 * len(seeds)
    assert len({tuple(alloy[4 * seed].pos.flatten().tolist()) for seed in range(72)}) == 72
