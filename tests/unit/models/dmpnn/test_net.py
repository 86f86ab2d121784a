"""DMPNN: what its numbers may depend on, and what not."""

import json

import pytest
import torch
from rdkit import Chem

from geomlib.data.graph import collate
from geomlib.data.molecules import from_smiles
from geomlib.errors import ConfigError
from geomlib.models import family
from geomlib.models.dmpnn import DMPNN

SMILES = ("C[C@H](N)C(=O)O", "c1ccccc1", "C", "[Na+].[Cl-]", "C/C=C/C#N", "CC(=O)Oc1ccccc1C(=O)O")
SMALL = {"hidden": 8, "head_layers": [6]}
VARIANTS = {
    "norm": {},
    "mean": {"aggregation": "mean", "undirected": True, "activation": "silu", "bias": True},
    "sum": {"aggregation": "sum", "depth": 1, "head_layers": [], "hydrogens": True},
    "descriptors": {"descriptors": ["TPSA", "MaxPartialCharge", "ecfp"], "fingerprint_size": 32},
    "residual": {"head": "residual", "head_layers": [8, 8], "chirality": "none"},
}


def fresh(targets=("a",), **options):
    torch.manual_seed(3)
    net = DMPNN(list(targets), **{**SMALL, **options}).double().eval()
    net.fit_statistics(
        [from_smiles(text, target=torch.full((1, len(targets)), 2.0 * k)) for k, text in enumerate(SMILES)]
    )
    return net


def predict(net, *arguments, **options):
    return net(net.spec.build(from_smiles(*arguments, **options)))["target"]


@pytest.fixture(params=VARIANTS)
def net(request):
    return fresh(**VARIANTS[request.param])


def test_atoms_may_be_written_in_any_order(net):
    generator = torch.Generator().manual_seed(0)
    for smiles in SMILES:
        molecule = Chem.MolFromSmiles(smiles)
        expected = predict(net, smiles)
        for _ in range(3):
            order = torch.randperm(molecule.GetNumAtoms(), generator=generator).tolist()
            other = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False)
            torch.testing.assert_close(predict(net, other), expected, rtol=1e-6, atol=1e-9)
        kekule = Chem.MolToSmiles(molecule, kekuleSmiles=True)
        torch.testing.assert_close(predict(net, kekule), expected, rtol=1e-6, atol=1e-9)


def test_a_batch_is_one_by_one(net):
    graphs = [net.spec.build(from_smiles(smiles)) for smiles in SMILES]
    together = net(net.spec.complete(collate(graphs)))
    for name in ("target", "target_raw"):
        torch.testing.assert_close(together[name], torch.cat([net(graph)[name] for graph in graphs]))


def test_the_parts_of_a_mixture_have_no_order(net):
    first = predict(net, ["CCO", "O", "CC#N"], mole_fraction=[0.2, 0.3, 0.5])
    second = predict(net, ["CC#N", "CCO", "O"], mole_fraction=[0.5, 0.2, 0.3])
    torch.testing.assert_close(first, second)
    third = predict(net, ["CC#N", "CCO", "O"], mole_fraction=[0.2, 0.5, 0.3])
    assert (first - third).abs() > 1e-6


def test_a_component_that_is_not_there_counts_for_nothing(net):
    mixed = predict(net, ["CCO", "c1ccccc1"], mole_fraction=[1.0, 0.0])
    torch.testing.assert_close(mixed, predict(net, "CCO"))
    halves = predict(net, ["CCO", "CCO"], mole_fraction=[0.3, 0.7])
    torch.testing.assert_close(halves, predict(net, "CCO"))


def test_config_makes_the_same_net(net):
    config = json.loads(json.dumps(net.config))
    again = type(net)(**config).double().eval()
    again.load_state_dict(net.state_dict())
    assert again.spec == net.spec and again.config == net.config
    for smiles in SMILES:
        torch.testing.assert_close(predict(again, smiles), predict(net, smiles), rtol=0, atol=0)


def test_chirality_is_seen_and_may_be_left_out():
    left, right = "C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"
    assert (predict(fresh(), left) - predict(fresh(), right)).abs() > 1e-6
    blind = fresh(chirality="none")
    torch.testing.assert_close(predict(blind, left), predict(blind, right))


def test_a_sum_grows_with_the_molecule_and_a_mean_does_not():
    for aggregation, factor in (("sum", 2.0), ("norm", 2.0), ("mean", 1.0)):
        net = fresh(aggregation=aggregation)
        once, twice = (net.embed(net.spec.build(from_smiles(smiles))) for smiles in ("CCO", "CCO.CCO"))
        torch.testing.assert_close(twice, factor * once)
    graph = net.spec.build(from_smiles("CCO"))
    torch.testing.assert_close(fresh().embed(graph), fresh(aggregation="sum").embed(graph) / 100.0)


def test_descriptors_are_standardised_by_the_training_molecules():
    net = fresh(descriptors=["HeavyAtomCount", "MaxPartialCharge"])
    sizes = torch.tensor([Chem.MolFromSmiles(smiles).GetNumAtoms() for smiles in SMILES]).double()
    graph = net.spec.build(from_smiles("CC[Pt]"))  # without partial charges
    columns = net.embed(graph)[0, -2:]
    expected = (3.0 - sizes.mean()) / sizes.std(correction=0)
    torch.testing.assert_close(columns, torch.stack([expected, torch.zeros(()).double()]), rtol=1e-6, atol=1e-9)


def test_every_parameter_learns():
    net = fresh(descriptors=["TPSA"], targets=("a", "b")).train()
    batch = net.spec.complete(collate([net.spec.build(from_smiles(smiles)) for smiles in SMILES]))
    net(batch)["target_raw"].square().sum().backward()
    idle = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert not idle


def test_family():
    assert family("dmpnn") is DMPNN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "max"}, "one of norm, mean, sum"),
        ({"norm": 0.0}, "positive numbers"),
        ({"descriptors": "mordred"}, "descriptor 'mordred' is unknown"),
        ({"descriptor_dropout": 1.0}, "below 1"),
        ({"chirality": "left"}, "choose from cip"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        DMPNN(["a"], **{**SMALL, **options})
