"""The block, whose maps are split by input, against the equations written out edge by edge."""

import math

import pytest
import torch

from geomlib.models import DPA3

ELEMENTS = ["H", "C", "O"]


def written_out(net: DPA3, graph) -> torch.Tensor:
    """Atomic energies of a parallel-mode net with residual updates, one edge and one angle at a time."""
    config, block_options = net.config, net.blocks[0].options
    act = torch.nn.functional.silu
    types = net.types(graph.atomic_number)
    center, neighbor = graph.edge_index[1].tolist(), graph.edge_index[0].tolist()
    vectors = graph.edge_vectors()
    edges = range(len(center))
    r = [float(v.norm()) for v in vectors]
    w = [math.exp(-math.exp(20 / config["cutoff_smooth"] * (x - config["cutoff_smooth"]))) for x in r]
    wa = [math.exp(-math.exp(20 / config["angle_cutoff_smooth"] * (x - config["angle_cutoff_smooth"]))) for x in r]
    h = [w[k] * vectors[k] / r[k] ** 2 / config["environment_scale"] for k in edges]
    unit = [vectors[k] / (r[k] + 1e-6) for k in edges]
    n = act(net.type_embedding()[types])
    e = torch.stack([net.edge_embedding(torch.tensor([x], dtype=torch.float64)) for x in r])
    short = [k for k in edges if r[k] < config["angle_cutoff"]]
    pairs = [(j, k) for j in short for k in short if center[j] == center[k]]
    a = {
        (j, k): net.angle_embedding((1 - 1e-6) * (unit[j] @ unit[k]).reshape(1) / math.sqrt(math.pi)) for j, k in pairs
    }
    n_e, n_a = block_options.edge_count, block_options.angle_count
    channels_n, channels_e = block_options.angle_node_dim, block_options.angle_edge_dim
    for block in net.blocks:
        z = {
            (j, k): torch.cat([a[j, k], n[center[j], :channels_n], e[k, :channels_e], e[j, :channels_e]])
            for j, k in pairs
        }
        q = torch.zeros(len(center), config["edge_dim"], dtype=torch.float64)
        for j, k in pairs:
            q[j] += wa[j] * wa[k] * act(block.edge_angle_message(z[j, k])) / math.sqrt(n_a)
        rows = [torch.cat([n[center[k]], n[neighbor[k]], e[k]]) for k in edges]
        new_n = n + block.node_residuals[0] * act(block.node_self(n))
        invariants = []
        for i in range(len(n)):
            parts = []
            for feature in (e, n[neighbor]):
                moment = sum(
                    (torch.outer(w[k] * h[k], feature[k]) for k in edges if center[k] == i),
                    torch.zeros(3, feature.shape[1], dtype=torch.float64),
                ) / math.sqrt(n_e)
                parts.append((moment[:, : block_options.axes].T @ moment / 3).flatten())
            invariants.append(torch.cat(parts))
        new_n = new_n + block.node_residuals[1] * act(block.node_symmetric(torch.stack(invariants)))
        for i in range(len(n)):
            message = sum(
                (w[k] * act(block.node_edge(rows[k])) for k in edges if center[k] == i),
                torch.zeros(config["node_dim"], dtype=torch.float64),
            )
            new_n[i] = new_n[i] + block.node_residuals[2] * message / n_e
        new_e = e + block.edge_residuals[0] * torch.stack([act(block.edge_self(row)) for row in rows])
        new_e = new_e + block.edge_residuals[1] * act(block.edge_angle_update(q))
        a = {pair: a[pair] + block.angle_residuals[0] * act(block.angle_self(z[pair])) for pair in pairs}
        n, e = new_n, new_e
    x = n
    for k, layer in enumerate(net.fitting.layers[:-1]):
        y = act(layer(x))
        if str(k) in net.fitting.timesteps:
            y = y * net.fitting.timesteps[str(k)]
        x = y + x if y.shape == x.shape else y
    return net.fitting.layers[-1](x)[:, 0] + net.energy_bias[types]


@pytest.mark.parametrize("periodic", [True, False])
def test_split_maps_are_the_equations(periodic, small, make_liquid) -> None:
    torch.manual_seed(0)
    net = DPA3(ELEMENTS, **small, activation="silu", fitting_activation="silu")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        net.energy_bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    graph = net.spec.build(make_liquid(atoms=6, periodic=periodic))
    with torch.no_grad():
        torch.testing.assert_close(net(graph)["atom_energy"], written_out(net, graph), rtol=1e-11, atol=1e-11)
