"""What is written after a test of properties: graphs without atoms, and text. Budget: 2 s."""

import networkx as nx
import torch

from geomlib.data.graph import collate
from geomlib.data.molecules import from_smiles
from geomlib.data.networks import from_networkx
from geomlib.training.outputs import Predictions, in_order


def test_properties_of_networks_and_of_text_are_collected():
    sizes = (4, 3)
    graphs = [from_networkx(nx.path_graph(size), target=torch.tensor([[float(size)]]).double()) for size in sizes]
    for position, graph in enumerate(graphs):
        graph.sample_id = torch.tensor([1 - position])
    callback = Predictions()
    callback._add({"target": torch.tensor([[40.0], [30.0]]), "target_raw": torch.zeros(2, 1)}, collate(graphs))
    written = in_order(callback._rows)
    assert written["target_prediction"].tolist() == [[30.0], [40.0]]
    assert written["target_reference"].tolist() == [[3.0], [4.0]]
    assert written["n_atoms"].tolist() == [3, 4] and len(written["node_type"]) == 7

    texts = [from_smiles(text, target=torch.tensor([[1.0]]).double()) for text in ("CC", "O")]
    for position, text in enumerate(texts):
        text.sample_id = torch.tensor([position])
    callback._start()
    callback._add({"target": torch.tensor([[2.0], [3.0]])}, collate(texts))
    written = in_order(callback._rows)
    assert written["target_prediction"].tolist() == [[2.0], [3.0]] and written["n_atoms"].tolist() == [0, 0]
