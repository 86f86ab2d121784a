"""GINE under PropertyTask: properties of nodes, and that plain message passing can't count. Budget: 15 s."""

import lightning
import networkx as nx
import pytest
import torch

from geomlib.data.module import GraphDataModule
from geomlib.data.networks import from_networkx
from geomlib.data.splits import RangeSplit
from geomlib.data.stores import MemoryStore
from geomlib.models import GINE
from geomlib.tasks import PropertyTask

SPE = {"kind": "spe", "d": 10, "m": 6, "p": 8, "rho": {"kind": "gin", "layers": 2, "width": 16, "norm": "batch"}}


def graphs(number=80):
    """Random 3-regular graphs of 10 nodes, labelled with the triangles of each node."""
    out = []
    for seed in range(number):
        network = nx.random_regular_graph(3, 10, seed=seed)
        ordered = nx.Graph()
        ordered.add_nodes_from(range(10))
        ordered.add_edges_from(network.edges)
        counts = torch.tensor([[float(nx.triangles(ordered, node))] for node in ordered]).double()
        out.append(from_networkx(ordered, node_target=counts))
    return out


def scores(folder, encoding, norm):
    torch.manual_seed(0)
    net = GINE(["triangles"], encoding=encoding, width=16, layers=1, pooling="node", norm=norm)
    task = PropertyTask(net, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3))
    data = GraphDataModule(MemoryStore(graphs()), RangeSplit(train="0:60", test="60:80"), batch_size=12)
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=12,
        inference_mode=False,
    )
    trainer.fit(task, datamodule=data)
    with torch.no_grad():  # statistics of the last weights, not of those along the way
        net.train()
        for _ in range(3):
            for batch in data.train_dataloader():
                net(batch)
    return trainer.test(task, datamodule=data, verbose=False)[0]


def test_triangles_of_nodes_are_learned_with_positions_only(tmp_path):
    assert scores(tmp_path, SPE, "batch")["test/triangles_r2"] > 0.8


@pytest.mark.filterwarnings("ignore:.*can't be told.*")
def test_message_passing_alone_predicts_the_mean(tmp_path):
    assert abs(scores(tmp_path, "none", "layer").get("test/triangles_r2", 0.0)) < 0.1
