"""Neighbour lists of structures that move at their own pace: never an edge too few. Budget: 4 s."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from geomlib.apply.batched.neighbors import BatchedVerletList
from geomlib.apply.budget import Size
from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.graphs.radius import RadiusEdges

EDGES = RadiusEdges(3.0)


class Some:
    """Three random structures: a crystal, a slab, a molecule."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        counts = [6, 9, 5]
        self.starts = [0, 6, 15, 20]
        self.node_graph = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
        self.pbc = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
        self.cell = torch.diag_embed(torch.tensor([[4.0, 5.0, 6.0], [5.0, 5.0, 0.0], [0.0, 0.0, 0.0]]).double())
        self.cell[0, 1, 0] = 1.0
        self.pos = 4.0 * self.random(20, 3)

    def random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def update(self, lists: BatchedVerletList) -> tuple[dict[int, str], bool]:
        return lists.update(self.pos, self.cell, self.pbc, self.node_graph, self.starts)

    def graph(self, position: int) -> GraphData:
        nodes = slice(self.starts[position], self.starts[position + 1])
        return GraphData(pos=self.pos[nodes], cell=self.cell[position][None], pbc=self.pbc[position][None])

    def edges(self, lists: BatchedVerletList, position: int) -> set[tuple[int, ...]]:
        """From the lists, those that count now."""
        graph = self.graph(position)
        graph.edge_index, graph.edge_shift = lists.joined(position, position + 1, self.starts)
        EDGES.select(graph)
        return as_set(graph)

    def expected(self, position: int) -> set[tuple[int, ...]]:
        graph = self.graph(position)
        EDGES.build(graph)
        return as_set(graph)


def as_set(graph: GraphData) -> set[tuple[int, ...]]:
    return {tuple(row) for row in torch.cat([graph.edge_index.T, graph.edge_shift.long()], 1).tolist()}


@pytest.mark.parametrize("strained", [False, True])
@pytest.mark.parametrize("skin", [0.3, 1.0])
def test_no_edge_is_missed(skin, strained):
    """Random walks, one structure faster than another, cells that breathe; compared with lists built at every step."""
    some, lists = Some(), BatchedVerletList(EDGES, skin)
    lists.add(3)
    speed = torch.tensor([0.01, 0.06, 0.15])[some.node_graph].double().unsqueeze(1)
    builds = []
    for step in range(60):
        problems, new = some.update(lists)
        builds.append(lists.builds)
        assert not problems and new == (step == 0 or builds[-1] > builds[-2])
        for position in range(3):
            assert some.edges(lists, position) == some.expected(position), (step, position)
        some.pos = some.pos + speed * (2 * some.random(20, 3) - 1)
        if strained:
            strain = torch.eye(3, dtype=torch.float64) + 0.01 * (2 * some.random(3, 3) - 1)
            some.cell[0] = some.cell[0] @ strain
            some.pos = torch.where((some.node_graph == 0).unsqueeze(1), some.pos @ strain, some.pos)
    assert any(after == before for before, after in pairwise(builds))
    assert {1, 2} & {after - before for before, after in pairwise(builds)}, "some were built while others were kept"


def test_a_common_drift_needs_no_new_list():
    some, lists = Some(), BatchedVerletList(EDGES, 0.5)
    lists.add(3)
    some.update(lists)
    some.pos = some.pos + 10.0
    some.update(lists)
    assert lists.builds == 3
    some.pos[0] += 0.4  # more than the skin allows, of one structure
    some.update(lists)
    assert lists.builds == 4


def test_strain_alone_needs_a_new_list_only_when_the_skin_is_used_up():
    """The reach of 3.5 Å shrinks with the cell: 3.15 Å after 10 %, 2.8 Å after 20 %, and 3 Å are needed."""
    for squeeze, builds in ((0.9, 3), (0.8, 4)):
        some, lists = Some(), BatchedVerletList(EDGES, 0.5)
        lists.add(3)
        some.update(lists)
        strain = squeeze * torch.eye(3, dtype=torch.float64)
        some.cell[0] = some.cell[0] @ strain
        some.pos = torch.where((some.node_graph == 0).unsqueeze(1), some.pos @ strain, some.pos)
        some.update(lists)
        assert lists.builds == builds
        assert some.edges(lists, 0) == some.expected(0)


def test_joined_lists_count_atoms_from_the_first():
    some, lists = Some(), BatchedVerletList(EDGES, 0.5)
    lists.add(3)
    some.update(lists)
    index, shift = lists.joined(1, 3, some.starts)
    parts = [lists.joined(position, position + 1, some.starts) for position in (1, 2)]
    assert torch.equal(index, torch.cat([parts[0][0], parts[1][0] + 9], 1))
    assert torch.equal(shift, torch.cat([part[1] for part in parts]))
    assert torch.equal(index[1], index[1].sort().values)


def test_structures_come_and_go():
    some, lists = Some(), BatchedVerletList(EDGES, 0.5)
    lists.add(3)
    some.update(lists)
    middle = lists.joined(1, 2, some.starts)
    lists.keep([1])
    lists.add(1)
    other = Some(1)
    pos = torch.cat([some.pos[6:15], other.pos[:6]])
    cell, pbc = torch.stack([some.cell[1], other.cell[0]]), torch.stack([some.pbc[1], other.pbc[0]])
    node_graph = torch.tensor([0] * 9 + [1] * 6)
    lists.update(pos, cell, pbc, node_graph, [0, 9, 15])
    assert lists.builds == 4
    assert torch.equal(lists.joined(0, 1, [0, 9, 15])[0], middle[0])


def test_sizes():
    some, lists = Some(), BatchedVerletList(EDGES, 0.5)
    lists.add(3)
    assert lists.size(0, 2.0) == Size()
    some.update(lists)
    for position in range(3):
        graph = some.graph(position)
        EDGES.build(graph)
        short = graph.edge_index[1][graph.edge_vectors().norm(dim=1) < 2.0]
        angles = sum(int((short == center).sum()) ** 2 for center in range(graph.num_nodes))
        assert lists.size(position, 2.0) == Size(graph.num_nodes, graph.num_edges, angles)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_that_has_no_list_is_named(bad):
    some, lists = Some(), BatchedVerletList(EDGES, 0.5)
    lists.add(3)
    if bad == 0:
        some.cell[0, 2] = some.cell[0, 1]
    else:
        some.pos[some.starts[bad]] = torch.nan
    problems, _ = some.update(lists)
    assert list(problems) == [bad] and ("span no volume" in problems[bad] or "not finite" in problems[bad])
    assert len(some.edges(lists, bad)) == 0
    for position in {0, 1, 2} - {bad}:
        assert some.edges(lists, position) == some.expected(position)


def test_skins_out_of_range():
    with pytest.raises(DataError, match="skin is -1"):
        BatchedVerletList(EDGES, -1.0)
