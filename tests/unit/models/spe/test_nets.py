"""GINE and GPS with every encoding: sizes, symmetry, learning, files, plain PyG. Budget: 15 s."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles
from geomlib.data.networks import from_networkx
from geomlib.errors import ConfigError, DataError
from geomlib.files.modelfile import load, save
from geomlib.graphs.spectral import SPETransform
from geomlib.models import GINE, GPS, SPE
from geomlib.models.spe.encodings import ENCODINGS, make_encoding

SMALL_RHO = {"kind": "gin", "layers": 2, "width": 8}
OPTIONS = {
    "none": {},
    "spe": {"d": 8, "m": 4, "p": 6, "rho": SMALL_RHO},
    "spe_edges": {"d": 8, "m": 4, "mlp_width": 8},
    "laplacian": {"d": 8},
    "signnet": {"d": 8, "layers": 2, "width": 8},
    "basisnet": {"d": 8, "width": 8},
    "rwse": {"steps": 5},
    "peg": {"d": 8},
    "pearl": {"p": 6, "powers": 3, "samples": 5, "filter_width": 8, "layers": 2, "width": 8},
}
SIZES = {"node_types": 3, "edge_types": 2, "width": 12, "layers": 2}


def graphs():
    out = []
    for seed, size in enumerate((6, 4, 9, 6, 1)):
        network = nx.random_labeled_tree(size, seed=seed)
        if size > 4:
            network.add_edge(0, size - 1)
        nx.set_node_attributes(network, {node: node % 3 for node in network}, "kind")
        nx.set_edge_attributes(network, {edge: sum(edge) % 2 for edge in network.edges}, "kind")
        graph = from_networkx(network, {"node_type": "kind"}, {"edge_type": "kind"})
        graph.target = torch.tensor([[float(seed)]], dtype=torch.float64)
        out.append(graph)
    return out


def net_of(kind, family=GINE, **options):
    torch.manual_seed(0)
    return family(["y"], encoding={"kind": kind, **OPTIONS[kind]}, **{**SIZES, **options}).double()


def test_every_encoding_is_tested():
    assert set(OPTIONS) == set(ENCODINGS)


def zinc_preset(**options):
    rho = {"norm": "batch", "epsilon": "normal"}
    encoding = {"kind": "spe", "d": 37, "phi": {"kind": "mlp", "norm": "batch"}, "rho": rho, "output_mlp": "unused"}
    return GINE(["y"], encoding=encoding, graph="zinc", node_types=28, edge_types=4, **options)


def test_zinc_preset_has_the_published_numbers_of_parameters():
    """651,495 as published; 26,661 of them belong to an MLP that the published code makes and never calls."""
    net = zinc_preset()
    assert sum(parameter.numel() for parameter in net.parameters()) == 651_495
    assert sum(parameter.numel() for parameter in net.encoding.phi.parameters()) == 6_160
    assert sum(parameter.numel() for parameter in net.encoding.rho.parameters()) == 374_317
    assert sum(parameter.numel() for parameter in net.encoding.unused.parameters()) == 26_661
    assert not any(parameter.requires_grad for parameter in net.encoding.unused.parameters())
    every = zinc_preset(injection="input+layers")
    assert sum(parameter.numel() for parameter in every.parameters()) == 805_095


@pytest.mark.parametrize("family", [GINE, GPS])
@pytest.mark.parametrize("kind", OPTIONS)
def test_batched_is_one_by_one_and_the_order_of_nodes_does_not_matter(kind, family):
    net = net_of(kind, family, norm="layer").eval()
    found = net(net.spec.build(collate(graphs())))["target"]
    alone = torch.cat([net(net.spec.build(graph))["target"] for graph in graphs()])
    if kind not in ("laplacian", "pearl"):  # these depend on signs, and on vectors drawn for the batch
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
        graph = graphs()[2]
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        other = GraphData(
            node_type=graph.node_type[order], edge_index=order.argsort()[graph.edge_index], edge_type=graph.edge_type
        )
        torch.testing.assert_close(net(net.spec.build(other))["target"], alone[2:3], rtol=1e-9, atol=1e-9)
    assert found.shape == (5, 1) and found.isfinite().all()


@pytest.mark.parametrize("family", [GINE, GPS])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_parameter_is_trained(kind, family):
    net = net_of(kind, family).train()
    batch = net.spec.build(collate(graphs()))
    net(batch)["target_raw"].square().sum().backward()
    idle = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    # MultiheadAttention's key bias does not matter to a softmax, but it has a gradient
    assert not idle


@pytest.mark.parametrize(
    "options",
    [
        {"combine": "concat"},
        {"combine": "distance"},
        {"injection": "input+layers"},
        {"pooling": "add"},
        {"node_types": None, "edge_types": None},
        {"norm": "none", "dropout": 0.2, "epsilon": "normal", "mlp_layers": 2},
    ],
)
def test_options_of_gine(options):
    net = net_of("spe", **options)
    out = net(net.spec.build(collate(graphs())))
    out["target"].sum().backward()
    assert out["target"].shape == (5, 1)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_features_in_place_of_types():
    net = net_of("rwse", node_types=None, edge_types=None, node_features=2, edge_features=3)
    batch = collate(graphs())
    batch.node_features = torch.randn(batch.num_nodes, 2)
    batch.edge_features = torch.randn(batch.num_edges, 3)
    assert net(batch)["target"].shape == (5, 1)
    assert net.inputs == ("edge_index", "node_features", "edge_features")


def test_properties_of_nodes():
    net = net_of("spe", pooling="node")
    labelled = graphs()
    for graph in labelled:
        graph.node_target = torch.randn(graph.num_nodes, 1, dtype=torch.float64) + 5.0
    net.fit_statistics(labelled)
    assert abs(float(net.normalizer.mean) - 5.0) < 1.0
    out = net.eval()(net.spec.build(collate(graphs())))
    assert set(out) == {"node_target"} and out["node_target"].shape == (26, 1)
    with pytest.raises(DataError, match="no field 'node_target'"):
        net.fit_statistics(graphs())


@pytest.mark.parametrize("graph", ["zinc", "molecule"])
def test_molecules_from_smiles(graph):
    features = {"node_types": None, "edge_types": None}
    sizes = {"zinc": {"node_types": 28, "edge_types": 4}, "molecule": features}
    net = net_of("spe", graph=graph, **sizes[graph]).eval()
    texts = ["CCO", "c1ccccc1C(=O)[O-]", "C"]
    together = net(net.spec.build(collate([from_smiles(text) for text in texts])))["target"]
    alone = torch.cat([net(net.spec.build(from_smiles(text)))["target"] for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", [GINE, GPS])
def test_model_files_give_the_same_net(family, tmp_path):
    net = net_of("spe", family).eval()
    save(net, tmp_path / "net.safetensors")
    batch = net.spec.build(collate(graphs()))
    again = load(tmp_path / "net.safetensors")
    assert again.spec == net.spec
    torch.testing.assert_close(again(batch)["target"], net(batch)["target"].detach(), rtol=0, atol=1e-12)


def test_signs_are_drawn_in_training_only():
    net = net_of("laplacian")
    batch = net.spec.build(collate(graphs()))
    training = [net.encoding.encode(batch) for _ in range(4)]
    assert any(not torch.equal(one, training[0]) for one in training[1:])
    assert all(torch.equal(one.abs(), training[0].abs()) for one in training[1:])
    net.eval()
    assert torch.equal(net.encoding.encode(batch), net.encoding.encode(batch))


def test_return_probabilities_are_those_of_random_walks():
    network = nx.lollipop_graph(4, 3)
    graph = from_networkx(network)
    walk = torch.from_numpy(nx.to_numpy_array(network))
    walk = walk / walk.sum(1, keepdim=True)
    expected = torch.stack([torch.linalg.matrix_power(walk, k).diagonal() for k in range(1, 7)], 1)
    found = make_encoding({"kind": "rwse", "steps": 6}).double().encode(graph)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_plain_pyg_in_three_lines():
    data = []
    for size in (5, 8):
        index = torch.tensor(list(nx.cycle_graph(size).edges)).T
        data.append(Data(edge_index=torch.cat([index, index.flip(0)], 1), num_nodes=size))
    data = [SPETransform(8)(one) for one in data]
    encoding = SPE(8, p=6, rho=SMALL_RHO)
    for batch in DataLoader(data, batch_size=2):
        pe = encoding(batch.eigenvalues, batch.eigenvectors, batch.edge_index, batch.batch)
        assert pe.shape == (13, 6)
        torch.testing.assert_close(pe[:5], pe[:1].expand(5, -1), rtol=1e-4, atol=1e-5)  # all nodes of a cycle are alike


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "sep"}, "did you mean 'spe'"),
        ({"encoding": {"kind": "rwse", "step": 3}}, "unexpected keyword argument 'step'"),
        ({"graph": "smiles"}, "graph is 'smiles'"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"node_types": 3, "node_features": 2}, "both given"),
        ({"combine": "multiply"}, "combined by 'multiply'"),
        ({"injection": "layers"}, "injected at 'layers'"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GINE(["y"], **options)


def test_wrong_graphs_are_refused():
    net = net_of("none", node_types=2)
    with pytest.raises(DataError, match="type 2, but the net knows 2 types"):
        net(collate(graphs()))
    bare = GraphData(node_type=torch.zeros(2, dtype=torch.int64), edge_index=torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(DataError, match="reads 'edge_type', which the graph lacks"):
        net_of("none")(bare)
    with pytest.raises(ConfigError, match="3 heads"):
        GPS(["y"], width=16, heads=3)
