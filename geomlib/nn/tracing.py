"""What code that is traced for compilation sees: whether it is, and a batch of plain tensors."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

__all__ = ["TracedBatch", "tracing"]


def tracing() -> bool:
    """Whether this code is being traced: then nothing may depend on the values of tensors.

    Checks of values belong into `Net.traced_inputs`, which is never traced, and shortcuts that look at values have to
    be left out. Sizes are read as `x.shape[0]`: `len(x)` would make them constants.
    """
    return torch.compiler.is_compiling() or get_proxy_mode() is not None


class TracedBatch:
    """A batch as traced code sees it: named tensors, and of `GraphData` what nets read.

    Args:
        fields: name → tensor, `pos`, `cell` and `node_graph` among them.
        graphs: number of graphs, two at least.
    """

    def __init__(self, fields: Mapping[str, Tensor], graphs: int) -> None:
        self._fields = dict(fields)
        self.num_graphs = graphs

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(f"the traced batch has no '{name}': name it in Net.traced_inputs") from None

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return self._fields["pos"].shape[0]

    @property
    def node_graph(self) -> Int[Tensor, " nodes"]:
        """Graph that each node belongs to."""
        return self._fields["node_graph"]

    def edge_vectors(self) -> Float[Tensor, "edges 3"]:
        """As `GraphData.edge_vectors`."""
        pos, (source, target) = self._fields["pos"], self._fields["edge_index"].unbind(0)
        vectors = pos.index_select(0, source) - pos.index_select(0, target)
        if "edge_shift" not in self._fields:
            return vectors
        cell = self._fields["cell"].index_select(0, self.node_graph.index_select(0, target))
        return vectors + (self._fields["edge_shift"].to(vectors.dtype).unsqueeze(2) * cell).sum(1)
