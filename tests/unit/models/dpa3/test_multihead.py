"""Several heads on one descriptor: shared tensors, chosen heads, joined nets. Budget: 6 s."""

import pytest
import torch

from geomlib.data.graph import collate
from geomlib.errors import ConfigError, DataError
from geomlib.files.modelfile import load, save
from geomlib.models import DPA3, MultiHeadDPA3
from geomlib.models.dpa3.transfer import with_code, without_code
from geomlib.nn.derivative import Derivatives

HEADS = ["water", "clusters", "alloy"]
ELEMENTS = ["H", "C", "O"]
WAYS = {
    "separate": {"fitting": "separate"},
    "shared": {"fitting": "shared"},
    "biases": {"fitting": "shared", "dataset_biases": True},
}
FITTINGS = pytest.mark.parametrize("fitting", WAYS)


@pytest.fixture
def make(small):
    """A net with random energies of the elements."""

    def build(fitting, **options):
        torch.manual_seed(0)
        net = MultiHeadDPA3(HEADS, elements=ELEMENTS, **{**small, **WAYS[fitting], **options})
        net.energy_bias.normal_()
        return net

    return build


@pytest.fixture
def batch(make_liquid):
    """Six structures, two of each head, one after the other."""

    def build(spec, heads=(0, 1, 2, 2, 1, 0)):
        graphs = []
        for seed, head in enumerate(heads):
            graph = make_liquid(seed, atoms=5 + seed % 3)
            graph.head = torch.tensor([head])
            graphs.append(spec.prepare(graph))
        return spec.complete(collate(graphs))

    return build


@FITTINGS
def test_a_head_alone_is_the_head_among_others(make, batch, fitting):
    net = make(fitting).eval()
    together = Derivatives(net).eval()(batch(net.spec))
    energies, forces = [], []
    for position in (0, 1, 2, 2, 1, 0):
        single = net.single(net.heads[position])
        assert type(single) is DPA3 and type(single)(**single.config).config == single.config
    for index, graph in enumerate(batch(net.spec).to_data_list()):
        head = net.heads[(0, 1, 2, 2, 1, 0)[index]]
        alone = Derivatives(net.single(head)).eval()(net.spec.complete(graph))
        energies.append(alone["energy"])
        forces.append(alone["forces"])
    torch.testing.assert_close(together["energy"], torch.cat(energies), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(together["forces"], torch.cat(forces), rtol=1e-12, atol=1e-13)


@FITTINGS
def test_one_graph_is_evaluated_bit_for_bit_as_by_its_head(make, batch, fitting):
    net = make(fitting).eval()
    graph = batch(net.spec, heads=(1,))
    assert torch.equal(net(graph)["atom_energy"], net.single(net.heads[1])(graph)["atom_energy"])
    other = net.single(net.heads[2])(graph)["energy"]
    assert not torch.allclose(net(graph)["energy"], other)


@FITTINGS
def test_heads_are_sorted_and_every_tensor_stands_once(make, tmp_path, fitting):
    net = make(fitting)
    assert net.heads == sorted(HEADS)
    names = list(net.state_dict())
    storages = [value.data_ptr() for value in net.state_dict().values() if value.numel()]
    assert len(set(storages)) == len(storages)
    assert sum(name.startswith("blocks.0.node_self") for name in names) == 2
    assert sum(name.endswith("layers.0.weight") for name in names) == (3 if fitting == "separate" else 1)
    assert len(list(net.parameters())) == len({id(parameter) for parameter in net.parameters()})
    count = sum(parameter.numel() for parameter in net.parameters())
    plain = DPA3(**{**net._single_config("water"), "dataset_encoding": 0, "dataset_biases": False})
    more = count - sum(parameter.numel() for parameter in plain.parameters())
    of_fitting = sum(parameter.numel() for parameter in plain.fitting.parameters())
    first, *further = (len(HEADS) * layer.out_features for layer in plain.fitting.layers[:-1])
    # what heads cost: a column of the first layer each, and biases of the further ones
    assert more == {"separate": 2 * of_fitting, "shared": first, "biases": first + sum(further)}[fitting]


@FITTINGS
def test_the_head_alone_trains_the_same_tensors(make, fitting):
    net = make(fitting)
    single = net.single("water")
    with torch.no_grad():
        single.blocks[0].node_self.weight.add_(1.0)
        single.fitting.layers[0].bias.add_(1.0)
        single.energy_bias.add_(1.0)
    part = net.fitting[net.position("water")] if fitting == "separate" else net.fitting
    assert torch.equal(net.blocks[0].node_self.weight, single.blocks[0].node_self.weight)
    assert torch.equal(part.layers[0].bias, single.fitting.layers[0].bias)
    assert torch.equal(net.energy_bias[net.position("water")], single.energy_bias)
    assert not torch.equal(net.energy_bias[0], single.energy_bias)


def test_the_gradient_of_a_batch_reaches_the_fitting_net_of_its_head_alone(make, batch):
    net = make("separate")
    Derivatives(net).train()(batch(net.spec, heads=(1, 1)))["forces"].square().sum().backward()
    for position, part in enumerate(net.fitting):
        gradients = [parameter.grad for name, parameter in part.named_parameters() if name != "layers.2.bias"]
        assert all((grad is not None and bool(grad.any())) == (position == 1) for grad in gradients)
    assert all(parameter.grad is not None for parameter in net.blocks[0].node_edge.parameters())


def test_mixed_batches_can_be_differentiated_twice(make, batch):
    net = make("separate")
    mixed = Derivatives(net).train()(batch(net.spec))
    mixed["forces"].square().sum().backward()
    total = [parameter.grad.clone() for parameter in net.blocks.parameters() if parameter.grad is not None]
    net.zero_grad()
    for graph in batch(net.spec).to_data_list():
        Derivatives(net).train()(net.spec.complete(graph))["forces"].square().sum().backward()
    parts = [parameter.grad for parameter in net.blocks.parameters() if parameter.grad is not None]
    for a, b in zip(total, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@FITTINGS
def test_statistics_are_those_of_each_head(small, make_liquid, fitting):
    options = {**small, "environment_scale": 0.0, "frame_parameters": 1}
    net = MultiHeadDPA3(["a", "b"], elements=ELEMENTS, **WAYS[fitting], **options)
    graphs = {"a": [], "b": []}
    for seed in range(12):
        graph = make_liquid(seed, atoms=6 + seed % 4, periodic=seed % 2 == 0)
        graph.head = torch.tensor([seed % 2])
        graph.frame_parameters = torch.tensor([[10.0 * (seed % 2) + seed]]).double()
        energies = torch.tensor([-1.0, -2.0, -3.0]).double() * (1 + seed % 2)
        graph.energy = energies[net.types(graph.atomic_number)].sum(0, keepdim=True)
        if seed % 2:
            del graph.cell, graph.pbc  # heads may differ in their fields
        graphs["ab"[seed % 2]].append(graph)
    net.fit_statistics(graphs["a"] + graphs["b"])
    torch.testing.assert_close(net.energy_bias, torch.tensor([[-1.0, -2, -3], [-2, -4, -6]]).double())
    for head in ("a", "b"):
        plain = DPA3(**net._single_config(head))
        plain.fit_statistics(graphs[head])
        single = net.single(head)
        torch.testing.assert_close(single.energy_bias, plain.energy_bias)
        if fitting == "separate":
            assert torch.equal(single.fitting.frame_mean, plain.fitting.frame_mean)
    if fitting != "separate":
        mean = torch.cat([graph.frame_parameters for graph in graphs["a"] + graphs["b"]]).mean(0)
        torch.testing.assert_close(net.fitting.frame_mean, mean)
    assert bool((net.environment_stddev != 1.0).all())


def test_a_head_without_graphs_keeps_its_energies(make, make_liquid):
    net = make("separate")
    before = net.energy_bias.clone()
    graph = make_liquid(0)
    graph.head, graph.energy = torch.tensor([2]), torch.tensor([1.0]).double()
    net.fit_statistics([graph])
    assert torch.equal(net.energy_bias[:2], before[:2]) and not torch.equal(net.energy_bias[2], before[2])


def test_a_graph_has_to_say_its_head(make, make_liquid):
    net = make("shared")
    graph = net.spec.build(make_liquid(0))
    with pytest.raises(DataError, match="the net has the heads alloy, clusters, water, but the graph has no field"):
        net(graph)
    graph.head = torch.tensor([3])
    with pytest.raises(DataError, match=r"'head' is \[3\]; the net has 3"):
        net(graph)
    with pytest.raises(
        ConfigError, match=r"no head 'watter' \(did you mean 'water'\?\); heads: alloy, clusters, water"
    ):
        net.single("watter")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fitting": "sharedd"}, r"fitting='sharedd' is unknown \(did you mean 'shared'\?\)"),
        ({"heads": ["a", "a"]}, "at least one name, each once"),
        ({"heads": []}, "at least one name"),
        ({"heads": ["a.b"]}, "'a.b' is no name of a head"),
        ({"dataset_encoding": 2}, "with 'separate' fitting expected 0"),
        ({"fitting": "shared", "dataset_encoding": 1}, "at least 2, the number of heads"),
        ({"head_fitting_layers": {"c": [8]}}, "names 'c', but the heads are a, b"),
        ({"dataset_biases": True}, "heads with 'separate' fitting have their own biases"),
        ({"fitting": "shared", "head_fitting_layers": {"a": [8]}}, "the fitting net is shared"),
    ],
)
def test_arguments_that_make_no_net(small, arguments, message):
    options = {"heads": ["a", "b"], "elements": ELEMENTS, **small, **arguments}
    with pytest.raises(ConfigError, match=message):
        MultiHeadDPA3(**options)


def test_a_misspelt_option_is_named(small):
    with pytest.raises(TypeError, match=r"no argument 'node_dims' \(did you mean 'node_dim'\?\)"):
        MultiHeadDPA3(["a"], elements=ELEMENTS, node_dims=3)


@FITTINGS
def test_a_file_keeps_all_heads_and_gives_one(make, batch, tmp_path, fitting):
    net = make(fitting).eval()
    path = save(net, tmp_path / "joint.safetensors")
    whole = load(path, head="*")
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in whole.net.state_dict().items())
    graph = batch(net.spec, heads=(2,))
    expected = net(graph)["energy"]
    for single in (load(path, head="water"), load(f"{path}#water")):
        assert type(single.net) is DPA3 and not single.training
        assert torch.equal(single(graph)["energy"], expected)
        assert not any(parameter.requires_grad for parameter in single.parameters())
    again = save(load(path, head="water", dtype="float32"), tmp_path / "water.safetensors")
    assert load(again).net.energy_bias.dtype == torch.float64
    torch.testing.assert_close(load(again)(graph)["energy"], expected, rtol=1e-5, atol=1e-5)


def test_a_file_with_heads_asks_for_one(make, tmp_path, small):
    path = save(make("shared"), tmp_path / "joint.safetensors")
    with pytest.raises(ConfigError, match=r"joint.safetensors: holds several heads.*; it has alloy, clusters, water"):
        load(path)
    with pytest.raises(ConfigError, match=r"has no head 'watr' \(did you mean 'water'\?\)"):
        load(f"{path}#watr")
    plain = save(DPA3(ELEMENTS, **small), tmp_path / "plain.safetensors")
    with pytest.raises(ConfigError, match="holds one model without heads; leave head 'water' out"):
        load(plain, head="water")
    assert load(plain, head="*").net.heads == ()


@FITTINGS
def test_joining_undoes_taking_apart(make, fitting):
    net = make(fitting)
    joined = MultiHeadDPA3.join({name: net.single(name) for name in reversed(net.heads)})
    assert all(joined.config[key] == net.config[key] for key in ("fitting", "dataset_encoding", "dataset_biases"))
    state = net.state_dict()
    assert state.keys() == joined.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in joined.state_dict().items())


def test_nets_with_different_fitting_nets_can_be_joined_and_others_not(make, small, make_liquid):
    net = make("separate", head_fitting_layers={"alloy": [8]})
    assert net.single("alloy").config["fitting_layers"] == [8]
    singles = {"a": net.single("alloy"), "b": net.single("water")}
    joined = MultiHeadDPA3.join(singles)
    graph = joined.spec.build(make_liquid(1))
    for name, single in singles.items():
        assert torch.equal(joined.single(name)(graph)["energy"], single(graph)["energy"])
    other = make("separate")
    with torch.no_grad():
        other.blocks[1].node_self.bias[0] += 1e-9
    with pytest.raises(
        ConfigError, match=r"heads a and b don't share a descriptor: they differ in 'blocks.1.node_self"
    ):
        MultiHeadDPA3.join({"a": net.single("alloy"), "b": other.single("water")})
    with pytest.raises(ConfigError, match="differ in 'layers'"):
        MultiHeadDPA3.join({"a": net.single("alloy"), "b": DPA3(ELEMENTS, **{**small, "layers": 1})})


@pytest.mark.parametrize("fitting", ["shared", "biases"])
def test_a_dataset_code_can_become_a_bias_and_room_for_one_be_made(make, make_liquid, fitting):
    single = make(fitting).single("water").eval()
    graph = single.spec.build(make_liquid(1))
    plain, wider, biased = without_code(single), with_code(single, 5, biases=False), with_code(single, 5, biases=True)
    for changed in (plain, wider, biased):
        torch.testing.assert_close(changed(graph)["energy"], single(graph)["energy"], rtol=1e-13, atol=1e-13)
        assert type(changed)(**changed.config).state_dict().keys() == changed.state_dict().keys()
    assert plain.config["dataset_encoding"] == 0 and not plain.config["dataset_biases"]
    assert not any("dataset_biases" in name for name in plain.state_dict())
    assert wider.fitting.layers[0].in_features == single.config["node_dim"] + 5
    assert [list(row.shape) for row in biased.fitting.dataset_biases] == [
        [5, out] for out in biased.config["fitting_layers"][1:]
    ]


def test_biases_of_a_data_set_act_in_every_hidden_layer(make, batch):
    net = make("biases", fitting_layers=[16, 12, 12]).eval()
    graph = batch(net.spec)
    before = net(graph)["energy"]
    assert len(net.fitting.dataset_biases) == 2
    fresh = torch.cat(
        [net.fitting.layers[0].weight[:, -3:].flatten(), *(row.flatten() for row in net.fitting.dataset_biases)]
    )
    assert 0.4 < float(fresh.detach().std()) < 0.6  # heads begin apart
    position = net.position("water")
    for biases in net.fitting.dataset_biases:
        with torch.no_grad():
            biases[position] += 0.1
        after = net(graph)["energy"]
        assert torch.equal((after != before), graph.head == position)
        before = after
    with pytest.raises(ConfigError, match="dataset_biases=True requires a dataset_encoding"):
        DPA3(**{**net._single_config("water"), "dataset_encoding": 0})


def test_heads_with_a_wider_code_than_their_number(make):
    net = make("shared", dataset_encoding=5)
    assert net.fitting.dataset_code.shape == (3, 5)
    assert net.single("water").config["dataset_encoding"] == 5
