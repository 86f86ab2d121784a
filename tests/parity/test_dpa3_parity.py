"""DPA3 against numbers that deepmd-kit 3.2.0 itself produced, through the command line and the model file.

Budget: 25 s. The data (weights, inputs, outputs; see its README) stands beside the repository.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import geomlib
from geomlib.cli import main
from geomlib.data.elements import SYMBOLS, atomic_numbers
from geomlib.data.graph import GraphData, collate
from geomlib.files.deepmd import import_deepmd
from geomlib.files.deepmd_export import export_deepmd
from geomlib.files.deepmd_tree import read_dp
from geomlib.models.dpa3.embedding import electron_configuration

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dpa3_parity"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/dpa3_parity")

TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
"""Of energy [eV], atom energy [eV], forces [eV/Å] and virial [eV], all absolute."""

CASES = {
    "p1": ("p1_dynamic.dp", "p1_dynamic.npz", "", ""),
    "p2": ("p2_static.dp", "p2_static.npz", "", ""),
    "p2 from yaml": ("p2_static.yaml", "p2_static.npz", "", ""),
    "p3": ("p3_nopbc_seq_econf.dp", "p3_nopbc_seq_econf.npz", "", ""),
    **{
        f"p4 {head}, {system}": ("p4_multitask.pt", "p4_multitask.npz", head, system)
        for head in ("Water_PBE0", "Mol_wB97X")
        for system in ("water", "mol")
    },
}


def imported(source, head, folder, dtype=None):
    target = folder / "model.safetensors"
    assert main(["model", "import", str(DATA / source), str(target), *(["--head", head] if head else [])]) == 0
    return geomlib.load(target, dtype=dtype)


def read_case(file, head, system):
    """Inputs and outputs of every frame, by field."""
    with np.load(DATA / file, allow_pickle=False) as stored:
        inputs = {key: stored[f"{system}/{key}" if system else key] for key in ("coord", "atype")}
        inputs["box"] = stored.get(f"{system}/box" if system else "box")
        prefix = f"{head}/{system}/" if head else ""
        outputs = {
            "energy": stored[f"{prefix}energy"].reshape(-1),
            "atom_energy": stored[f"{prefix}atom_energy"].squeeze(-1),
            "forces": stored[f"{prefix}force"],
        }
        if f"{prefix}virial" in stored:
            outputs["virial"] = stored[f"{prefix}virial"].reshape(-1, 3, 3)
    return inputs, outputs


def graphs(inputs, elements):
    numbers = np.array(atomic_numbers(elements))
    types = np.broadcast_to(inputs["atype"], inputs["coord"].shape[:2])
    for frame, (coord, type_) in enumerate(zip(inputs["coord"], types, strict=True)):
        graph = GraphData(pos=torch.from_numpy(coord.copy()), atomic_number=torch.from_numpy(numbers[type_]))
        if inputs["box"] is not None:
            graph.cell = torch.from_numpy(inputs["box"][frame].reshape(1, 3, 3).copy())
            graph.pbc = torch.ones(1, 3, dtype=torch.bool)
        yield graph


def deviations(net, inputs, outputs):
    """Largest absolute deviation of each field over all frames, frame by frame."""
    largest = dict.fromkeys(outputs, 0.0)
    for frame, graph in enumerate(graphs(inputs, net.net.elements)):
        found = net(net.spec.build(graph))
        for name, stored in outputs.items():
            difference = found[name].double().numpy().reshape(stored[frame].shape) - stored[frame]
            largest[name] = max(largest[name], float(np.abs(difference).max()))
    return largest


@pytest.mark.parametrize("case", CASES)
def test_deepmd_numbers_in_float64(case, tmp_path):
    source, file, head, system = CASES[case]
    inputs, outputs = read_case(file, head, system)
    found = deviations(imported(source, head, tmp_path), inputs, outputs)
    assert set(found) >= {"energy", "atom_energy", "forces"}
    assert ("virial" in found) == (inputs["box"] is not None)
    assert max(found.values()) < TOLERANCE["float64"], found


def test_deepmd_numbers_in_float32(tmp_path):
    source, file, head, system = CASES["p1"]
    net = imported(source, head, tmp_path, dtype="float32")
    assert net.net.blocks[0].node_self.weight.dtype == torch.float32
    found = deviations(net, *read_case(file, head, system))
    assert max(found.values()) < TOLERANCE["float32"], found
    assert found["atom_energy"] > 1e-9, "this ran in float64"


@pytest.mark.parametrize("case", CASES)
def test_export_gives_back_what_was_imported(case, tmp_path):
    source, _, head, _ = CASES[case]
    first = import_deepmd(DATA / source, head or None)
    again = import_deepmd(export_deepmd(first, tmp_path / "model.dp"))
    assert again.config == first.config
    assert list(again.state_dict()) == list(first.state_dict())
    for name, value in first.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("case", ["p1", "p2", "p3"])
def test_exported_trees_are_those_of_deepmd(case, tree_differences, tmp_path):
    """Every key and value that deepmd-kit itself wrote."""
    theirs = read_dp(DATA / CASES[case][0])["model"]
    ours = read_dp(export_deepmd(import_deepmd(DATA / CASES[case][0]), tmp_path / "model.dp"))["model"]
    assert tree_differences(theirs, ours) == []


@pytest.mark.parametrize("case", ["p1", "p3"])
def test_deepmd_numbers_batched(case, tmp_path):
    source, file, head, system = CASES[case]
    net = imported(source, head, tmp_path)
    inputs, outputs = read_case(file, head, system)
    batch = net.spec.build(collate(list(graphs(inputs, net.net.elements))))
    found = net(batch)
    for name, stored in outputs.items():
        torch.testing.assert_close(
            found[name].reshape(stored.shape), torch.from_numpy(stored), rtol=0, atol=TOLERANCE["float64"]
        )


def test_every_single_weight_is_seen_in_the_numbers(tmp_path):
    """The stored outputs are large enough that the tolerance means something, for each tensor of the model."""
    source, file, head, system = CASES["p3"]  # sequential updates: even the angles of the last layer count
    net = imported(source, head, tmp_path)
    inputs, outputs = read_case(file, head, system)
    assert np.abs(outputs["forces"]).max() > 1e-3
    unseen = []
    with torch.no_grad():
        for name, value in net.net.state_dict().items():
            before = value.clone()
            value += 1e-3
            if value.numel() and max(deviations(net, inputs, outputs).values()) < TOLERANCE["float64"]:
                unseen.append(name)
            value.copy_(before)
    assert unseen == []


def test_electron_configurations():
    with np.load(DATA / "econf_table.npz", allow_pickle=False) as table:
        assert table["symbol"].tolist() == list(SYMBOLS[1:])
        for symbol, stored in zip(SYMBOLS[1:], table["econf"], strict=True):
            assert electron_configuration(symbol) == stored.tolist(), symbol
