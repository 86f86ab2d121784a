"""What all nets of molecular properties have in common: an embedding, a head, and the scale of the targets."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError, DataError
from geomlib.models.base import Net
from geomlib.nn.targets import Target, TargetNormalizer

__all__ = ["HEADS", "PropertyNet"]

HEADS = ("residual", "plain")
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class PropertyNet(Net):
    """Base of nets that predict properties of molecules and mixtures.

    A subclass defines `embed` and calls `set_head` at the end of its constructor.

    Attributes:
        targets: what is predicted, one for each column of `target`.
        embedding_width: width of what `embed` gives.
    """

    outputs: tuple[str, ...] = ("target", "target_raw")
    targets: tuple[Target, ...]
    embedding_width: int

    def embed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """One vector for each graph, which the head makes targets of."""
        raise TypeError(f"{type(self).__name__} must define embed(batch)")

    def set_head(
        self,
        width: int,
        targets: Sequence[str | Mapping[str, Any] | Target],
        *,
        head_layers: Sequence[int] | None = None,
        dropout: float = 0.0,
        head: str = "residual",
        activation: str = "relu",
    ) -> None:
        """Make the head and the normaliser of the targets.

        `plain` is a chain of linear maps with an activation and dropout between them. `residual` keeps the width,
        h ← h + gelu(dropout(W h)), and ends with a linear map; the last one is the head that MIST was published with.

        Args:
            width: of the embedding.
            targets: names, or rows of `geomlib.nn.targets.Target`.
            head_layers: widths of hidden layers; for `residual` all must be `width`. By default none for `plain`, two
                for `residual`.
            dropout: probability.
            head: `residual` or `plain`.
            activation: of the plain head, `relu` or `gelu`.

        Raises:
            ConfigError: arguments that make no head.
        """
        if head not in HEADS or not 0.0 <= dropout < 1.0:
            raise ConfigError(f"head '{head}', dropout {dropout}: expected {' or '.join(HEADS)}, and [0, 1)")
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation of the head is '{activation}': expected {' or '.join(_ACTIVATIONS)}")
        layers = ([width] * 2 if head == "residual" else []) if head_layers is None else list(head_layers)
        if min(layers, default=1) < 1 or (head == "residual" and set(layers) - {width}):
            raise ConfigError(
                f"head_layers {layers}: expected positive widths, for the residual head that of the embedding, {width}"
            )
        self.targets = tuple(Target.read(target) for target in targets)
        self.embedding_width = width
        self.normalizer = TargetNormalizer(self.targets)
        parts: list[nn.Module] = []
        for hidden in layers:
            if head == "residual":
                parts.append(_Residual(width, dropout))
            else:
                parts += [nn.Linear(width, hidden), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
                width = hidden
        self.head: nn.Module | None = nn.Sequential(*parts, nn.Linear(width, len(self.targets)))

    def thaw_stages(self) -> list[list[str]]:
        """Names of the parts in the order in which fine-tuning may thaw them: the head, then what lies below it."""
        parts = [name for name, _ in self.named_children() if name not in ("head", "normalizer")]
        return [["head"], parts] if parts else [["head"]]

    def remove_head(self) -> None:
        """Leave the embedding only, for a net that puts a head of its own on it."""
        self.head = None
        del self.normalizer

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Targets in natural units (probabilities of binary ones), and on the scale of the loss.

        Raises:
            ConfigError: the head was removed.
        """
        if self.head is None:
            raise ConfigError("this net has no head: it is a member of another net")
        raw = self.head(self.embed(batch))
        return {"target": self.normalizer.denormalize(raw), "target_raw": raw}

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Fit the normaliser of the targets to the labels of the training graphs.

        Raises:
            DataError: graphs without `target`, or labels that don't fit the targets.
        """
        if self.head is None:
            return
        labels = []
        for graph in graphs:
            if "target" not in graph:
                raise DataError("a training graph has no field 'target': name the columns of the table as targets")
            labels.append(graph.target)
        if not labels:
            raise DataError("there are no training graphs")
        self.normalizer.fit(torch.cat(labels))


class _Residual(nn.Module):
    """h + gelu(dropout(W h))."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return h + nn.functional.gelu(self.dropout(self.linear(h)))
