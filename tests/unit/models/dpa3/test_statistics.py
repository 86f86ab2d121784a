import pytest
import torch

from geomlib.data.graph import GraphData
from geomlib.errors import DataError
from geomlib.models import DPA3


def frame(numbers: list[int], energy: float | None) -> GraphData:
    return GraphData(
        pos=torch.zeros(len(numbers), 3, dtype=torch.float64),
        atomic_number=torch.tensor(numbers),
        energy=None if energy is None else torch.tensor([energy], dtype=torch.float64),
    )


def test_energies_of_elements_are_recovered_from_compositions(small) -> None:
    net = DPA3(["H", "C", "O"], **small)
    graphs = [frame([1] * h + [6] * c, -0.5 * h - 37.8 * c) for h, c in [(4, 1), (6, 2), (2, 2), (8, 3)]]
    net.fit_statistics(graphs)
    torch.testing.assert_close(net.energy_bias, torch.tensor([-0.5, -37.8, 0.0], dtype=torch.float64))


def test_one_composition_gets_the_shortest_answer(small) -> None:
    net = DPA3(["H", "O"], **small)
    net.fit_statistics([frame([8] * 64 + [1] * 128, -29943.6 + noise) for noise in (-0.1, 0.1)])
    torch.testing.assert_close(
        net.energy_bias, torch.tensor([-187.1475, -93.57375], dtype=torch.float64), rtol=1e-8, atol=0
    )


def test_atom_energies_are_averaged(small) -> None:
    net = DPA3(["H", "O"], **small)
    graph = frame([8, 1, 1], None)
    graph.atom_energy = torch.tensor([-7.0, -1.0, -3.0], dtype=torch.float64)
    net.fit_statistics([graph])
    assert net.energy_bias.tolist() == [-2.0, -7.0]


def test_missing_energy_is_said(small) -> None:
    with pytest.raises(DataError, match="training graph 1"):
        DPA3(["H", "O"], **small).fit_statistics([frame([8], 1.0), frame([8], None)])


def test_environment_spread_is_isotropic_and_normalises(small, make_liquid) -> None:
    net = DPA3(["H", "C", "O"], **small, environment_scale=0)
    graphs = [make_liquid(seed) for seed in range(3)]
    for graph in graphs:
        graph.energy = torch.zeros(1, dtype=torch.float64)
    net.fit_statistics(graphs)
    spread = net.environment_stddev
    assert bool((spread > 0.01).all())
    assert torch.equal(spread[:, 1], spread[:, 2])
    assert torch.equal(spread[:, 1], spread[:, 3])
    assert "line_index" not in graphs[0] and "edge_index" not in graphs[0]
