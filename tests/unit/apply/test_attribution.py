"""Contributions of atoms: they sum to the difference, land on the right atoms, and don't depend on the batch. 15 s."""

import numpy as np
import pytest
import torch

from geomlib.apply.attribution import attribute, scale_words
from geomlib.apply.predict import Predictor, built_batch
from geomlib.apply.token_atoms import write_molecule
from geomlib.data.molecules import from_smiles, parse_molecule
from geomlib.errors import ConfigError
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models import DMPNN, CombinedNet, MISTProperty
from geomlib.nn.targets import Target

ROWS = ["CC(=O)Oc1ccccc1C(=O)O", "CCO", "C[N+](C)(C)CC([O-])=O"]
SIZES = {"layers": 2, "width": 16, "heads": 2, "feedforward": 24, "positions": 60}


def shaken(net):
    generator = torch.Generator().manual_seed(1)
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        net.normalizer.mean.fill_(0.7)
        net.normalizer.deviation.fill_(1.9)
    return net


def nets():
    torch.manual_seed(0)
    graph = {"hidden": 12, "depth": 3, "head": "residual", "head_layers": None, "activation": "gelu"}
    graph_member = {"family": "dmpnn", "hidden": 8, "depth": 2, "activation": "gelu"}
    members = {"text": {"family": "mist-property", **SIZES}, "graph": graph_member}
    return {
        "tokens": MISTProperty(["y", "z"], **SIZES),
        "template": MISTProperty(["y"], **SIZES, template=True, form="canonical", pool="first"),
        "as-is": MISTProperty(["y"], **SIZES, form="as-is"),
        "graph": DMPNN(["y"], **graph),
        "hydrogens": DMPNN(["y"], **graph, hydrogens=True, descriptors=["TPSA"]),
        "both": CombinedNet(["y"], members, head="residual", head_layers=None),
    }


@pytest.mark.parametrize("name", list(nets()))
def test_contributions_sum_to_the_difference(name):
    net = shaken(nets()[name])
    found = attribute(net, ROWS, "y", steps=24, tolerance=1e9)
    predicted = Predictor(net).predict(ROWS).values[:, 0]
    for row, value in zip(found, predicted, strict=True):
        assert row.error is None
        assert row.value == pytest.approx(value, rel=1e-6)
        difference = row.value - row.baseline
        assert abs(difference) > 1e-3
        assert row.atoms.sum() + row.rest == pytest.approx(difference, rel=1e-3)
        assert np.abs(row.atoms).min() > 0
        assert abs(row.gap) < 1e-3 * abs(difference)
    if name == "tokens":
        assert "".join(found[1].tokens) == "CCO" and found[1].rest == 0.0
        np.testing.assert_allclose(found[1].token_values, found[1].atoms)
    if name == "template":
        assert found[1].tokens[0] == "[CLS]" and found[1].token_values[0] == 0.0  # it is no part of the baseline


def test_points_are_doubled_until_the_gap_is_small():
    net = shaken(DMPNN(["y"], hidden=12, depth=3, head_layers=[8]))  # its kinks need many points
    rough, fine = (attribute(net, ROWS[:1], steps=2, tolerance=tolerance)[0] for tolerance in (1e9, 1e-9))
    (eight,) = attribute(net, ROWS[:1], steps=8, tolerance=1e9)
    assert 0 < abs(fine.gap) < abs(rough.gap)
    np.testing.assert_allclose(fine.atoms, eight.atoms)


def test_gradient_is_not_the_integral():
    net = shaken(nets()["tokens"])
    rough = attribute(net, ROWS, method="gradient")
    assert max(abs(row.gap) / abs(row.value - row.baseline) for row in rough) > 0.02


@pytest.mark.parametrize("method", ["integrated", "occlusion"])
@pytest.mark.parametrize("name", ["tokens", "graph", "both"])
def test_atoms_are_numbered_as_the_smiles_has_them(name, method):
    net = shaken(nets()[name])
    a, b = attribute(net, ["OC(F)CCCl", "ClCCC(O)F"], method=method, steps=8)
    # 0 1 2 3 4 5 of the second are 5 4 3 1 0 2 of the first
    np.testing.assert_allclose(b.atoms, a.atoms[[5, 4, 3, 1, 0, 2]], rtol=1e-9, atol=1e-10)
    assert np.unique(a.atoms.round(9)).size == 6


@pytest.mark.parametrize("method", ["integrated", "gradient", "occlusion"])
@pytest.mark.parametrize("name", ["tokens", "graph"])
def test_molecules_do_not_depend_on_their_company(name, method):
    net = shaken(nets()[name])
    together = attribute(net, ROWS, method=method, steps=4, tolerance=1e9)
    for row, smiles in zip(together, ROWS, strict=True):
        (alone,) = attribute(net, [smiles], method=method, steps=4, tolerance=1e9)
        np.testing.assert_allclose(alone.atoms, row.atoms, rtol=1e-8, atol=1e-10)


def test_occlusion_is_what_is_lost_without_the_atom():
    net = shaken(nets()["tokens"])
    (row,) = attribute(net, ["CC=O"], "z", method="occlusion")
    batch = built_batch(net, [from_smiles("CC=O")])
    whole = float(net(batch)["target"][0, 1].detach())
    batch.token_id = batch.token_id.clone()
    batch.token_id[3] = 164  # the oxygen; its double bond stays
    assert row.atoms[2] == pytest.approx(whole - float(net(batch)["target"][0, 1].detach()))
    net = shaken(nets()["graph"])
    (row,) = attribute(net, ["CC=O"], method="occlusion")
    batch = built_batch(net, [from_smiles("CC=O")])
    whole = float(net(batch)["target"][0, 0].detach())
    batch.node_features[2] = 0.0
    batch.edge_features[(batch.edge_index == 2).any(0)] = 0.0
    assert row.atoms[2] == pytest.approx(whole - float(net(batch)["target"][0, 0].detach()))


def test_a_linear_model_is_attributed_exactly():
    """With one linear map behind the sum of the features, each atom has its own features times the weights."""
    net = DMPNN(["y"], hidden=4, depth=1, aggregation="sum", head_layers=[], activation="linear").double().eval()
    weights = torch.linspace(0.1, 1.0, net.encoder.output.in_features - 4, dtype=torch.float64)
    with torch.no_grad():
        net.encoder.output.weight.zero_()
        net.encoder.output.bias.zero_()
        net.encoder.output.weight[0, : len(weights)] = weights
        net.head[0].weight.zero_()
        net.head[0].weight[0, 0] = 1.0
        net.head[0].bias.zero_()
    graph = net.spec.build(from_smiles("CC(=O)N"))
    (row,) = attribute(net, ["CC(=O)N"], steps=1)
    np.testing.assert_allclose(row.atoms, (graph.node_features.double() @ weights).numpy(), rtol=1e-9)


def test_committee_is_the_mean_of_its_members():
    first, second = shaken(nets()["tokens"]), shaken(nets()["tokens"])
    with torch.no_grad():
        second.head[-1].weight.mul_(-0.5)
    alone = [attribute(net, ROWS[:1], steps=8)[0] for net in (first, second)]
    (mean,) = attribute(Predictor([first, second]), ROWS[:1], steps=8)
    np.testing.assert_allclose(mean.atoms, (alone[0].atoms + alone[1].atoms) / 2)
    assert mean.value == pytest.approx((alone[0].value + alone[1].value) / 2)


def test_rows_that_are_no_molecules():
    net = shaken(nets()["tokens"])
    good, bad, long = attribute(net, ["CCO", "C(", "C" * 70], steps=2)
    assert good.error is None
    assert "is no molecule" in bad.error and "more than the 60" in long.error and len(bad.atoms) == 0


def test_wrong_words():
    net = shaken(nets()["tokens"])
    with pytest.raises(ConfigError, match="expected one of integrated, gradient, occlusion"):
        attribute(net, ROWS, method="shap")
    with pytest.raises(ConfigError, match="target 'x': the model has y, z"):
        attribute(net, ROWS, "x")
    with pytest.raises(ConfigError, match="reads neither tokens nor atoms"):
        attribute(CombinedNet(["y"], {}, descriptors=["TPSA"]), ROWS)


def test_state_of_the_net_is_left_alone():
    net = shaken(nets()["both"])
    before = Predictor(net).predict(ROWS).values
    attribute(net, ROWS, steps=2)
    np.testing.assert_array_equal(Predictor(net).predict(ROWS).values, before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_scales():
    assert scale_words(Target("y", unit="eV")) == "eV"
    assert scale_words(Target("y", normalizer="log")) == "ln(y)"
    assert scale_words(Target("y", kind="binary")) == "log-odds"


@pytest.mark.parametrize("form", ["kekule", "canonical", "as-is"])
def test_written_molecule_keeps_the_numbers_of_its_atoms(form):
    smiles = "[H]N(C(=O)c1ccncc1)C[C@H](F)Cl.[Na+]"
    written = write_molecule(smiles, SmilesTokens(form))
    molecule = parse_molecule(smiles)
    assert written.size == molecule.GetNumAtoms()
    for atom in molecule.GetAtoms():
        own = [t for t, owner in zip(written.tokens, written.atoms, strict=True) if owner == (atom.GetIdx(),)]
        assert any(atom.GetSymbol().lower() == token.lower() for token in own), (written, atom.GetIdx())
    values, rest = written.on_atoms(np.ones(len(written.tokens)))
    assert values.sum() + rest == pytest.approx(len(written.tokens))
    assert rest == sum(token in "()." for token in written.tokens)
