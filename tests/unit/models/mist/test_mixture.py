"""Nets of mixtures with several kinds of nets of molecules. Budget: 10 s."""

import pytest
import torch

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError, DataError
from geomlib.files.modelfile import load, save
from geomlib.models import ConductivityNet, ExcessNet, MixtureNet
from geomlib.tasks.property import PropertyTask

ENCODER = {"family": "mist-property", "layers": 1, "width": 8, "heads": 2, "feedforward": 12, "positions": 64}
BONDS = {"family": "dmpnn", "hidden": 8, "head_layers": [4]}
NUMBERS = {"family": "combined", "descriptors": ["MolWt", "TPSA", "NumHDonors"]}
MOLECULES = {"encoder": ENCODER, "bonds": BONDS, "numbers": NUMBERS}


def mixture(smiles, x, t=310.0, **fields):
    return from_smiles(smiles, mole_fraction=x, temperature=t, **fields)


GRAPHS = [
    mixture(["CCO", "O"], [0.3, 0.7]),
    mixture(["c1ccccc1"], [1.0], 350.0),
    mixture(["CCO", "CC(=O)C", "CCCC"], [0.2, 0.5, 0.3], 290.0),
    mixture(["O", "CCO"], [0.7, 0.3]),
]


def nets(molecule):
    torch.manual_seed(0)
    yield MixtureNet(["a", "b"], molecule)
    for temperature in ("concat", "arrhenius"):
        yield ExcessNet(["a", "b"], molecule, temperature=temperature)
    yield ExcessNet(["a"], molecule, linear=False, curve="redlich-kister")


def target(net, *graphs):
    return net(net.spec.build(collate(list(graphs))))["target"]


@pytest.mark.parametrize("name", MOLECULES)
def test_batch_is_one_by_one_and_order_makes_no_difference(name):
    for net in nets(MOLECULES[name]):
        net.fit_statistics(labelled(len(net.targets)))
        net = net.double().eval()
        together = target(net, *GRAPHS)
        alone = torch.cat([target(net, graph) for graph in GRAPHS])
        torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(together[0], together[3], atol=1e-12, rtol=1e-12)
        turned = target(net, mixture(["CCCC", "CCO", "CC(=O)C"], [0.3, 0.2, 0.5], 290.0))
        torch.testing.assert_close(turned[0], together[2], atol=1e-12, rtol=1e-12)


def labelled(targets):
    generator = torch.Generator().manual_seed(1)
    return [
        mixture(["CCO", "O"], [0.5, 0.5], target=torch.randn((1, targets), generator=generator)),
        mixture(["CCN", "c1ccccc1"], [0.1, 0.9], target=torch.randn((1, targets), generator=generator)),
        mixture(["CCCl"], [1.0], target=torch.randn((1, targets), generator=generator)),
    ]


def test_pure_ends_have_exactly_no_excess():
    net = ExcessNet(["a"], NUMBERS).double().eval()
    batch = net.spec.build(collate([mixture(["CCO", "O"], [1.0, 0.0]), mixture(["CCO", "O"], [0.0, 1.0])]))
    assert bool((net(batch)["target_excess"] == 0).all())
    only = ExcessNet(["a"], NUMBERS, linear=False).double().eval()
    only.fit_statistics(labelled(1))
    assert bool((only(batch)["target"] == 0).all()) and bool((only.normalizer.mean == 0).all())


@pytest.mark.parametrize(("x", "message"), [([0.5, 0.6], "sum to 1"), ([1.2, -0.2], "from 0 to 1")])
def test_bad_compositions_raise(x, message):
    graph = mixture(["CCO", "O"], [0.5, 0.5])
    graph.mole_fraction = torch.tensor(x, dtype=torch.float64)
    for net in nets(NUMBERS):
        with pytest.raises(DataError, match=message):
            target(net, graph)


def test_missing_inputs_raise():
    net = ExcessNet(["a"], NUMBERS)
    with pytest.raises(DataError, match="no temperature"):
        target(net, from_smiles(["CCO", "O"], mole_fraction=[0.5, 0.5]))
    with pytest.raises(DataError, match="-3 K"):
        target(net, mixture(["CCO", "O"], [0.5, 0.5], -3.0))
    graph = mixture(["CCO", "O"], [0.5, 0.5])
    del graph.mole_fraction
    with pytest.raises(DataError, match="no mole fractions"):
        target(net, graph)


def test_labels_of_the_excess_set_its_scale_and_join_the_loss():
    graphs = labelled(1)
    for graph, value in zip(graphs, (0.2, -0.4, float("nan")), strict=True):
        graph.target_excess = torch.tensor([[value]])
    net = ExcessNet(["a"], NUMBERS, excess_weight=2.0)
    net.fit_statistics(graphs)
    assert float(net.excess_deviation) == pytest.approx(torch.tensor([0.2, -0.4]).std().item())
    batch = net.spec.build(collate(graphs))
    with torch.no_grad():
        outputs = net.eval()(batch)
    total, count = net.extra_loss(outputs, batch)
    off = (outputs["target_excess"][:2, 0] - torch.tensor([0.2, -0.4])) / net.excess_deviation
    assert float(count) == 2 and float(total) == pytest.approx(2.0 * off.square().sum().item(), rel=1e-5)


def test_conductivity_counts_the_last_molecule_as_the_salt():
    net = ConductivityNet("ln_k", {**ENCODER, "pool": "first"}).double().eval()
    net.normalizer.deviation.fill_(2.0)
    smiles, x = ["CCOC(=O)OCC", "C1COC(=O)O1", "[Li+]", "F[P-](F)(F)(F)(F)F"], [0.4, 0.4, 0.1, 0.1]
    batch = net.spec.build(collate([mixture(smiles, x)]))
    out = net(batch)
    torch.testing.assert_close(out["target_raw"], out["target"] / 2.0)
    total, count = net.extra_loss(out, batch)
    assert count == 1 and 0 < float(total.detach()) < 1
    solvents = net(net.spec.build(collate([mixture([smiles[1], smiles[0], *smiles[2:]], x)])))
    torch.testing.assert_close(solvents["target"], out["target"], atol=1e-12, rtol=1e-12)


def test_files_bring_nets_back(tmp_path):
    for k, net in enumerate([*nets(BONDS), ConductivityNet("ln_k", BONDS)]):
        net = net.double().eval()
        again = load(save(net, tmp_path / f"{k}.safetensors"), dtype="float64")
        torch.testing.assert_close(target(again, *GRAPHS), target(net, *GRAPHS))


def test_molecules_start_from_a_trained_net_and_thaw_in_stages():
    net, other = MixtureNet(["a"], ENCODER), MixtureNet(["b", "c"], ENCODER)
    net.take_molecule(other.molecule)
    assert all(torch.equal(a, b) for a, b in zip(net.molecule.parameters(), other.molecule.parameters(), strict=True))
    with pytest.raises(ConfigError, match="missing or of another shape"):
        net.take_molecule(MixtureNet(["a"], BONDS).molecule)
    stages = net.thaw_stages()
    assert stages[0] == ["head"] and len(stages) > 1
    names = [name for name, _ in net.named_parameters()]
    assert all(any(name.startswith(part) for name in names) for stage in stages for part in stage)
    task = PropertyTask(net, freeze_encoder=True)
    assert task.net is net


@pytest.mark.parametrize(
    "make",
    [
        lambda: MixtureNet(["a"], {"layers": 1}),
        lambda: MixtureNet(["a"], {"family": "dpa3", "elements": ["H"]}),
        lambda: MixtureNet(["a"], {**BONDS, "targets": ["a"]}),
        lambda: MixtureNet(["a"], BONDS, temperature="arrhenius"),
        lambda: ExcessNet([{"name": "a", "normalizer": "log"}], BONDS),
        lambda: ConductivityNet({"name": "a", "normalizer": "power"}, BONDS),
    ],
)
def test_bad_configurations_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_token_only_batches_need_no_text():
    net = MixtureNet(["a"], ENCODER).eval()
    batch = GraphData(
        token_id=torch.tensor([45, 45, 102]),
        token_component=torch.tensor([0, 0, 1]),
        component_graph=torch.tensor([0, 0]),
        mole_fraction=torch.tensor([0.5, 0.5]),
        temperature=torch.tensor([300.0]),
    )
    assert net(batch)["target"].shape == (1, 1)
