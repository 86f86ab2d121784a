"""Where weights come from, what is refitted, what is trained and how fast. Budget: 15 s."""

import logging
from pathlib import Path

import lightning
import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.data.module import GraphDataModule
from geomlib.data.multi import MultiDataModule
from geomlib.data.stores import MemoryStore
from geomlib.errors import ConfigError
from geomlib.files.modelfile import save
from geomlib.models import DPA3, MultiHeadDPA3
from geomlib.models.dpa3.transfer import with_elements
from geomlib.nn.derivative import Derivatives
from geomlib.tasks.bias import refit_energy_bias
from geomlib.tasks.parameter_groups import freeze, parameter_groups
from geomlib.tasks.potential import PotentialTask
from geomlib.tasks.starting import Start, start_from

SMALL = {
    **{"layers": 2, "node_dim": 8, "edge_dim": 6, "angle_dim": 4, "fitting_layers": [9, 9], "precision": "float64"},
    **{"cutoff": 3.5, "cutoff_smooth": 3.0, "angle_cutoff": 2.5, "angle_cutoff_smooth": 2.0},
}


def plain(elements=("H", "C", "O"), seed=0, **options):
    torch.manual_seed(seed)
    net = DPA3(list(elements), **{**SMALL, **options})
    net.energy_bias.normal_()
    return net


def joint(fitting="separate", heads=("a", "b"), elements=("H", "C", "O"), seed=0, **options):
    torch.manual_seed(seed)
    if fitting == "biases":
        fitting, options = "shared", {"dataset_biases": True, **options}
    net = MultiHeadDPA3(list(heads), elements=list(elements), fitting=fitting, **{**SMALL, **options})
    net.energy_bias.normal_()
    return net


def structures(count=8, numbers=(1, 6, 8), head=None, seed=0):
    """Clusters of changing composition."""
    generator = torch.Generator().manual_seed(seed)
    graphs = []
    for k in range(count):
        nodes = 3 + k % 4
        grid = torch.cartesian_prod(*[torch.tensor([0.0, 1.3])] * 3)[:nodes]
        graph = GraphData(
            pos=(grid + 0.1 * torch.randn(nodes, 3, generator=generator)).double(),
            atomic_number=torch.tensor(numbers)[torch.randint(0, len(numbers), (nodes,), generator=generator)],
        )
        if head is not None:
            graph.head = torch.tensor([head])
        graphs.append(graph)
    return graphs


def labelled(net, graphs, shift=None):
    """Graphs with the energies and forces of a net, and a shift for each element [eV]."""
    model = Derivatives(net).eval()
    for graph in graphs:
        out = model(model.spec.build(graph.clone()))
        graph.energy, graph.forces = out["energy"], out["forces"]
        if shift is not None:
            graph.energy = graph.energy + shift[net.types(graph.atomic_number)].sum()
    return graphs


def energies(net, graphs):
    model = net.eval()
    return torch.cat([model(model.spec.build(graph.clone()))["energy"] for graph in graphs]).detach()


# ---------------------------------------------------------------- energy bias


def test_a_shift_of_the_elements_is_found_exactly():
    net, shift = plain(), torch.tensor([0.5, -2.0, 30.0]).double()
    before = net.energy_bias.clone()
    graphs = labelled(net, structures(12), shift)
    found = refit_energy_bias(net.train(), graphs, max_atoms=9)
    torch.testing.assert_close(found, shift, rtol=0, atol=1e-10)
    torch.testing.assert_close(net.energy_bias, before + shift, rtol=0, atol=1e-10)
    torch.testing.assert_close(energies(net, graphs), torch.cat([graph.energy for graph in graphs]), rtol=0, atol=1e-9)
    assert float(refit_energy_bias(Derivatives(net), graphs).abs().max()) < 1e-9


def test_elements_that_do_not_occur_and_graphs_without_energy_are_left_alone():
    net = plain()
    graphs = labelled(net, structures(6, numbers=(1, 8)), torch.tensor([1.0, 9.0, 2.0]).double())
    graphs[0].energy[0] = float("nan")
    del graphs[1].energy, graphs[1].forces
    found = refit_energy_bias(net, graphs)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 2.0]).double(), rtol=0, atol=1e-10)


def test_each_head_is_refitted_to_its_own_graphs():
    net = joint()
    shifts = torch.tensor([[1.0, 2, 3], [-1, 0, 5]]).double()
    graphs = [labelled(net, structures(9, head=head, seed=head), shifts[head]) for head in (0, 1)]
    for graph in graphs[1]:
        graph.cell = torch.eye(3).double()[None] * 20  # heads may differ in their fields
        graph.pbc = torch.ones(1, 3, dtype=torch.bool)
    found = refit_energy_bias(net, [*graphs[0], *graphs[1]])
    torch.testing.assert_close(found, shifts, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- where from


def start(net, weights, graphs=None, **options):
    store = None if graphs is None else MemoryStore(graphs)
    start_from(Derivatives(net), Start(str(weights), **options), store)
    return net


def test_weights_of_a_plain_file_with_other_elements(tmp_path, caplog):
    source = plain()
    path = save(source, tmp_path / "source.safetensors")
    graphs = structures()
    with caplog.at_level(logging.INFO):
        target = start(plain(["O", "N", "C", "H"], seed=1), path, bias="keep")
    torch.testing.assert_close(energies(target, graphs), energies(source, graphs), rtol=0, atol=1e-12)
    assert "['H', 'C', 'O'] of" in caplog.text and "become ['O', 'N', 'C', 'H']" in caplog.text


@pytest.mark.parametrize("fitting", ["separate", "shared", "biases"])
def test_one_head_of_a_file_starts_a_plain_net(tmp_path, fitting):
    source = joint(fitting)
    path, graphs = save(source, tmp_path / "joint.safetensors"), structures()
    for weights, options in ((path, {"head": "b"}), (f"{path}#b", {})):
        target = start(plain(seed=3), weights, bias="keep", **options)
        torch.testing.assert_close(energies(target, graphs), energies(source.single("b"), graphs), rtol=0, atol=1e-12)
    with pytest.raises(ConfigError, match=r"holds several heads, choose one with model.head; it has a, b"):
        start(plain(), path)
    with pytest.raises(ConfigError, match="has no head 'c'"):
        start(plain(), path, head="c")


@pytest.mark.parametrize("of_source", ["separate", "shared", "biases", "plain"])
@pytest.mark.parametrize("of_target", ["separate", "shared", "biases"])
def test_all_heads_start_from_one(tmp_path, of_source, of_target):
    source = plain() if of_source == "plain" else joint(of_source)
    single = source if of_source == "plain" else source.single("a")
    path, graphs = save(source, tmp_path / "source.safetensors"), structures()
    target = joint(of_target, heads=("x", "y", "z"), seed=2)
    codes = None if of_target == "separate" else target.fitting.dataset_code.clone()
    start(target, path, bias="keep", head=None if of_source == "plain" else "a")
    for head in target.heads:
        torch.testing.assert_close(energies(target.single(head), graphs), energies(single, graphs), rtol=0, atol=1e-12)
    if codes is not None:
        assert torch.equal(target.fitting.dataset_code, codes)  # so that training can tell the heads apart


def test_a_shortcut_that_a_code_would_break_is_refused(tmp_path):
    path = save(plain(fitting_layers=[8, 8]), tmp_path / "source.safetensors")
    with pytest.raises(ConfigError, match="8 to 8 wide can't be carried over to an input of 10"):
        start(joint("shared", fitting_layers=[8, 8]), path)
    start(joint("shared", fitting_layers=[8, 8]), path, fitting="random")


@pytest.mark.parametrize("of_source", ["separate", "shared", "biases"])
def test_each_head_starts_from_its_own(tmp_path, of_source):
    source = joint(of_source, heads=("a", "b", "c"))
    path, graphs = save(source, tmp_path / "source.safetensors"), structures()
    target = joint("separate", heads=("b", "new"), seed=2)
    start(target, path, bias="keep", head={"new": "c"})
    for head, origin in (("b", "b"), ("new", "c")):
        torch.testing.assert_close(
            energies(target.single(head), graphs), energies(source.single(origin), graphs), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("fitting", ["shared", "biases"])
def test_heads_of_a_shared_fitting_net_keep_their_codes(tmp_path, fitting):
    source = joint(fitting, heads=("a", "b", "c"))
    path, graphs = save(source, tmp_path / "source.safetensors"), structures()
    target = joint(fitting, heads=("b", "c"), dataset_encoding=3, seed=2)
    start(target, path, bias="keep")
    for head in ("b", "c"):
        torch.testing.assert_close(
            energies(target.single(head), graphs), energies(source.single(head), graphs), rtol=0, atol=1e-12
        )
    with pytest.raises(ConfigError, match="whose heads share theirs with dataset_encoding 2 and dataset_biases"):
        start(joint(fitting, heads=("b", "c")), path)
    other = "biases" if fitting == "shared" else "shared"
    with pytest.raises(ConfigError, match=f"and dataset_biases {other == 'biases'} too"):
        start(joint(other, heads=("b", "c"), dataset_encoding=3), path)
    with pytest.raises(ConfigError, match="share their fitting net"):
        start(joint("shared", heads=("b", "d"), dataset_encoding=3), path, head={"d": None})


def test_a_fresh_head_beside_known_ones(tmp_path):
    source = joint("separate")
    path, graphs = save(source, tmp_path / "source.safetensors"), structures()
    target = joint("separate", heads=("a", "new"), seed=5)
    fresh = target.single("new").fitting.layers[0].weight.clone()
    with pytest.raises(
        ConfigError, match=r"has no head 'new' of the net; it has a, b: say with model.head: \{new: NAME\}"
    ):
        start(target, path)
    data = [*labelled(source.single("a"), structures(head=0)), *labelled(source.single("b"), structures(head=1))]
    start(target, path, data, bias="keep", head={"new": None})
    torch.testing.assert_close(energies(target.single("a"), graphs), energies(source.single("a"), graphs))
    assert torch.equal(target.single("new").fitting.layers[0].weight, fresh)
    assert torch.equal(target.blocks[0].node_self.weight, source.blocks[0].node_self.weight)
    plainly = plain()
    plainly.fit_statistics(data[8:])
    torch.testing.assert_close(target.energy_bias[1], plainly.energy_bias)


def test_a_random_fitting_net_keeps_the_descriptor(tmp_path):
    source = plain()
    path = save(source, tmp_path / "source.safetensors")
    target = plain(seed=4, fitting_layers=[6, 6])
    fresh = target.fitting.layers[0].weight.clone()
    data = labelled(source, structures(10))
    start(target, path, data, fitting="random")
    assert torch.equal(target.fitting.layers[0].weight, fresh)
    assert torch.equal(target.blocks[1].edge_self.weight, source.blocks[1].edge_self.weight)
    residual = energies(target, data) - torch.cat([graph.energy for graph in data])
    counts = torch.stack([torch.bincount(target.types(graph.atomic_number), minlength=3) for graph in data]).double()
    assert float((counts.T @ residual).abs().max()) < 1e-9  # the bias is the least-squares one


@pytest.mark.parametrize("bias", ["keep", "fresh", "refit"])
def test_what_becomes_of_the_energy_bias(tmp_path, bias):
    source = plain()
    path, shift = save(source, tmp_path / "source.safetensors"), torch.tensor([4.0, 5.0, 6.0]).double()
    data = labelled(source, structures(10), shift)
    target = start(plain(seed=1), path, data, bias=bias)
    fitted = plain()
    fitted.fit_statistics(data)
    expected = {"keep": source.energy_bias, "refit": source.energy_bias + shift, "fresh": fitted.energy_bias}[bias]
    torch.testing.assert_close(target.energy_bias, expected, rtol=0, atol=1e-10)


def test_a_net_of_another_shape_or_cutoff_is_said(tmp_path, caplog):
    path = save(plain(), tmp_path / "source.safetensors")
    with pytest.raises(ConfigError, match=r"tensor 'angle_embedding.weight' has shape \[4, 1\].*wants \[2, 1\]"):
        start(plain(angle_dim=2), path)
    start(plain(cutoff=3.4), path)
    assert "cutoff is 3.5 in the file, 3.4 here" in caplog.text
    with pytest.raises(ConfigError, match=r"model.bias is 'fitted'; choose from refit, keep, fresh"):
        Start("x", bias="fitted")
    with pytest.raises(ConfigError, match=r"model.head names heads of the net, but the net has none"):
        start(plain(), path, head={"a": "b"})
    with pytest.raises(ConfigError, match=r"model.head names 'c'; the net has a, b"):
        start(joint(), path, head={"c": "b"})
    with pytest.raises(ConfigError, match=r"there are no model.weights"):
        PotentialTask(plain(), head="a")


def test_heads_of_an_imported_model(shared_models):
    path = shared_models / "p4_multitask.pt"
    options = {"bias": "keep", "head": "Water_PBE0"}
    from geomlib.files.deepmd import import_deepmd

    source = import_deepmd(path, "Water_PBE0")
    target = start(DPA3(**{**source.config, "dataset_encoding": 0}), path, **options)
    graphs = structures()
    torch.testing.assert_close(energies(target, graphs), energies(source, graphs), rtol=0, atol=1e-10)


@pytest.fixture
def shared_models():
    folder = Path(__file__).parents[4] / "shared" / "data" / "dpa3_parity"
    if not folder.is_dir():
        pytest.skip("the real data are not beside the repository (../shared/data)")
    return folder


# ---------------------------------------------------------------- what is trained


def test_patterns_freeze_whole_names_only():
    net = plain(layers=11)
    frozen = freeze(net, ["blocks.1", "type_embedding", "blocks.*.node_self.bias"])
    still = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert "blocks.10.node_edge.weight" in still and "blocks.10.node_self.bias" not in still
    assert not any(name.startswith(("blocks.1.", "type_embedding")) for name in still)
    assert set(frozen).isdisjoint(still)
    with pytest.raises(
        ConfigError, match=r"freeze 'block.0' matches no parameter of the net \(did you mean 'blocks.0'"
    ):
        freeze(net, ["block.0"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(plain(), ["*"])


def test_groups_have_the_learning_rates_asked_for():
    net = plain()
    groups = parameter_groups(net, learning_rates={"fitting": 10.0, "blocks": 0.1, "blocks.1": 0.5})
    found = {group["name"]: group["lr_factor"] for group in groups}
    assert found == {"rest": 1.0, "fitting": 10.0, "blocks": 0.1, "blocks.1": 0.5}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    by_name = dict(net.named_parameters())
    members = {group["name"]: {id(p) for p in group["params"]} for group in groups}
    assert id(by_name["blocks.1.node_self.bias"]) in members["blocks.1"]
    assert id(by_name["blocks.0.node_self.bias"]) in members["blocks"]
    split = parameter_groups(net, decay_vectors=False, learning_rates={"fitting": 10.0})
    assert [group["name"] for group in split] == ["rest", "rest-vectors", "fitting", "fitting-vectors"]
    assert [group.get("weight_decay") for group in split] == [None, 0.0, None, 0.0]
    with pytest.raises(ConfigError, match=r"learning_rates 'fiting' matches no parameter.*did you mean 'fitting'"):
        parameter_groups(net, learning_rates={"fiting": 2.0})
    with pytest.raises(ConfigError, match="expected a positive factor"):
        parameter_groups(net, learning_rates={"fitting": 0.0})


def fit(task, data, folder, **options):
    arguments = {"default_root_dir": folder, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    arguments |= {"enable_progress_bar": False, "enable_model_summary": False, "inference_mode": False, "max_steps": 3}
    run = lightning.Trainer(**{**arguments, **options})
    run.fit(task, data)
    return run


def test_a_fit_moves_what_is_free_at_its_own_rate(tmp_path):
    source = plain()
    path = save(source, tmp_path / "source.safetensors")
    graphs = labelled(plain(seed=9), structures(8))
    task = PotentialTask(
        plain(["H", "C", "O", "N"], seed=2),
        None,
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
        weights=str(path),
        freeze=["blocks.0", "type_embedding"],
        learning_rates={"fitting": 10.0, "edge_embedding": 0.5},
    )
    run = fit(task, GraphDataModule(MemoryStore(graphs), batch_size=4), tmp_path)
    rates = {group["name"]: group["lr"] for group in run.optimizers[0].param_groups}
    assert rates == pytest.approx({"rest": 1e-3, "fitting": 1e-2, "edge_embedding": 5e-4})
    assert [group["initial_lr"] for group in run.optimizers[0].param_groups] == list(rates.values())
    before = with_elements(source, ["H", "C", "O", "N"]).state_dict()
    for name, value in task.net.net.state_dict().items():
        if name.startswith("blocks.0"):
            assert torch.equal(value, before[name]), name
        elif name.startswith("blocks.1") and name.endswith("node_self.weight"):
            assert not torch.equal(value, before[name]), name
    assert torch.equal(task.net.net.type_embedding.linear.weight[:, :3], before["type_embedding.linear.weight"][:, :3])


def test_two_heads_fine_tune_together(tmp_path):
    source = joint("shared")
    path = save(source, tmp_path / "source.safetensors")
    shifts = torch.tensor([[1.0, 2, 3], [-1, 0, 5]]).double()
    stores = {
        head: MemoryStore(labelled(source.single(head), structures(8, seed=k), shifts[k]))
        for k, head in enumerate(("a", "b"))
    }
    data = MultiDataModule({head: GraphDataModule(store, batch_size=4) for head, store in stores.items()})
    task = PotentialTask(joint("shared", seed=6), weights=str(path))
    fit(task, data, tmp_path, max_steps=1)
    torch.testing.assert_close(task.net.net.energy_bias, source.energy_bias + shifts, rtol=0, atol=1e-9)
