from pathlib import Path

import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.data.stores import MemoryStore


def make_graph(nodes=4, seed=0, energy=True, **extra):
    """A random periodic structure; cell, positions and labels in float64."""
    generator = torch.Generator().manual_seed(1000 * nodes + seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    fields = {
        "pos": 3 * random(nodes, 3),
        "atomic_number": torch.randint(1, 20, (nodes,), generator=generator),
        "cell": 6 * torch.eye(3, dtype=torch.float64).unsqueeze(0) + 0.3 * random(1, 3, 3),
        "pbc": torch.tensor([[True, seed % 2 == 0, False]]),
        **extra,
    }
    if energy:
        stress = random(3, 3)
        fields |= {"energy": random(1), "forces": random(nodes, 3), "stress": (stress + stress.T).unsqueeze(0)}
    return GraphData(**fields)


@pytest.fixture
def graph():
    return make_graph


@pytest.fixture
def store():
    return MemoryStore([make_graph(2 + k % 5, seed=k) for k in range(24)], name="random")


@pytest.fixture
def shared_data():
    folder = Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data are not beside the repository (../shared/data)")
    return folder
