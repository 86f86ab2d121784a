"""Choosing structures from a pool. Budget: 5 s."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import geomlib
import geomlib.models
from geomlib.apply.ase import Calculator
from geomlib.apply.committee import model_deviation
from geomlib.apply.pool import choose, pair_fingerprint, pick
from geomlib.cli import main
from geomlib.errors import ConfigError, DataError
from geomlib.files.committee import write_committee
from geomlib.testing import ToyPotential
from geomlib.testing.nets import perturb_parameters


def nets() -> list[ToyPotential]:
    found = [ToyPotential(["Cu", "H", "O"]) for _ in range(3)]
    for seed, net in enumerate(found):
        perturb_parameters(net, seed=seed)
    return found


def pool() -> list[Atoms]:
    frames = [bulk("Cu", cubic=True) for _ in range(10)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.02 * (seed + 1), seed=seed)
    return [frames[k] for k in (3, 9, 0, 5, 7, 1, 8, 2, 6, 4)]


def test_picks_the_largest_in_the_order_of_the_pool():
    assert pick(pool(), np.array([3, 9, 0, 5, 7, 1, 8, 2, 6, 4.0]), 3).tolist() == [1, 4, 6]


def test_diverse_ones_are_no_copies():
    first, second = molecule("H2O"), molecule("H2O")
    second.positions[1] *= 1.3
    copies = [first.copy() for _ in range(8)] + [second.copy() for _ in range(4)]
    deviation = np.linspace(2, 1, 12)
    assert pick(copies, deviation, 2).tolist() == [0, 1]
    chosen = pick(copies, deviation, 2, diverse=True)
    assert chosen[0] == 0 and chosen[1] >= 8
    assert sorted(pick(copies, deviation, 12, diverse=True)) == list(range(12))


def test_fingerprints_know_no_frame_of_reference():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms[2].symbol = "H"
    other = atoms[[3, 2, 0, 1]]
    other.rotate(50, (1, 2, 3), rotate_cell=True)
    other.translate((1, 2, 3))
    elements = [1, 29]
    assert np.allclose(pair_fingerprint(atoms, elements), pair_fingerprint(other, elements), atol=1e-10)
    other.positions[0] += 0.1
    assert not np.allclose(pair_fingerprint(atoms, elements), pair_fingerprint(other, elements), atol=1e-3)


def test_choice():
    committee = Calculator(nets())
    frames = pool()
    frames[0].calc = SinglePointCalculator(frames[0], energy=1.0)
    frames[0].info["charge"] = 0
    found = choose(committee, frames, 4)
    largest = [model_deviation(row).forces.max() for row in committee.evaluate(frames)]
    assert np.allclose(found.deviation, largest, rtol=1e-6)
    wanted = sorted(np.argsort(largest)[-4:].tolist())
    assert [frame.info["pool_index"] for frame in found.frames] == wanted
    assert all(frame.calc is None and "force_deviation" in frame.arrays for frame in found.frames)
    low, high = np.sort(largest)[[2, 5]]
    between = choose(committee, frames, 2, between=(low, high))
    assert between.candidates == 4
    assert all(low <= frame.info["max_devi_f"] <= high for frame in between.frames)


def test_in_vain():
    committee, frames = Calculator(nets()), pool()
    with pytest.raises(DataError, match="11 structures are to be chosen, but only 10 come into question"):
        choose(committee, frames, 11)
    with pytest.raises(ConfigError, match="0 structures are to be chosen"):
        choose(committee, frames, 0)
    with pytest.raises(ConfigError, match=r"between 0\.3 and 0\.1 eV/Å"):
        choose(committee, frames, 1, between=(0.3, 0.1))
    with pytest.raises(ConfigError, match="takes a committee of two or more"):
        choose(Calculator(nets()[0]), frames, 1)


def test_as_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(geomlib.models.FAMILIES, "toy", "geomlib.testing.toy:ToyPotential")
    write_committee("committee.json", [geomlib.save(net, f"{k}.safetensors") for k, net in enumerate(nets())])
    write("pool.extxyz", pool())
    assert main(["select", "committee.json", "pool.extxyz", "out.extxyz", "--count", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    frames = read("out.extxyz", index=":")
    assert values["chosen"] == [frame.info["pool_index"] for frame in frames] and values["pool"] == 10
    words = ["0.safetensors", "pool.extxyz@:5", "out.extxyz", "-n", "2", "--committee", "1.safetensors", "--diverse"]
    assert main(["select", *words]) == 0
    out = capsys.readouterr().out
    assert "pool               5" in out and "chosen             2" in out and "wrote out.extxyz" in out
    assert main(["select", "0.safetensors", "pool.extxyz", "none.extxyz"]) == 1
    assert capsys.readouterr().err.endswith("takes a committee of two or more\n") and not Path("none.extxyz").exists()
