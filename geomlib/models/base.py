"""What every net offers to tasks, files and applications."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.graphs.spec import GraphSpec

__all__ = ["Net"]


class Net(nn.Module):
    """Base of all nets: `forward(batch) -> {field name: tensor}`.

    Class attributes:
        family: key in `geomlib.models.FAMILIES`; stands in model files.
        family_version: raised when parameters are renamed or a default changes numbers; see `geomlib.files.migrations`.
        inputs: fields that `forward` reads.
        outputs: fields that `forward` returns.
        float64_buffers: buffers that keep float64 whatever precision the net is moved to.

    Attributes:
        config: constructor arguments, JSON-able; `type(net)(**net.config)` builds an equal net.
        spec: structure that the net needs.
        heads: names of the data sets that the net has outputs for; none if it has one output only.
    """

    family: ClassVar[str]
    family_version: ClassVar[int] = 1
    float64_buffers: ClassVar[tuple[str, ...]] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    config: dict[str, Any]
    spec: GraphSpec
    heads: Sequence[str] = ()

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Predict the fields in `outputs` for a graph or a batch that was built by `spec`."""
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def traced_inputs(self, batch: GraphData) -> dict[str, Tensor]:
        """The tensors that `forward` reads where it is compiled, of a graph or batch; checks are made here.

        A compiled `forward` gets these by name (a `geomlib.nn.tracing.TracedBatch`), besides `pos`, `cell` and
        `node_graph`, and may not look at values. A net whose `forward` derives numbers of items from values
        overrides this and does so here. A name outside the field table has its items along the first axis.

        Raises:
            DataError: the batch is not what the net wants.
        """
        self.spec.check(batch)
        names = [*self.inputs, *(name for builder in self.spec.builders for name in builder.provides)]
        return {name: batch[name] for name in names if name in batch}

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fill the buffers that hold data statistics; called once at the start of a fresh fit.

        Args:
            graphs: the training graphs, in the order of their store, without structure.
        """

    def for_file(self) -> "Net":
        """The net as it goes into a model file; another one where there are parts that only training needs."""
        return self

    def advance(self, step: int) -> None:
        """Tell the net, before each training step, how many optimizer steps are done; most don't care."""

    def single(self, head: str) -> "Net":
        """The net of one head, with the same tensors."""
        raise TypeError(f"{type(self).__name__} has no heads")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = {name: self._buffers[name] for name in self.float64_buffers}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = self._buffers[name]
            if value is not None and moved is not None and moved.dtype != torch.float64:
                self._buffers[name] = value.to(moved.device)
        return self
