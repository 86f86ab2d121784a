"""SPHNet and QHNet against numbers of the original code, layer by layer, in float64.

Budget: 10 s. The data (original weights, inputs, outputs; see its README) stands beside the repository.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geomlib.data.graph import GraphData, collate
from geomlib.data.orbitals import OrbitalLayout, shells_of
from geomlib.graphs.orbitals import OrbitalEntries
from geomlib.graphs.spec import GraphSpec
from geomlib.models.sphnet.entries import entries_of_blocks
from geomlib.models.sphnet.expansion import BlockExpansion
from geomlib.models.sphnet.net import SPHNet
from geomlib.models.sphnet.normalization import Normalization
from geomlib.models.sphnet.path_gate import PathSchedule, SparseProduct
from geomlib.models.sphnet.qhnet import QHNet
from geomlib.models.sphnet.radial import PUBLISHED_GAIN, BernsteinBasis, ExpNormalBasis, RadialNet
from geomlib.models.sphnet.vectorial import Groups, VectorialInteraction
from geomlib.nn.orbitals import compare_orbitals, generalised_eigenproblem
from geomlib.nn.spherical import NormGate, SphericalLinear
from geomlib.nn.tensor_product import natural_irreps
from geomlib.tasks.hamiltonian_terms import HamiltonianTerm
from geomlib.tasks.matrices import occupied_orbitals

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "sphnet_parity"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/sphnet_parity")

ELEMENTS = ["H", "C", "N", "O", "F"]


class Case:
    """Options, arrays and weights of a case."""

    def __init__(self, name: str) -> None:
        self.options = json.loads((DATA / f"{name}.json").read_text())
        arrays = np.load(DATA / f"{name}.npz", allow_pickle=False)
        self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        source = DATA / f"{self.options.get('weights_from', name)}.safetensors"
        self.weights = {key: value.double() for key, value in load_file(source).items()} if source.exists() else {}

    def __getitem__(self, key: str) -> Tensor:
        value = self.arrays[key]
        return value.double() if value.is_floating_point() else value.long()

    def below(self, prefix: str) -> "Weights":
        return Weights({k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)})

    def graphs(self, net: nn.Module) -> list[GraphData]:
        sizes = self["in.molecule_size"].tolist()
        parts = zip(self["in.pos"].split(sizes), self["in.Z"].split(sizes), strict=True)
        return [net.spec.build(GraphData(pos=pos, atomic_number=number)) for pos, number in parts]


class Weights(dict[str, Tensor]):
    """Original weights, put into the layers of geomlib."""

    def linear(self, layer: SphericalLinear, name: str) -> None:
        _, inputs, outputs = layer.weight.shape
        layer.weight.data = self[f"{name}.weight"].view(-1, inputs, outputs) / inputs**0.5
        if layer.bias is not None:
            layer.bias.data = self[f"{name}.bias"]

    def module(self, layer: nn.Module, name: str) -> None:
        layer.load_state_dict({k.removeprefix(f"{name}."): v for k, v in self.items() if k.startswith(f"{name}.")})

    def radial(self, layer: RadialNet, name: str) -> None:
        first, second = self[f"{name}.layer0.weight"], self[f"{name}.layer1.weight"]
        layer.first.data, layer.second.data = first / len(first) ** 0.5, second / len(second) ** 0.5


def close(value: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    error = float((value.detach() - expected).abs().max())
    assert error <= tolerance * max(1.0, float(expected.abs().max())), error


def unflatten(flat: Tensor, l_max: int, channels: int) -> Tensor:
    """From degree by degree, channel by channel, to [components, rows, channels]."""
    parts = [
        flat[:, channels * degree**2 : channels * (degree + 1) ** 2].view(len(flat), channels, 2 * degree + 1)
        for degree in range(l_max + 1)
    ]
    return torch.cat(parts, dim=2).permute(2, 0, 1).contiguous()


# -------------------------------------------------------------------- single layers


@pytest.mark.parametrize(
    ("name", "basis", "elements"),
    [
        ("layout_ethanol", "def2-svp", ELEMENTS),
        ("layout_mixed", "def2-svp", ELEMENTS),
        ("layout_chnof", "def2-svp", ELEMENTS),
        ("layout_tzvp", "def2-tzvp", [*ELEMENTS, "P", "S", "Cl"]),
    ],
)
def test_layout(name, basis, elements):
    case = Case(name)
    layout = OrbitalLayout(basis, tuple(elements))
    number = case["in.Z"]
    diagonal, pairs = layout.to_blocks(case["in.H"], number)
    assert torch.equal(diagonal, case["out.diag"])
    assert torch.equal(pairs, case["out.pair"])
    masks = layout.to_blocks(torch.ones_like(case["in.H"]), number)
    assert torch.equal(masks[0], case["out.diag_mask"].double())
    assert torch.equal(masks[1], case["out.pair_mask"].double())
    assert torch.equal(layout.to_matrix(diagonal, pairs, number), case["out.H_back"])


def test_radial_functions():
    case = Case("bernstein")
    basis = BernsteinBasis(case.options["K"], case.options["cutoff"]).double()
    basis.raw_decay.data = case.weights["_alpha"]
    close(basis(case["in.d"]), case["out.phi"])
    case = Case("expnorm")
    basis = ExpNormalBasis(case.options["K"], case.options["cutoff"]).double()
    basis.means.data, basis.betas.data = case.weights["means"], case.weights["betas"]
    close(basis(case["in.d"]), case["out.phi"])
    close(basis.switch(case["in.d"]), case["out.fc"])


def test_small_layers():
    case = Case("fcnet")
    net = RadialNet(tuple(case.options["sizes"]), PUBLISHED_GAIN).double()
    Weights({f"net.{key}": value for key, value in case.weights.items()}).radial(net, "net")
    close(net(case["in.x"]), case["out.y"])
    case = Case("normgate")
    gate = NormGate(natural_irreps(2, parity=False), 4).double()
    case.below("").module(gate.gate, "fc")
    close(gate(unflatten(case["in.x"], 2, 4)), unflatten(case["out.y"], 2, 4))
    case = Case("o3linear")
    linear = SphericalLinear(natural_irreps(2, parity=False), 4, 3).double()
    Weights({f"map.{key}": value for key, value in case.weights.items()}).linear(linear, "map")
    close(linear(unflatten(case["in.x"], 2, 4)), unflatten(case["out.y"], 2, 3))


def test_expansion():
    case = Case("expansion")
    expansion = BlockExpansion((3, 2, 1), natural_irreps(4, parity=False), 4, 4, 4).double()
    assert [list(triple[:3]) for triple in expansion.triples] == case["out.triples"].tolist()
    block = expansion.expand(unflatten(case["in.f"], 4, 4), case["in.W"], case["in.b"])
    close(block, case["out.block"])


@pytest.mark.parametrize("name", ["path_gate_k7", "path_gate_k3"])
def test_path_gate(name):
    case = Case(name)
    channels, irreps = case.options["C"], natural_irreps(case.options["L"], parity=False)
    constants = Normalization(published=True)
    explore, compete = 2 * case.options["E"], case.options["E"]
    schedule = PathSchedule(15, case.options["kappa"], explore, compete, seed=0).double()
    schedule.omega.data = case.weights["omega"]
    product = SparseProduct(irreps, irreps, channels, constants, schedule).double()
    assert [[path.x, path.y, path.out] for path in product.paths] == case["out.paths"].tolist()
    close(torch.tensor(constants.coefficients(product.paths, irreps), dtype=torch.float64), case["out.c"])
    weight = case.weights["weight"].view(15, 1, channels)
    x, y = (unflatten(case[f"in.{name}"], case.options["L"], channels) for name in "xy")
    schedule.advance(explore)
    assert schedule.phase == 2
    active = schedule.active()
    assert active.tolist() == case["out.phase2.keep"].tolist()
    close(product(x, y, weight[active], active), unflatten(case["out.phase2.out"], case.options["L"], channels))
    schedule.advance(explore + compete)
    schedule.omega.data = schedule.omega.data.flip(0)  # the choice is made for good
    assert schedule.phase == 3
    assert schedule.active().tolist() == active.tolist()
    schedule.omega.data = case.weights["omega"]
    close(product._coefficients(active, active.tolist()), case["out.phase3.coeff"])
    if bool((case["out.phase3.coeff"] > 0).all()):  # else the published code loses the signs
        close(product(x, y, weight[active], active), unflatten(case["out.phase3.out"], case.options["L"], channels))
    dense = SparseProduct(irreps, irreps, channels, constants).double()
    close(dense(x, y, weight, None), unflatten(case["out.dense.out"], case.options["L"], channels))


# -------------------------------------------------------------------- vectorial part

WHOLE = {
    "node_fea_init.embedding": "embedding",
    "node_fea_init.neighbor_embedding.embedding": "neighbor_embedding",
    "node_fea_init.neighbor_embedding.distance_proj": "neighbor_distance",
    "node_fea_init.neighbor_embedding.combine": "combine",
    "node_fea_init.rbf_linear": "edge_embedding",
    "node_fea_init.distance_encoder": "basis",
    "bipartite_edge_fea_init.rbf_linear": "group_embedding",
    "bipartite_edge_fea_init.distance_encoder": "group_basis",
    "out_norm1": "norm_short",
    "out_norm2": "norm_long",
    "output": "out",
}
SHORT = {
    "layernorm": "norm",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "dk_proj": "edge_key",
    "dv_proj": "edge_value",
    "s_proj": "gates",
    "o_proj": "out",
    "vec_proj": "vectors",
    "f_proj": "edge",
    "trg_proj": "target",
    "src_proj": "source",
}
LONG = {
    "layernorm_node": "norm_atom",
    "layernorm_group": "norm_group",
    "model_2.q": "query",
    "model_2.k": "key",
    "model_2.val": "value",
    "model_2.linears.0": "vector_gate",
    "model_2.linears.1": "vectors",
    "model_2.linears.2": "first",
    "model_2.linears.3": "second",
    "model_2.linears.4": "gate",
    "model_2.linears.5": "out",
    "model_2.mlp_scalar_pos": "to_direction",
    "model_2.mlp_scalar_vec": "to_vectors",
}


def fill_vectorial(module: VectorialInteraction, weights: dict[str, Tensor]) -> None:
    """Load original weights; those that have no effect have no place here."""
    channels = module.start.weight.shape[0]
    state: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith("mlp_node_fea."):  # its second half is never used
            state["start." + key.rpartition(".")[2]] = value[:channels]
        elif key.startswith(("visnet_att0.", "longshortinteract_models.")):
            kind, number, rest = key.split(".", 2)
            table, ours = (SHORT, "short") if kind == "visnet_att0" else (LONG, "long")
            old = next(name for name in table if rest.startswith(f"{name}."))
            state[f"{ours}.{number}.{table[old]}{rest.removeprefix(old)}"] = value
        else:
            old = next(name for name in WHOLE if key.startswith(f"{name}."))
            state[WHOLE[old] + key.removeprefix(old)] = value
    result = module.load_state_dict(state, strict=False)
    assert not result.missing_keys
    last = (f"short.{len(module.short) - 1}.", f"long.{len(module.long) - 1}.")
    assert all(key.startswith(last) for key in result.unexpected_keys)


def groups_of(case: Case) -> Groups:
    of_atom = case["in.group"]
    return Groups(of_atom, int(of_atom.max()) + 1, *case["in.bipartite"])


@pytest.mark.parametrize(("name", "guard"), [("vectorial_short", 0.0), ("vectorial_short_guard", 1e-6)])
def test_short_range_part(name, guard):
    case = Case(name)
    module = VectorialInteraction(16, 3, 0, 8, 50, 5.0, 15.0, unit_guard=guard).double()
    fill_vectorial(module, Case("vectorial_short").weights)
    inputs = case if "in.Z" in case.arrays else Case("vectorial_short")
    close(module(inputs["in.Z"], inputs["in.pos"], inputs["in.edge_index_short"]), case["out.node_attr"])


# -------------------------------------------------------------------- whole nets


def fill(net: SPHNet, case: Case) -> None:
    """Load original weights of SPHNet."""
    fill_vectorial(net.vectorial, case.below("representation_model.Vectorial_interaction."))
    channels = net.config["channels"]
    for number, layer in enumerate(net.interactions):
        weights = case.below(f"representation_model.Spherical_interaction.{number}.conv.")
        weights.radial(layer.of_distance, "fc_node")
        weights.radial(layer.of_invariants, "layer_l0")
        weights.linear(layer.out, "linear_out")
        if number:
            weights.linear(layer.invariant_map, "linear_node_pre")
            weights.linear(layer.gated_map, "linear_node")
            weights.module(layer.norm_gate.gate, "norm_gate.fc")
        if layer.pair_gate is not None:
            weights.module(layer.pair_gate.score, "pair_select_layer")
    for number, layer in enumerate(net.diagonal):
        weights = case.below(f"hami_model.e3_gnn_node_layer.{number}.")
        for ours, theirs in ((layer.map_a, "1"), (layer.map_b, "2"), (layer.out, "3")):
            weights.linear(ours, f"linear_node_{theirs}")
        for ours, theirs in ((layer.gate_a, "_1"), (layer.gate_b, "_2"), (layer.gate, "")):
            weights.module(ours.gate, f"norm_gate{theirs}.fc")
        layer.weight.data = weights["tp_fix.weight"].view(-1, channels)
    for number, layer in enumerate(net.pairs):
        weights = case.below(f"hami_model.e3_gnn_node_pair_layer.{number}.")
        weights.module(layer.of_invariants, "fc")
        weights.radial(layer.of_distance, "fc_node_pair")
        weights.linear(layer.invariant_map, "linear_node_pair_inner")
        weights.linear(layer.map_in, "linear_node_pair_input")
        weights.linear(layer.out, "node_residual")
        weights.module(layer.gate.gate, "norm_gate.fc")
        weights.module(layer.gate_in.gate, "norm_gate_pre.fc")
        if layer.pair_gate is not None:
            weights.module(layer.pair_gate.score, "pair_select_layer")
    weights = case.below("hami_model.")
    fill_output(net, weights)
    net.radial.raw_decay.data = case.weights["representation_model.radial_basis_functions._alpha"]
    net.pair_radial.raw_decay.data = weights["rbf._alpha"]


def fill_output(net: SPHNet | QHNet, weights: Weights) -> None:
    weights.linear(net.diagonal_out, "output_ii")
    weights.linear(net.pairs_out, "output_ij")
    for expansion, name in ((net.diagonal_blocks, "fc_ii"), (net.pair_blocks, "fc_ij")):
        weights.module(expansion.weight_net, f"{name}.hamiltonian")
        weights.module(expansion.bias_net, f"{name}_bias.hamiltonian")


@pytest.mark.parametrize("name", ["sphnet_small", "sphnet_pairgate"])
def test_sphnet(name):
    case = Case(name)
    options = case.options
    net = SPHNet(
        ELEMENTS,
        channels=options["C"],
        bottleneck=options["Cb"],
        short_layers=options["n_short"],
        long_layers=options["n_long"],
        parity=False,
        both_orders=False,
        normalization="published",
        pair_sparsity=options["kappa"] if options["pair_gate"] else 0.0,
    ).double()
    fill(net, case)
    graphs = case.graphs(net)
    batch = collate(graphs)
    scalars = net.vectorial(batch.atomic_number, batch.pos, case["in.edge_index_short"], groups_of(case))
    close(scalars, case["out.node_attr"])
    pairs = batch.pair_index
    vectors = batch.pos[pairs[0]] - batch.pos[pairs[1]]
    rest = (scalars, pairs, batch.node_graph, batch.num_graphs, vectors, vectors.norm(dim=1))
    for value, key in zip(net.spherical(*rest), ("X1", "X2"), strict=True):
        close(value, unflatten(case[f"out.{key}"], 4, options["C"]))
    diagonal, between = net.from_scalars(*rest)
    close(diagonal, 0.5 * (case["out.diag_blocks"] + case["out.diag_blocks"].transpose(1, 2)))
    close(between, case["out.pair_blocks"])
    entries = entries_of_blocks(batch, diagonal, between)
    for number, part in enumerate(entries.split([len(graph.entry_slot) for graph in graphs])):
        close(part.view(case[f"out.H{number}"].shape), case[f"out.H{number}"])


def test_qhnet():
    case = Case("qhnet_small")
    channels = case.options["C"]
    net = QHNet(
        ELEMENTS,
        channels=channels,
        bottleneck=case.options["Cb"],
        layers=case.options["n_layers"],
        functions=case.options["K"],
        parity=False,
        normalization="published",
    ).double()
    for number, layer in enumerate(net.interactions):
        weights = case.below(f"e3_gnn_layer.{number}.conv.")
        weights.radial(layer.of_distance, "fc_node")
        weights.radial(layer.of_invariants, "layer_l0")
        weights.linear(layer.out, "linear_out")
        if number:
            weights.linear(layer.invariant_map, "linear_node_pre")
            weights.linear(layer.gated_map, "linear_node")
            weights.module(layer.norm_gate.gate, "norm_gate.fc")
    weights, layer = case.below("e3_gnn_node_layer.0."), net.diagonal[0]
    for ours, theirs in ((layer.map_a, "1"), (layer.map_b, "2"), (layer.out, "3")):
        weights.linear(ours, f"linear_node_{theirs}")
    for ours, theirs in ((layer.gate_a, "_1"), (layer.gate_b, "_2"), (layer.gate, "")):
        weights.module(ours.gate, f"norm_gate{theirs}.fc")
    layer.weight.data = weights["tp.weight"].view(-1, channels)
    weights, layer = case.below("e3_gnn_node_pair_layer.0."), net.pairs[0]
    weights.module(layer.of_invariants, "fc")
    weights.radial(layer.of_distance, "fc_node_pair")
    weights.linear(layer.invariant_map, "linear_node_pair_inner")
    weights.linear(layer.map_in, "linear_node_pair_n")
    weights.linear(layer.out, "linear_node_pair")
    weights.module(layer.gate.gate, "norm_gate.fc")
    weights.module(layer.gate_in.gate, "norm_gate_pre.fc")
    fill_output(net, case.below(""))
    net.embedding.weight.data = case.weights["node_embedding.weight"][[1, 6, 7, 8, 9]]
    net.radial.raw_decay.data = torch.tensor(1.0).double().expm1().log()  # the decay is 1 there
    graphs = case.graphs(net)
    batch = collate(graphs)
    entries = entries_of_blocks(batch, *net.blocks(batch))
    for number, (part, graph) in enumerate(
        zip(entries.split([len(g.entry_slot) for g in graphs]), graphs, strict=True)
    ):
        expected = case[f"out.H{number}"]
        order = order_of_harmonics(graph.atomic_number)
        close(part.view(expected.shape)[order][:, order], expected)


def order_of_harmonics(atomic_number: Tensor) -> list[int]:
    """Positions in PySCF's order of the orbitals in the order that QHNet's code keeps inside p shells."""
    order: list[int] = []
    for number in atomic_number.tolist():
        for degree in shells_of("def2-svp", number):
            begin = len(order)
            places = (1, 2, 0) if degree == 1 else range(2 * degree + 1)
            order += [begin + place for place in places]
    return order


# -------------------------------------------------------------------- losses

KCAL_PER_MOL = 627.5096


def structure(*numbers: Tensor) -> GraphData:
    """A batch of molecules whose geometry nobody looks at."""
    spec = GraphSpec((OrbitalEntries("def2-svp", tuple(ELEMENTS)),))
    graphs = []
    for number in numbers:
        pos = torch.arange(3.0 * len(number)).double().view(-1, 3)
        graphs.append(spec.build(GraphData(pos=pos, atomic_number=number)))
    return collate(graphs)


def value_of(term: HamiltonianTerm, prediction: Tensor, batch: GraphData) -> Tensor:
    total, count = term.sums(prediction, batch)
    return torch.tensor(term.of_mean(float(total / count)), dtype=torch.float64)


def test_losses_of_blocks():
    case = Case("loss_masked")
    number = torch.tensor([8, 1, 1]), Case("loss_wa_ethanol")["in.Z"]
    batch = structure(*number)
    true, predicted = (
        entries_of_blocks(batch, case[f"in.{name}_diag"], case[f"in.{name}_pair"]) for name in ("ref", "pred")
    )
    batch.hamiltonian = true
    mae, mse, rmse = (
        value_of(HamiltonianTerm(compare="blocks", loss=loss), predicted, batch) for loss in ("mae", "mse", "rmse")
    )
    close(mae, case["out.mae"])
    close(mse, case["out.mse"])
    close(rmse, case["out.rmse"])
    close(mae + mse, case["out.maemse"])


@pytest.mark.parametrize("name", ["loss_wa_water", "loss_wa_ethanol"])
def test_wavefunction_alignment(name):
    case = Case(name)
    batch = structure(case["in.Z"])
    batch.hamiltonian, batch.overlap = (case["in.H_init"] + case["in.dH_ref"]).flatten(), case["in.S"].flatten()
    predicted = (case["in.H_init"] + case["in.dH_pred"]).flatten()
    for loss, power in (("mae", 1), ("mse", 2)):
        levels = 627.0**power * value_of(HamiltonianTerm(compare="levels", loss=loss), predicted, batch)
        residuals = 100.0**power * value_of(HamiltonianTerm(compare="residuals", loss=loss), predicted, batch)
        close(levels, case[f"out.waloss_type20_{loss}"])
        close(residuals, case[f"out.waloss_type21_{loss}"])
        close(levels + residuals, case[f"out.waloss_type22_{loss}"])


@pytest.mark.parametrize("name", ["loss_wa_water", "loss_wa_ethanol"])
def test_errors_of_orbitals(name):
    case = Case(name)
    true, predicted = (
        generalised_eigenproblem(case["in.H_init"] + case[f"in.{which}"], case["in.S"])
        for which in ("dH_ref", "dH_pred")
    )
    close(true.energies, case["out.eps"])
    found = compare_orbitals(predicted, true, case["in.S"], occupied_orbitals(case["in.Z"]))
    close(KCAL_PER_MOL * found.homo.abs(), case["out.homo_err_kcalmol"])
    close(KCAL_PER_MOL * found.lumo.abs(), case["out.lumo_err_kcalmol"])
    close(KCAL_PER_MOL * found.gap.abs(), case["out.homolumogap_err_kcalmol"])
    close(KCAL_PER_MOL * found.occupied.abs().mean(), case["out.occ_err_kcalmol"])
    close(KCAL_PER_MOL * (predicted.energies - true.energies).abs().mean(), case["out.orb_err_kcalmol"])
    close(found.cosine, case["out.cos_sim_eigenvec"])
