"""Graphs without nodes: molecules as text, alone and in mixtures."""

import torch

from geomlib.data.flat import FlatStore
from geomlib.data.graph import GraphData, collate
from geomlib.data.stores import MemoryStore


def mixture(*molecules: str) -> GraphData:
    text = "".join(molecules)
    lengths = torch.tensor([len(molecule) for molecule in molecules])
    return GraphData(
        smiles=torch.tensor([ord(character) for character in text]),
        character_component=torch.repeat_interleave(torch.arange(len(molecules)), lengths),
        component_graph=torch.zeros(len(molecules), dtype=torch.int64),
        mole_fraction=torch.full((len(molecules),), 1 / len(molecules)),
    )


def test_batch_shifts_components_and_graphs_and_splits_again():
    graphs = [mixture("CCO", "O"), mixture("C#N"), mixture("CO", "O", "CC")]
    batch = collate(graphs)
    assert batch.num_graphs == 3
    assert batch.component_graph.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.character_component.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 5, 5]
    for graph, back in zip(graphs, batch.to_data_list(), strict=True):
        for name in graph.keys():  # noqa: SIM118 - iterating a graph gives pairs
            assert torch.equal(graph[name], back[name])
        graph.validate()


def test_size_of_text_is_its_length():
    assert MemoryStore([mixture("CCO", "O"), mixture("C")]).sizes.tolist() == [4, 1]


def test_text_goes_through_a_file(tmp_path):
    graphs = MemoryStore([mixture("CCO", "O"), mixture("C")])
    store = FlatStore.write(graphs, tmp_path / "text.npz")
    assert store.sizes.tolist() == graphs.sizes.tolist()
    assert torch.equal(store.batch([1, 0]).smiles, graphs.batch([1, 0]).smiles)
