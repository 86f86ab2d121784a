"""`GraphData` and batching by the table. Budget: 2 s."""

import pickle

import pytest
import torch

from geomlib.data.graph import GraphData, assemble, collate
from geomlib.errors import DataError, UnknownField


def with_edges(graph, edges, lines):
    graph.edge_index = torch.tensor(edges)
    graph.edge_shift = torch.zeros(len(edges[0]), 3, dtype=torch.float64)
    graph.line_index = torch.tensor(lines)
    return graph


def test_line_index_counts_edges_not_nodes(graph):
    # three nodes and two edges a graph: PyG's rule by name would shift by three
    graphs = [with_edges(graph(3, seed=k), [[0, 1], [1, 2]], [[0], [1]]) for k in range(2)]
    batch = collate(graphs)
    assert batch.line_index.tolist() == [[0, 2], [1, 3]]
    assert batch.edge_index.tolist() == [[0, 1, 3, 4], [1, 2, 4, 5]]
    assert batch.cell.shape == (2, 3, 3)
    assert batch.pbc.shape == (2, 3)
    assert batch.batch.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.ptr.tolist() == [0, 3, 6]


def test_batching_through_pyg_gives_the_same(graph):
    from torch_geometric.data import Batch

    graphs = [with_edges(graph(2 + k, seed=k), [[0, 1], [1, 0]], [[0, 1], [1, 0]]) for k in range(3)]
    ours, theirs = collate(graphs), Batch.from_data_list(graphs)
    for name in ours.keys():  # noqa: SIM118
        assert torch.equal(ours[name], theirs[name]), name


def test_round_trip(graph):
    graphs = [with_edges(graph(3, seed=k), [[0, 1], [1, 2]], [[0, 1], [1, 0]]) for k in range(4)]
    batch = collate(graphs)
    again = pickle.loads(pickle.dumps(batch))  # noqa: S301 - as workers send it
    for back in (batch.to_data_list(), [batch.get_example(k) for k in range(4)], again.to_data_list()):
        for before, after in zip(graphs, back, strict=True):
            assert set(before.keys()) == set(after.keys())
            for name in before.keys():  # noqa: SIM118
                assert torch.equal(before[name], after[name]), name


def test_graph_without_edges_in_a_batch(graph):
    full = with_edges(graph(3), [[0, 1], [1, 2]], [[0], [1]])
    empty = with_edges(graph(1), [[], []], [[], []])
    empty.edge_index, empty.line_index = empty.edge_index.long(), empty.line_index.long()
    batch = collate([empty, full])
    assert batch.edge_index.tolist() == [[1, 2], [2, 3]]
    assert batch.line_index.tolist() == [[0], [1]]


def test_unknown_field_is_refused_at_once():
    with pytest.raises(UnknownField, match="did you mean 'energy'"):
        GraphData(energie=torch.zeros(1))
    graph = GraphData(pos=torch.zeros(1, 3))
    with pytest.raises(UnknownField, match="did you mean 'forces'"):
        graph.force = torch.zeros(1, 3)
    for name in ("x", "edge_attr", "y"):  # PyG's own
        with pytest.raises(UnknownField):
            graph[name] = torch.zeros(1)
    with pytest.raises(DataError, match="num_nodes follows"):
        graph.num_nodes = 3


def test_batch_of_unlike_graphs(graph):
    with pytest.raises(DataError, match=r"graph 1 .*\['energy', 'forces', 'stress'\]"):
        collate([graph(), graph(energy=False)])
    with pytest.raises(DataError, match="empty list"):
        collate([])


def test_different_widths(graph):
    with pytest.raises(DataError, match="'frame_parameters' differs in width"):
        collate([graph(frame_parameters=torch.zeros(1, 2)), graph(frame_parameters=torch.zeros(1, 3))])


def test_index_into_an_absent_level():
    with pytest.raises(DataError, match="level 'edge'"):
        assemble({"line_index": torch.zeros(2, 1, dtype=torch.int64)}, {"line_index": torch.tensor([1])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forces": torch.zeros(3, 3)}, "'forces' has 3 nodes but 'pos' has 4"),
        ({"cell": torch.zeros(3, 3)}, r"'cell' has shape \[3, 3\], expected \['items', 3, 3\]"),
        ({"energy": torch.tensor([1])}, "'energy' is torch.int64, expected float64"),
        ({"pbc": torch.zeros(1, 3)}, "'pbc' is torch.float32, expected bool"),
        ({"forces": torch.full((4, 3), torch.nan)}, "'forces' is not finite at node 0"),
        ({"edge_index": torch.tensor([[0], [4]])}, "'edge_index' holds 0…4, but there are 4 items"),
        ({"edge_index": torch.tensor([[0], [-1]])}, "'edge_index' holds -1…0"),
    ],
)
def test_validate_names_what_is_wrong(graph, change, message):
    broken = graph(4)
    for name, value in change.items():
        broken[name] = value
    with pytest.raises(DataError, match=message):
        broken.validate(where="here")


def test_validate_accepts_gaps_only_where_said(graph):
    gap = graph(4)
    gap.energy = torch.tensor([torch.nan], dtype=torch.float64)
    gap.validate(partial=("energy",))
    with pytest.raises(DataError, match="'energy' is not finite at graph 0"):
        gap.validate(partial=("forces",))
    gap.energy = torch.tensor([torch.inf], dtype=torch.float64)
    with pytest.raises(DataError):
        gap.validate(partial=("energy",))


def test_validate_wants_fields(graph):
    with pytest.raises(DataError, match=r"train, frame 3: field 'dipole' is missing; it has \["):
        graph().validate(("dipole",), where="train, frame 3")


def test_to_dtype_keeps_energies_and_indices(graph):
    out = graph(4).to_dtype(torch.float32)
    assert out.pos.dtype == torch.float32
    assert out.energy.dtype == torch.float64
    assert out.atomic_number.dtype == torch.int64
