"""What every net offers to tasks, files and applications."""

from collections.abc import Iterable
from typing import Any, ClassVar

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

    Attributes:
        config: constructor arguments, JSON-able; `type(net)(**net.config)` builds an equal net.
        spec: structure that the net needs.
    """

    family: ClassVar[str]
    family_version: ClassVar[int] = 1
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    config: dict[str, Any]
    spec: GraphSpec

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Predict the fields in `outputs` for a graph or a batch that was built by `spec`."""
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fill the buffers that hold data statistics; called once at the start of a fresh fit.

        Args:
            graphs: the training graphs, in the order of their store, without structure.
        """
