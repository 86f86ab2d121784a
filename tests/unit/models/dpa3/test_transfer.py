"""Other elements for the same net. Budget: 4 s."""

import pytest
import torch

from geomlib.models import DPA3
from geomlib.models.dpa3.transfer import with_elements

EMBEDDINGS = pytest.mark.parametrize("kind", ["table", "electron_configuration"])


@pytest.fixture
def net(small):
    def make(kind="table", **options):
        torch.manual_seed(1)
        made = DPA3(["O", "H", "C"], **{**small, "type_embedding": kind, **options})
        made.energy_bias.copy_(torch.tensor([-3.0, -1.0, -2.0]))
        made.environment_stddev.copy_(0.2 + 0.1 * torch.rand(3, 4))
        return made.eval()

    return make


@EMBEDDINGS
@pytest.mark.parametrize("elements", [["H", "C", "N", "O"], ["N", "O", "C", "H", "S"], ["C", "O", "H"]])
def test_known_elements_keep_their_predictions(net, make_liquid, kind, elements):
    old = net(kind)
    new = with_elements(old, elements)
    graph = old.spec.build(make_liquid(3))
    torch.testing.assert_close(new(graph)["atom_energy"], old(graph)["atom_energy"], rtol=0, atol=1e-13)
    assert new.elements == elements and new.config["elements"] == elements
    assert new.state_dict()["environment_stddev"].shape == (len(elements), 4)


@pytest.mark.parametrize("count", [3, 4, 6, 7])
def test_the_residual_rule_of_the_embedding_does_not_shift_known_elements(net, make_liquid, count):
    # where the number of elements is the width of atoms, or half of it, the reference adds the one-hot code itself
    old = net(node_dim=6)
    new = with_elements(old, ["H", "C", "O", "N", "S", "F", "P"][:count])
    assert {3: 2, 6: 1}.get(count, 0) == new.type_embedding.residual_repeats
    graph = old.spec.build(make_liquid(3))
    torch.testing.assert_close(new(graph)["energy"], old(graph)["energy"], rtol=0, atol=1e-12)


def test_a_new_element_has_a_row_of_its_own_and_no_energy(net, make_liquid):
    old = net()
    new = with_elements(old, ["O", "H", "C", "N"])
    assert new.energy_bias.tolist() == [-3.0, -1.0, -2.0, 0.0]
    torch.testing.assert_close(new.environment_stddev[3], old.environment_stddev.mean(0))
    table = new.type_embedding().detach()
    assert float((table[3] - table[:3]).abs().amax(1).min()) > 1e-3
    graph = make_liquid(3)
    graph.atomic_number[0] = 7
    assert bool(torch.isfinite(new(new.spec.build(graph))["energy"]).all())


def test_exclusions_follow_the_elements(net):
    old = net(excluded_pairs=[["O", "H"], ["C", "C"]], excluded_elements=["C"])
    new = with_elements(old, ["H", "O", "N"])
    assert new.config["excluded_pairs"] == [["O", "H"]] and new.config["excluded_elements"] is None
    assert new.excluded.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_precision_and_mode_stay(net):
    old = net().to(torch.float32).train()
    new = with_elements(old, ["H", "N"])
    assert new.edge_embedding.weight.dtype == torch.float32 and new.energy_bias.dtype == torch.float64
    assert new.training
