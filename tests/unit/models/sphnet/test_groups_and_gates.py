"""Groups of atoms that no order decides, and thresholds of each molecule's own."""

import torch

from geomlib.models.sphnet.gates import PairGate, quantiles
from geomlib.models.sphnet.groups import _seeds, atom_groups


def test_of_equally_far_atoms_the_heavier_is_the_seed():
    # from the first seed, the lone hydrogen far up, oxygen and carbon are equally far
    pos = torch.tensor([[0.0, 5, 0], [0, 4, 0], [-1, 0, 0], [1, 0, 0]]).double()
    number = torch.tensor([1, 1, 8, 6])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        seeds = _seeds(pos[order], number[order], 2)
        assert number[order][seeds].tolist() == [1, 8]
        assert float(pos[order][seeds[0]][1]) == 5.0


def test_groups_of_a_batch_are_those_of_its_molecules():
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(13, 3, generator=generator).double() * 3
    number, graph = torch.randint(1, 9, (13,), generator=generator), torch.tensor([0] * 9 + [1] * 4)
    groups = atom_groups(pos, number, graph, 2, 4)
    assert groups.count == 3  # two of the first molecule, one of the second
    assert set(groups.of_atom[:9].tolist()) == {0, 1}
    assert groups.of_atom[9:].tolist() == [2] * 4
    # everyone sees all groups of its own molecule and no others
    seen = {(int(a), int(g)) for a, g in zip(groups.atom, groups.group, strict=True)}
    assert seen == {(a, g) for a in range(9) for g in (0, 1)} | {(a, 2) for a in range(9, 13)}


def test_quantiles_are_those_of_each_group():
    generator = torch.Generator().manual_seed(0)
    values, group = torch.randn(40, generator=generator).double(), torch.randint(0, 4, (40,), generator=generator)
    group[group == 2] = 3  # one group has no rows
    for level in (0.0, 0.3, 0.7, 1.0):
        found = quantiles(values, group, 5, level)
        for number in (0, 1, 3):
            assert torch.allclose(found[number], torch.quantile(values[group == number], level), atol=1e-14)
        assert found[2] == found[4] == 0.0


def test_a_gate_keeps_its_share_of_each_molecule_and_learns():
    torch.manual_seed(0)
    gate = PairGate(5, 0.7)
    s, group = torch.randn(60, 5), torch.tensor([0] * 40 + [1] * 20)
    kept, gated = gate(s, group, 2)
    assert torch.bincount(group[kept]).tolist() == [12, 6]
    alone, _ = gate(s[:40], group[:40], 1)
    assert torch.equal(alone, kept[kept < 40])
    gated.sum().backward()
    assert float(gate.score.weight.grad.abs().max()) > 0
