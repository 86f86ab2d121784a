"""Messages on directed bonds: against a loop over bonds, and what they may not depend on."""

import pytest
import torch

from geomlib.errors import ConfigError, DataError
from geomlib.models.dmpnn.encoder import BondEncoder, reverse_edges

# a triangle with a tail, and an atom alone
BONDS = [(0, 1), (1, 2), (2, 0), (2, 3)]
EDGES = torch.tensor(sorted([*BONDS, *[(j, i) for i, j in BONDS]], key=lambda pair: pair[::-1])).T
NODES = 5


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.randn(NODES, 3, generator=generator, dtype=torch.float64)
    of_bond = {frozenset(bond): torch.randn(2, generator=generator, dtype=torch.float64) for bond in BONDS}
    return nodes, torch.stack([of_bond[frozenset(pair)] for pair in EDGES.T.tolist()])


def encoder(**options):
    torch.manual_seed(1)
    return BondEncoder(3, 2, **{"hidden": 4, "depth": 3, **options}).double()


def by_loops(net, nodes, edges, undirected=False):
    pairs = [tuple(pair) for pair in EDGES.T.tolist()]
    start = {pair: net.input(torch.cat([nodes[pair[0]], edge])) for pair, edge in zip(pairs, edges, strict=True)}
    state = {pair: torch.relu(value) for pair, value in start.items()}
    for _ in range(net.depth - 1):
        if undirected:
            state = {(j, i): 0.5 * (state[j, i] + state[i, j]) for j, i in pairs}
        new = {}
        for j, i in pairs:
            message = sum((state[k, m] for k, m in pairs if m == j and k != i), torch.zeros(4, dtype=torch.float64))
            new[j, i] = torch.relu(start[j, i] + net.update(message))
        state = new
    rows = []
    for i in range(len(nodes)):
        arrived = sum((state[pair] for pair in pairs if pair[1] == i), torch.zeros(4, dtype=torch.float64))
        rows.append(torch.relu(net.output(torch.cat([nodes[i], arrived]))))
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"depth": 4, "bias": True}, {"undirected": True}])
def test_equals_a_loop_over_bonds(options):
    net = encoder(**options)
    found = net(*features(), EDGES)
    torch.testing.assert_close(found, by_loops(net, *features(), undirected=options.get("undirected", False)))
    assert found.abs().max() > 0.1


def test_a_message_does_not_go_back():
    net = encoder(depth=2)
    nodes, edges = features()
    # on the bond 3 → 2 nothing arrives but what came from 2 itself, so its state is that of depth 1
    bond = torch.tensor([[2, 3], [3, 2]])
    pair = [EDGES.T.tolist().index(edge) for edge in bond.T.tolist()]
    alone = net(nodes, edges[pair], bond)
    torch.testing.assert_close(alone, encoder(depth=1)(nodes, edges[pair], bond))


def test_the_order_of_atoms_and_bonds_changes_nothing():
    net = encoder()
    nodes, edges = features()
    place = torch.tensor([3, 0, 4, 1, 2])  # new position of each atom
    shuffle = torch.randperm(EDGES.shape[1], generator=torch.Generator().manual_seed(2))
    moved = torch.empty_like(nodes)
    moved[place] = nodes
    found = net(moved, edges[shuffle], place[EDGES[:, shuffle]])
    torch.testing.assert_close(found[place], net(nodes, edges, EDGES))


def test_without_bonds_an_atom_is_what_it_is():
    net = encoder()
    nodes, edges = features()
    found = net(nodes, edges[:0], EDGES[:, :0])
    torch.testing.assert_close(found[4], net(nodes, edges, EDGES)[4])


def test_gradients_are_those_of_differences():
    net = encoder(activation="tanh", undirected=True)
    nodes, edges = features()
    assert torch.autograd.gradcheck(
        lambda x, e: net(x, e, EDGES), (nodes.requires_grad_(), edges.requires_grad_()), atol=1e-6
    )


def test_reverse_edges():
    reverse = reverse_edges(EDGES, NODES)
    assert torch.equal(EDGES[:, reverse], EDGES.flip(0))
    assert len(reverse_edges(EDGES[:, :0], NODES)) == 0


@pytest.mark.parametrize(
    "edges", [[[0], [1]], [[0, 1, 1, 2], [1, 0, 2, 0]], [[0, 1, 0, 1], [1, 0, 1, 0]]], ids=["one", "mixed", "double"]
)
def test_edges_without_their_reverse_are_refused(edges):
    with pytest.raises(DataError, match="once in each direction"):
        reverse_edges(torch.tensor(edges), 3)


def test_dropout_acts_in_training_alone():
    net = encoder(dropout=0.5)
    first, second = net(*features(), EDGES), net(*features(), EDGES)
    assert not torch.equal(first, second)
    net.eval()
    torch.testing.assert_close(net(*features(), EDGES), encoder()(*features(), EDGES))


@pytest.mark.parametrize("options", [{"depth": 0}, {"hidden": 0}, {"dropout": 1.0}])
def test_arguments_out_of_range(options):
    with pytest.raises(ConfigError, match="expected at least 1"):
        encoder(**options)
