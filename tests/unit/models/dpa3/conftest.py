import pytest
import torch

from geomlib.data.graph import GraphData

SMALL = {
    "layers": 2,
    "node_dim": 12,
    "edge_dim": 8,
    "angle_dim": 4,
    "symmetrization_axes": 3,
    "fitting_layers": [16, 16],
    "cutoff": 4.5,
    "cutoff_smooth": 3.8,
    "angle_cutoff": 3.2,
    "angle_cutoff_smooth": 2.7,
    "precision": "float64",
}


@pytest.fixture
def small() -> dict:
    """Arguments of a net that is quick in float64."""
    return dict(SMALL)


def liquid(seed: int = 0, *, atoms: int = 9, box: float = 5.0, periodic: bool = True) -> GraphData:
    """Atoms at random places, not too close."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[torch.randperm(27, generator=generator)]
    pos = grid[:atoms] * box / 3 + 0.35 * torch.randn(atoms, 3, dtype=torch.float64, generator=generator)
    return GraphData(
        pos=pos,
        atomic_number=torch.tensor([8, 1, 6])[torch.randint(0, 3, (atoms,), generator=generator)],
        cell=torch.eye(3, dtype=torch.float64).unsqueeze(0) * box * periodic,
        pbc=torch.full((1, 3), periodic),
    )


@pytest.fixture
def make_liquid():
    return liquid
