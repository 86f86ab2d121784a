"""Messages on directed bonds: the encoder of a directed message-passing network."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomlib.errors import ConfigError, DataError
from geomlib.nn.activation import Activation
from geomlib.nn.reduce import segment_sum

__all__ = ["BondEncoder", "reverse_edges"]


def reverse_edges(edge_index: Int[Tensor, "2 edges"], nodes: int) -> Int[Tensor, " edges"]:
    """Position of the edge i → j for every edge j → i.

    Raises:
        DataError: an edge has no reverse, or stands twice.
    """
    source, target = edge_index
    forward, backward = source * nodes + target, target * nodes + source
    order, reverse_order = forward.argsort(), backward.argsort()
    keys = forward[order]
    if not torch.equal(keys, backward[reverse_order]) or bool((keys[1:] == keys[:-1]).any()):
        raise DataError(
            "edge_index: every edge must stand once in each direction; messages are passed on pairs of them"
        )
    reverse = torch.empty_like(order)
    reverse[reverse_order] = order
    return reverse


class BondEncoder(nn.Module):
    """Hidden states of atoms, from messages on directed bonds.

        h⁰(j→i) = W_i [x_j, e_ji],  h¹ = σ(h⁰)
        hᵗ⁺¹(j→i) = dropout σ(h⁰ + W_h (Σ_{k→j} hᵗ(k→j) − hᵗ(i→j)))
        h_i = dropout σ(W_o [x_i, Σ_{j→i} h(j→i)] + b)

    A message never goes back over the bond that it came from, which keeps it from echoing between two atoms.

    Args:
        node_width: features of an atom.
        edge_width: features of a bond.
        hidden: width of hidden states.
        depth: number of hidden states h¹ … of a bond; 3 has two rounds of messages.
        dropout: probability.
        undirected: average the two directions of a bond before each round.
        activation: σ; see `geomlib.nn.activation`.
        bias: whether W_i and W_h have a bias.

    Source: Yang et al., J. Chem. Inf. Model. 59, 3370 (2019), eqs. 4–7; `BondMessagePassing` of chemprop 2.
    """

    def __init__(
        self,
        node_width: int,
        edge_width: int,
        *,
        hidden: int = 300,
        depth: int = 3,
        dropout: float = 0.0,
        undirected: bool = False,
        activation: str = "relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if depth < 1 or hidden < 1 or not 0.0 <= dropout < 1.0:
            raise ConfigError(
                f"depth {depth}, hidden {hidden}, dropout {dropout}: expected at least 1, at least 1, and [0, 1)"
            )
        self.depth, self.undirected = depth, undirected
        self.input = nn.Linear(node_width + edge_width, hidden, bias=bias)
        self.update = nn.Linear(hidden, hidden, bias=bias)
        self.output = nn.Linear(node_width + hidden, hidden)
        self.activation = Activation(activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        node_features: Float[Tensor, "nodes node_width"],
        edge_features: Float[Tensor, "edges edge_width"],
        edge_index: Int[Tensor, "2 edges"],
    ) -> Float[Tensor, "nodes hidden"]:
        """Hidden state of each atom.

        Raises:
            DataError: an edge without its reverse.
        """
        nodes, (source, target) = len(node_features), edge_index
        reverse = reverse_edges(edge_index, nodes)
        start = self.input(torch.cat([node_features.index_select(0, source), edge_features], dim=1))
        state = self.activation(start)
        for _ in range(1, self.depth):
            if self.undirected:
                state = 0.5 * (state + state.index_select(0, reverse))
            message = segment_sum(state, target, nodes).index_select(0, source) - state.index_select(0, reverse)
            state = self.dropout(self.activation(start + self.update(message)))
        arrived = segment_sum(state, target, nodes)
        return self.dropout(self.activation(self.output(torch.cat([node_features, arrived], dim=1))))
