"""The trace of a net with its derivatives: any sizes, second derivatives, no choice by values. Budget: 15 s."""

import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.errors import ConfigError, DataError, UnknownElement
from geomlib.graphs.radius import RadiusEdges
from geomlib.graphs.spec import GraphSpec
from geomlib.models import DPA3, MultiHeadDPA3
from geomlib.models.base import Net
from geomlib.nn.activation import Activation
from geomlib.nn.derivative import Derivatives
from geomlib.nn.reduce import segment_sum
from geomlib.nn.symbolic import trace, traceable, traced_inputs

SMALL = {
    "layers": 2,
    "node_dim": 8,
    "edge_dim": 6,
    "angle_dim": 4,
    "symmetrization_axes": 2,
    "fitting_layers": [8, 8],
    "cutoff": 4.5,
    "cutoff_smooth": 3.8,
    "angle_cutoff": 3.2,
    "angle_cutoff_smooth": 2.7,
    "precision": "float64",
}


def liquid(atoms: int, *, periodic: bool = True, seed: int = 0, **fields) -> GraphData:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*3 * [torch.arange(3.0, dtype=torch.float64)])[torch.randperm(27, generator=generator)]
    return GraphData(
        pos=grid[:atoms] * 5 / 3 + 0.3 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator),
        atomic_number=torch.tensor([8, 1])[torch.randint(0, 2, (atoms,), generator=generator)],
        cell=torch.eye(3, dtype=torch.float64).unsqueeze(0) * 5.0 * periodic,
        pbc=torch.full((1, 3), periodic),
        **fields,
    )


def batches(net, **fields) -> list[GraphData]:
    """One periodic graph, one in the open, two of both kinds, three small ones."""
    parts = [
        [liquid(9)],
        [liquid(7, periodic=False)],
        [liquid(12), liquid(5, periodic=False, seed=1)],
        [liquid(4, seed=2), liquid(3, seed=3), liquid(5, seed=4)],
    ]
    for graph in (graph for part in parts for graph in part):
        for name, value in fields.items():
            graph[name] = value
    return [net.spec.build(collate(part) if len(part) > 1 else part[0]) for part in parts]


def run(program, net, batch):
    inputs = traced_inputs(net, batch)
    assert traceable(inputs)
    assert tuple(inputs) == program.inputs
    outputs = dict(zip(program.outputs, program.graph(*inputs.values()), strict=True))
    return {
        name: value[: batch.num_graphs] if name in ("energy", "virial") else value for name, value in outputs.items()
    }


def loss_of(outputs):
    return sum(
        (outputs[name] * torch.sin(torch.arange(1.0, outputs[name].numel() + 1)).view(outputs[name].shape)).sum()
        for name in ("energy", "forces", "virial")
    )


VARIANTS = [
    {},
    {"update_order": "sequential"},
    {"excluded_pairs": [["O", "H"]], "angle_compression": 0, "smooth_edge_update": False, "selection": "fixed"},
    {"update_angles": False, "concat_type_embedding": True, "update_style": "average"},
    {"charge_spin_embedding": True, "excluded_elements": ["H"], "switch": "quintic", "split_compression": False},
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options) or "default")
def test_one_trace_gives_all_sizes_and_the_gradients_of_a_loss(options):
    net = DPA3(["O", "H"], **{**SMALL, **options})
    net.fitting.layers[-1].bias.data += 0.3
    fields = {}
    if "charge_spin_embedding" in options:
        fields = {"charge": torch.tensor([1]), "spin_multiplicity": torch.tensor([2])}
    first, *others = batches(net, **fields)
    program = trace(net, traced_inputs(net, first))
    eager = Derivatives(net).train()
    for batch in (first, *others):
        found, expected = run(program, net, batch), eager(batch)
        for name in ("energy", "atom_energy", "forces", "virial"):
            assert torch.allclose(found[name], expected[name], rtol=1e-10, atol=1e-10), name
        parameters = list(net.parameters())
        gradients = [
            torch.autograd.grad(loss_of(outputs), parameters, allow_unused=True, materialize_grads=True)
            for outputs in (found, expected)
        ]
        for (name, _), a, b in zip(net.named_parameters(), *gradients, strict=True):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9), name
        assert max(float(b.abs().max()) for b in gradients[1]) > 1e-3


@pytest.mark.parametrize("fitting", ["shared", "separate"])
def test_nets_with_heads(fitting):
    net = MultiHeadDPA3(["a", "b"], fitting=fitting, elements=["O", "H"], **{**SMALL, "layers": 1})
    net.energy_bias[1] = 3.0
    graphs = [liquid(9, head=torch.tensor([1])), liquid(7, seed=1, head=torch.tensor([0]))]
    both, one = net.spec.build(collate(graphs)), net.spec.build(liquid(8, head=torch.tensor([1])))
    program = trace(net, traced_inputs(net, both))
    for batch in (both, one):
        found, expected = run(program, net, batch), Derivatives(net).eval()(batch)
        for name in ("energy", "forces"):
            assert torch.allclose(found[name], expected[name], atol=1e-10), name
    one.head = torch.tensor([2])
    with pytest.raises(DataError, match="'head' is"):
        traced_inputs(net, one)


def test_weights_are_those_of_the_net():
    net = DPA3(["O", "H"], **SMALL)
    batch = net.spec.build(liquid(9))
    program = trace(net, traced_inputs(net, batch))
    before = run(program, net, batch)["forces"].detach()
    with torch.no_grad():
        net.blocks[0].node_edge.weight *= 2.0
    after = run(program, net, batch)["forces"]
    assert torch.allclose(after, Derivatives(net).eval()(batch)["forces"], atol=1e-12)
    assert not torch.allclose(after, before, atol=1e-6)


class Pairs(Net):
    """Sum of exp(−r) over edges; may be made to look at values or to fix a size."""

    inputs = ("pos", "atomic_number", "edge_index", "edge_shift")
    outputs = ("energy",)
    spec = GraphSpec((RadiusEdges(3.0),))

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.fault = fault

    def forward(self, batch):
        vectors = batch.edge_vectors()
        if self.fault == "value" and bool(vectors.sum() > 1e9):
            vectors = 2 * vectors
        count = len(vectors) if self.fault == "size" else vectors.shape[0]
        value = self.weight * torch.exp(-vectors.square().sum(1)) * torch.ones(count, dtype=torch.float64)
        graph = batch.node_graph.index_select(0, batch.edge_index[1])
        return {"energy": segment_sum(value, graph, batch.num_graphs)}


def test_a_net_that_knows_nothing_of_traces():
    net = Pairs()
    first, *others = batches(net)
    program = trace(net, traced_inputs(net, first))
    for batch in others:
        found, expected = run(program, net, batch), Derivatives(net).eval()(batch)
        assert torch.allclose(found["forces"], expected["forces"], atol=1e-12)


@pytest.mark.parametrize(("fault", "message"), [("value", "looks at values"), ("size", "fixes the number of items")])
def test_a_net_that_cannot_be_traced_is_refused(fault, message):
    net = Pairs(fault)
    batch = net.spec.build(liquid(9))
    with pytest.raises(ConfigError, match=message):
        trace(net, traced_inputs(net, batch))


def test_checks_are_made_outside_of_the_trace():
    net = DPA3(["O", "H"], **SMALL)
    graph = net.spec.build(liquid(9))
    graph.atomic_number = graph.atomic_number + 70
    with pytest.raises(UnknownElement, match="not among those of the net"):
        traced_inputs(net, graph)


@pytest.mark.parametrize("name", ["silu", "silut:10", "silut:0.7", "custom_silu:3", "tanh"])
def test_activations_have_a_form_for_traces(name):
    """The same value and first two derivatives, far below and far above the threshold."""
    activation = Activation(name)
    x = torch.cat([torch.linspace(-40, 60, 401, dtype=torch.float64), torch.tensor([0.7, 3.0, 10.0]).double()])

    def curve(function):
        y = x.clone().requires_grad_()
        value = function(y)
        (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
        return value, slope, *torch.autograd.grad(slope.sum(), y)

    form = activation.tail.traced if activation.tail is not None else activation.function
    for found, expected in zip(curve(form), curve(activation), strict=True):
        assert torch.allclose(found, expected, atol=1e-13)
