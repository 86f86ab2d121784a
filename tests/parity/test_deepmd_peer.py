"""DPA3 beside deepmd-kit itself, in both directions: its fresh models here, geomlib's exported nets there.

Runs where GEOMLIB_DEEPMD_PYTHON names an interpreter that has deepmd-kit, or this one has it. Budget: 60 s.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from geomlib.cli import main
from geomlib.data.elements import atomic_numbers
from geomlib.data.graph import GraphData, collate
from geomlib.files.deepmd import import_deepmd
from geomlib.files.deepmd_export import export_deepmd
from geomlib.files.deepmd_tree import read_dp
from geomlib.files.modelfile import save
from geomlib.models import DPA3
from geomlib.nn.derivative import Derivatives

PYTHON = os.environ.get("GEOMLIB_DEEPMD_PYTHON") or (sys.executable if importlib.util.find_spec("deepmd") else None)
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="needs deepmd-kit: set GEOMLIB_DEEPMD_PYTHON to an interpreter that has it"
)

TYPES = ["C", "H", "O"]
REPFLOW = {
    **{"n_dim": 8, "e_dim": 6, "a_dim": 4, "nlayers": 2, "axis_neuron": 3},
    **{"e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 60, "a_rcut": 3.0, "a_rcut_smth": 2.5, "a_sel": 30},
    **{"a_compress_rate": 1, "a_compress_e_rate": 2, "a_compress_use_split": True, "smooth_edge_update": True},
    **{"edge_init_use_dist": True, "use_exp_switch": True, "use_dynamic_sel": True, "sel_reduce_factor": 5.0},
}
FIXED = {"use_dynamic_sel": False, "smooth_edge_update": False, "edge_init_use_dist": False, "use_exp_switch": False}

# of repflow, of the descriptor, of the fitting net, of the model
SECTIONS = {
    "water example": ({}, {}, {}, {}),
    "fixed": (FIXED, {"activation_function": "silu", "env_protection": 0.1}, {}, {}),
    "sequential": ({"sequential_update": True, "update_residual_init": "norm"}, {}, {}, {}),
    "two edge messages": ({"n_multi_edge_message": 2}, {"concat_output_tebd": True}, {}, {}),
    "no compression": ({"a_compress_rate": 0}, {"use_tebd_bias": True}, {"resnet_dt": False}, {}),
    "linear compression": ({"a_compress_rate": 2, "a_compress_e_rate": 1, "a_compress_use_split": False}, {}, {}, {}),
    "average": ({"update_style": "res_avg"}, {}, {"activation_function": "tanh"}, {}),
    "increment": ({"update_style": "res_incr", "update_angle": False}, {"activation_function": "gelu"}, {}, {}),
    "electron configuration": ({}, {"use_econf_tebd": True, "use_tebd_bias": True}, {}, {}),
    "charge and spin": ({}, {"add_chg_spin_ebd": True, "default_chg_spin": [1.0, 2.0]}, {}, {}),
    "excluded pairs": ({}, {"exclude_types": [[0, 1], [2, 2]]}, {}, {}),
    "excluded by the model": ({}, {}, {}, {"atom_exclude_types": [1], "pair_exclude_types": [[1, 2]]}),
    "parameters": ({}, {}, {"numb_fparam": 2, "numb_aparam": 3, "dim_case_embd": 2}, {}),
    "nearest neighbours only": ({"e_sel": 9, "a_sel": 4}, {}, {}, {}),
    "nearest of fixed": ({**FIXED, "e_sel": 9, "a_sel": 4}, {"exclude_types": [[0, 1]]}, {}, {}),
    "residual types": ({"n_dim": 6}, {}, {"neuron": [6, 12, 12]}, {}),
}
EXPORTED = {
    "water example": {},
    "fixed": {"selection": "fixed", "smooth_edge_update": False, "switch": "quintic", "edge_init": "inverse_distance"},
    "sequential": {"update_order": "sequential", "type_embedding": "electron_configuration"},
    "charge and spin": {"charge_spin_embedding": True, "edge_messages": 2, "angle_compression": 0},
    "excluded": {"excluded_pairs": [["H", "O"]], "excluded_elements": ["H"]},
    "parameters": {"frame_parameters": 2, "atom_parameters": 1, "dataset_encoding": 3},
    "statistics": {"environment_scale": 0.0, "update_angles": False, "fitting_precision": "float32"},
    "float32": {"precision": "float32"},
}
PERIODIC = np.array([[6.0, 0.0, 0.0], [0.7, 6.5, 0.0], [-0.3, 0.4, 5.5]])


def section_of(name):
    repflow, descriptor, fitting, model = SECTIONS[name]
    return {
        "type_map": TYPES,
        "descriptor": {
            "type": "dpa3",
            "repflow": {**REPFLOW, **repflow},
            **{"activation_function": "silut:3.0", "precision": "float64", "seed": 3, **descriptor},
        },
        "fitting_net": {
            **{"neuron": [10, 10], "resnet_dt": True, "activation_function": "silut:10.0", "precision": "float64"},
            **{"seed": 3, **fitting},
        },
        **model,
    }


def exported_net(name):
    """A net whose parameters and statistics are all random."""
    widths = {"node_dim": 8, "edge_dim": 6, "angle_dim": 4, "symmetrization_axes": 3, "layers": 2}
    sizes = {"cutoff": 4.0, "cutoff_smooth": 3.0, "angle_cutoff": 3.0, "angle_cutoff_smooth": 2.5}
    counts = {"max_neighbors": 60, "max_angle_neighbors": 30, "fitting_layers": [10, 10]}
    net = DPA3(TYPES, **{"precision": "float64", **widths, **sizes, **counts, **EXPORTED[name]})
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.3)
        net.environment_mean.zero_()
        net.environment_stddev.fill_(net.config["environment_scale"] or 0.4)
    return net


def inputs_of(config):
    """Three frames of fourteen atoms, periodic, with what else the net asks for."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(*[np.arange(3) / 3] * 3, indexing="ij"), -1).reshape(-1, 3)[:14]
    inputs = {
        "coord": (grid + rng.uniform(-0.08, 0.08, (3, 14, 3))) @ PERIODIC,
        "atype": rng.integers(0, 3, (3, 14)),
        "box": np.repeat(PERIODIC.reshape(1, 9), 3, axis=0),
    }
    if config["frame_parameters"]:
        inputs["fparam"] = rng.normal(size=(3, config["frame_parameters"]))
        inputs["aparam"] = rng.normal(size=(3, 14, config["atom_parameters"]))
    if config["charge_spin_embedding"]:
        inputs["charge_spin"] = np.array([[0.0, 1.0], [-2.0, 3.0], [1.0, 2.0]])
    return inputs


def predictions(net, inputs):
    numbers = np.array(atomic_numbers(TYPES))
    graphs = []
    for frame, (coord, type_) in enumerate(zip(inputs["coord"], inputs["atype"], strict=True)):
        graph = GraphData(pos=torch.from_numpy(coord.copy()), atomic_number=torch.from_numpy(numbers[type_]))
        graph.cell, graph.pbc = torch.from_numpy(PERIODIC.copy())[None], torch.ones(1, 3, dtype=torch.bool)
        if "fparam" in inputs:
            graph.frame_parameters = torch.from_numpy(inputs["fparam"][frame : frame + 1])
            graph.atom_parameters = torch.from_numpy(inputs["aparam"][frame])
        if "charge_spin" in inputs:
            charge, spin = inputs["charge_spin"][frame].astype(int)
            graph.charge, graph.spin_multiplicity = torch.tensor([charge]), torch.tensor([spin])
        graphs.append(graph)
    net = Derivatives(net).eval()
    found = net(net.spec.build(collate(graphs)))
    shapes = {"energy": (3,), "forces": (3, 14, 3), "virial": (3, 3, 3)}
    return {name: found[name].detach().double().numpy().reshape(shape) for name, shape in shapes.items()}


def run_peer(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(Files, nets, inputs) of all cases, after one run of deepmd-kit over them."""
    folder = tmp_path_factory.mktemp("peer")
    for position, name in enumerate(SECTIONS):
        (folder / f"theirs{position}.json").write_text(json.dumps(section_of(name)))
        fitting, descriptor = section_of(name)["fitting_net"], section_of(name)["descriptor"]
        asked = {
            "frame_parameters": fitting.get("numb_fparam", 0),
            "atom_parameters": fitting.get("numb_aparam", 0),
            "charge_spin_embedding": descriptor.get("add_chg_spin_ebd", False),
        }
        np.savez(folder / f"theirs{position}.npz", **inputs_of(asked))
    for position, name in enumerate(EXPORTED):
        net = exported_net(name)
        file = save(net, folder / f"ours{position}.safetensors")
        assert main(["model", "export", str(file), str(file.with_suffix(".dp"))]) == 0
        np.savez(folder / f"ours{position}.npz", **inputs_of(net.config))
    run_peer(PYTHON, str(Path(__file__).with_name("deepmd_side.py")), str(folder))
    return folder


def check(net, folder, stem, tolerance):
    with np.load(folder / f"{stem}.npz", allow_pickle=False) as inputs:
        found = predictions(net, inputs)
    assert np.abs(found["forces"]).max() > 1e-3
    with np.load(folder / f"{stem}.out.npz", allow_pickle=False) as expected:
        for name, value in found.items():
            scale = max(1.0, np.abs(expected[name]).max())
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize("name", SECTIONS)
def test_fresh_models_of_deepmd_are_imported(answers, name):
    stem = f"theirs{list(SECTIONS).index(name)}"
    check(import_deepmd(answers / f"{stem}.dp"), answers, stem, 1e-10)


@pytest.mark.parametrize("name", SECTIONS)
def test_fresh_models_of_deepmd_are_exported_as_it_writes_them(answers, name, tree_differences, tmp_path):
    source = answers / f"theirs{list(SECTIONS).index(name)}.dp"
    exported = export_deepmd(import_deepmd(source), tmp_path / "model.dp")
    said_otherwise = {
        "excluded by the model": ["/descriptor/exclude_types", "/pair_exclude_types"],
        "charge and spin": ["/descriptor/default_chg_spin/0", "/descriptor/default_chg_spin/1"],  # 1 for 1.0
    }
    found = tree_differences(read_dp(source)["model"], read_dp(exported)["model"])
    assert found == said_otherwise.get(name, [])


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_nets_predict_the_same_in_deepmd(answers, name):
    net, stem = exported_net(name), f"ours{list(EXPORTED).index(name)}"
    single = "float32" in (net.config["precision"], net.config["fitting_precision"])
    check(net, answers, stem, 1e-5 if single else 1e-9)


def test_an_exported_net_can_be_converted_for_lammps(answers, tmp_path):
    """The TorchScript model that deepmd-kit makes of it gives the same energy through its own interface."""
    code = (
        "import sys, numpy as np\n"
        "from deepmd.entrypoints.convert_backend import convert_backend\n"
        "from deepmd.infer import DeepPot\n"
        "convert_backend(INPUT=sys.argv[1], OUTPUT=sys.argv[2])\n"
        "d = np.load(sys.argv[3])\n"
        "e, f, v = DeepPot(sys.argv[2]).eval(d['coord'], d['box'], d['atype'], mixed_type=True)\n"
        "np.savez(sys.argv[4], energy=e, forces=f, virial=v)\n"
    )
    source = answers / "ours0.dp"
    run_peer(
        PYTHON, "-c", code, str(source), str(tmp_path / "m.pth"), str(source.with_suffix(".npz")), str(tmp_path / "o")
    )
    with np.load(answers / "ours0.out.npz", allow_pickle=False) as eager, np.load(tmp_path / "o.npz") as converted:
        for name, value in eager.items():
            np.testing.assert_allclose(converted[name].reshape(value.shape), value, rtol=0, atol=1e-9)
