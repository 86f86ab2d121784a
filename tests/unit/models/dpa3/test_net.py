import json

import pytest
import torch

from geomlib.data.elements import SYMBOLS
from geomlib.data.graph import collate
from geomlib.errors import ConfigError, DataError, SpecMismatch, UnknownElement
from geomlib.models import DPA3
from geomlib.models.dpa3 import PRESETS
from geomlib.nn.derivative import Derivatives

ELEMENTS = ["H", "C", "O"]

VARIANTS = {
    "default": {},
    "fixed": {"selection": "fixed", "max_neighbors": 60, "max_angle_neighbors": 40},
    "quintic": {"switch": "quintic", "edge_init": "inverse_distance"},
    "without_angles": {"update_angles": False},
    "sequential": {"update_order": "sequential"},
    "average": {"update_style": "average"},
    "increment": {"update_style": "increment"},
    "normal_residuals": {"residual_init": "normal"},
    "no_compression": {"angle_compression": 0},
    "linear_compression": {"split_compression": False, "angle_compression": 2},
    "two_messages": {"edge_messages": 2},
    "rough_edges": {"smooth_edge_update": False, "selection": "fixed", "max_neighbors": 60, "max_angle_neighbors": 40},
    "configurations": {"type_embedding": "electron_configuration", "type_embedding_bias": True},
    "concatenated": {"concat_type_embedding": True},
    "excluded_pairs": {"excluded_pairs": [["O", "H"]]},
    "excluded_elements": {"excluded_elements": ["H"]},
    "charged": {"charge_spin_embedding": True, "default_charge_spin": [0, 1]},
    "encoded": {"dataset_encoding": 3},
    "protected": {"environment_protection": 0.1},
    "published": {"initialization": "published", "activation": "tanh", "fitting_timestep": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_option_gives_derivatives_that_differences_confirm(variant, small, make_liquid) -> None:
    torch.manual_seed(0)
    net = Derivatives(DPA3(ELEMENTS, **{**small, **VARIANTS[variant]})).eval()
    graph = net.spec.build(make_liquid())
    out = net(graph)
    assert set(out) == {"energy", "atom_energy", "forces", "virial", "stress"}
    assert out["energy"].dtype == torch.float64
    torch.testing.assert_close(out["atom_energy"].sum(), out["energy"][0])
    assert float(out["forces"].abs().max()) > 1e-4
    step, atom, axis = 1e-4, 2, 1
    energies = []
    for sign in (1, -1):
        moved = graph.clone()
        moved.pos[atom, axis] += sign * step
        energies.append(float(net(moved)["energy"]))
    assert float(out["forces"][atom, axis]) == pytest.approx(
        -(energies[0] - energies[1]) / (2 * step), rel=1e-5, abs=1e-8
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_builds_the_same_net_again(variant, small, make_liquid) -> None:
    net = DPA3(ELEMENTS, **{**small, **VARIANTS[variant]})
    again = DPA3(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    assert again.spec == net.spec
    graph = net.spec.build(make_liquid())
    torch.testing.assert_close(again(graph)["energy"], net(graph)["energy"], rtol=0, atol=0)


def test_fixed_and_dynamic_selection_agree_where_nothing_is_cut(small, make_liquid) -> None:
    torch.manual_seed(0)
    dynamic = DPA3(ELEMENTS, **small, max_neighbors=600, max_angle_neighbors=400)
    fixed = DPA3(ELEMENTS, **small, max_neighbors=60, max_angle_neighbors=40, selection="fixed")
    fixed.load_state_dict(dynamic.state_dict())
    for periodic in (True, False):
        graph = make_liquid(periodic=periodic)
        energies = [net(net.spec.build(graph.clone()))["energy"] for net in (dynamic, fixed)]
        torch.testing.assert_close(*energies, rtol=1e-13, atol=1e-13)


def test_neighbors_beyond_the_count_are_cut_by_distance(small, make_liquid) -> None:
    net = DPA3(ELEMENTS, **small, max_neighbors=6, max_angle_neighbors=3, selection="fixed")
    graph = net.spec.build(make_liquid())
    degree = torch.bincount(graph.edge_index[1])
    assert int(degree.max()) == 6
    pairs = torch.bincount(graph.line_index[1], minlength=graph.num_edges)
    assert int(pairs.max()) == 3
    full = DPA3(ELEMENTS, **small).spec.build(make_liquid())
    for atom in range(graph.num_nodes):
        kept = graph.edge_vectors()[graph.edge_index[1] == atom].norm(dim=1).sort().values
        every = full.edge_vectors()[full.edge_index[1] == atom].norm(dim=1).sort().values
        torch.testing.assert_close(kept, every[: len(kept)])


def test_excluded_pairs_do_not_interact(small, make_liquid) -> None:
    torch.manual_seed(0)
    net = DPA3(["C", "O"], **small, excluded_pairs=[["C", "O"]])
    graph = make_liquid()
    graph.atomic_number = torch.tensor([6, 8] * 4 + [6])
    energy = net(net.spec.build(graph.clone()))["atom_energy"]
    carbons = graph.atomic_number == 6
    alone = graph.clone()
    alone.pos, alone.atomic_number = graph.pos[carbons], graph.atomic_number[carbons]
    torch.testing.assert_close(net(net.spec.build(alone))["atom_energy"], energy[carbons], rtol=1e-12, atol=1e-12)


def test_excluded_elements_have_no_energy(small, make_liquid) -> None:
    net = DPA3(ELEMENTS, **small, excluded_elements=["H"])
    net.energy_bias.fill_(-3.0)
    graph = net.spec.build(make_liquid())
    energy = net(graph)["atom_energy"]
    assert bool((energy[graph.atomic_number == 1] == 0).all())
    assert bool((energy[graph.atomic_number != 1] != 0).all())


def test_charge_and_spin_change_the_energy_of_their_graph_only(small, make_liquid) -> None:
    torch.manual_seed(0)
    net = DPA3(ELEMENTS, **small, charge_spin_embedding=True)
    graphs = []
    for charge in (0, 1):
        graph = net.spec.prepare(make_liquid())
        graph.charge, graph.spin_multiplicity = torch.tensor([charge]), torch.tensor([1 + charge])
        graphs.append(graph)
    together = net(net.spec.complete(collate(graphs)))["energy"].detach()
    assert abs(float(together[0] - together[1])) > 1e-6
    alone = net(net.spec.complete(graphs[1]))["energy"].detach()
    torch.testing.assert_close(alone[0], together[1], rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="charge"):
        net(net.spec.build(make_liquid()))
    graphs[1].charge = torch.tensor([500])
    with pytest.raises(DataError, match="500"):
        net(graphs[1])


def test_dataset_code_enters_the_fitting(small, make_liquid) -> None:
    net = DPA3(ELEMENTS, **small, dataset_encoding=2)
    graph = net.spec.build(make_liquid())
    energies = []
    for head in range(2):
        net.fitting.dataset_code.zero_()[head] = 1.0
        energies.append(float(net(graph)["energy"].detach()))
    assert abs(energies[0] - energies[1]) > 1e-6


def test_frame_and_atom_parameters_are_normalised_by_the_training_data(small, make_liquid) -> None:
    net = DPA3(ELEMENTS, **small, frame_parameters=2, atom_parameters=1)
    graphs = []
    for seed in range(4):
        graph = make_liquid(seed)
        graph.frame_parameters = torch.tensor([[1.0 + seed, 7.0]], dtype=torch.float64)
        graph.atom_parameters = torch.full((graph.num_nodes, 1), float(seed), dtype=torch.float64)
        graph.energy = torch.tensor([float(seed)], dtype=torch.float64)
        graphs.append(graph)
    net.fit_statistics(graphs)
    torch.testing.assert_close(net.fitting.frame_mean, torch.tensor([2.5, 7.0], dtype=torch.float64))
    torch.testing.assert_close(1 / net.fitting.frame_inv_std, torch.tensor([1.25**0.5, 0.01], dtype=torch.float64))
    before = float(net(net.spec.build(graphs[0].clone()))["energy"].detach())
    graphs[0].frame_parameters += 1
    assert abs(float(net(net.spec.build(graphs[0]))["energy"].detach()) - before) > 1e-8
    del graphs[0].frame_parameters
    with pytest.raises(DataError, match="frame_parameters"):
        net(graphs[0])


def test_precision_of_descriptor_and_fitting_are_independent(small, make_liquid) -> None:
    torch.manual_seed(0)
    double = DPA3(ELEMENTS, **small)
    mixed = DPA3(ELEMENTS, **{**small, "precision": "float32", "fitting_precision": "float64"})
    mixed.load_state_dict(double.state_dict())
    assert mixed.edge_embedding.weight.dtype == torch.float32
    assert mixed.fitting.layers[0].weight.dtype == torch.float64
    graph = double.spec.build(make_liquid())
    torch.testing.assert_close(mixed(graph)["energy"], double(graph)["energy"], rtol=1e-4, atol=1e-5)


def test_energy_bias_keeps_its_digits_in_a_float32_net(small) -> None:
    net = DPA3(ELEMENTS, **small)
    value = torch.tensor([-187.123456789012, -93.1, -2041.98765432109], dtype=torch.float64)
    net.energy_bias.copy_(value)
    moved = net.to(torch.float32).to(torch.float64)
    assert torch.equal(moved.energy_bias, value)


def test_an_atom_without_neighbors_and_a_graph_without_edges(small) -> None:
    from geomlib.data.graph import GraphData

    net = Derivatives(DPA3(ELEMENTS, **small)).eval()
    net.net.energy_bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    graph = GraphData(pos=torch.zeros(1, 3, dtype=torch.float64), atomic_number=torch.tensor([6]))
    out = net(net.spec.build(graph))
    assert bool(torch.isfinite(out["energy"]).all())
    assert float(out["forces"].abs().max()) == 0.0
    assert "stress" not in out


def test_unknown_element_names_it_and_those_of_the_net(small, make_liquid) -> None:
    net = DPA3(["H", "O"], **small)
    graph = net.spec.build(make_liquid())
    with pytest.raises(UnknownElement, match=r"\['C'\].*\['H', 'O'\]"):
        net(graph)


def test_a_graph_without_structure_is_refused(small, make_liquid) -> None:
    with pytest.raises(SpecMismatch, match="edge_index"):
        DPA3(ELEMENTS, **small)(make_liquid())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selection": "dynamc"}, "dynamic"),
        ({"angle_cutoff": 7.0, "angle_cutoff_smooth": 3.0}, "beyond"),
        ({"cutoff_smooth": 9.0}, "cutoff_smooth"),
        ({"smooth_edge_update": False}, "dynamic"),
        ({"update_order": "sequential", "update_angles": False}, "sequential"),
        ({"angle_compression": 3}, "divided"),
        ({"elements": ["H", "H"]}, "once"),
        ({"layers": 0}, "layers"),
        ({"layers": 10**9}, "sensible"),
        ({"fitting_layers": [240, 10**9]}, "sensible"),
        ({"activation": "silot"}, "silut"),
        ({"excluded_pairs": [["H", "Fe"]]}, "Fe"),
    ],
)
def test_arguments_that_make_no_net(arguments, message) -> None:
    with pytest.raises(ConfigError, match=message):
        DPA3(**{"elements": ["H", "O"], **arguments})


def test_no_element_of_that_name() -> None:
    with pytest.raises(UnknownElement, match="Xx"):
        DPA3(["H", "Xx"])


TABLE = {  # dpa3 descriptor and fitting net [240, 240, 240], as counted with deepmd-kit
    "L3": 743_617,
    "L6": 1_324_609,
    "L12": 2_486_593,
    "L16": 3_261_249,
    "L24": 4_810_561,
    "L3-wide": 2_439_425,
    "L6-wide": 4_670_273,
    "L12-wide": 9_131_969,
    "DPA-3.1-3M": 3_268_689,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_published_sizes(preset) -> None:
    elements = None if preset == "DPA-3.1-3M" else SYMBOLS[1:]
    net = DPA3.from_preset(preset, elements)
    assert sum(parameter.numel() for parameter in net.parameters()) == TABLE[preset]


def test_size_of_the_water_example() -> None:
    net = DPA3(["O", "H"])
    fitting = sum(parameter.numel() for parameter in net.fitting.parameters())
    assert fitting == 147_361
    assert sum(parameter.numel() for parameter in net.parameters()) - fitting == 1_162_400


def test_presets_say_what_they_need() -> None:
    with pytest.raises(ConfigError, match="L6"):
        DPA3.from_preset("L7", ["H"])
    with pytest.raises(ConfigError, match="elements"):
        DPA3.from_preset("L6")
