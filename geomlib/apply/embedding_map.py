"""Molecules on a plane: the first two principal components of their embeddings, or UMAP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomlib.apply.hidden_states import LayerStates, layer_states
from geomlib.errors import ConfigError, DataError, MissingExtra

__all__ = ["EmbeddingMap", "embedding_map", "principal_components"]

METHODS = ("pca", "umap")


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Where molecules lie.

    Attributes:
        rows: SMILES of the molecules that could be read.
        places: their numbers among the rows that were given.
        xy: coordinates [molecules, 2].
        method: `pca` or `umap`.
        explained: share of the variance on each principal component; empty for UMAP.
    """

    rows: list[str]
    places: NDArray[np.int64]
    xy: NDArray[np.float64]
    method: str
    explained: tuple[float, ...] = ()

    @property
    def axes(self) -> tuple[str, str]:
        """Names of the axes."""
        if self.method == "umap":
            return "UMAP 1", "UMAP 2"
        return tuple(f"PC {k + 1} ({100 * share:.0f} %)" for k, share in enumerate(self.explained[:2]))  # type: ignore[return-value]


def principal_components(x: NDArray[np.float64], number: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of the first principal components, and the share of the variance on each.

    Of the two signs of a component that is taken which makes its largest loading positive.

    Args:
        x: [items, width].
        number: of components.
    """
    centred = torch.from_numpy(x - x.mean(0))
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    signs = torch.sign(v.gather(1, v.abs().argmax(1, keepdim=True)).squeeze(1))
    scores = (u * s * signs)[:, :number].numpy()
    shares = (s.square() / s.square().sum().clamp_min(1e-300))[:number].numpy()
    missing = number - scores.shape[1]
    return np.pad(scores, ((0, 0), (0, max(missing, 0)))), np.pad(shares, (0, max(missing, 0)))


def embedding_map(
    model: Any, rows: Sequence[str], method: str = "pca", seed: int = 0, neighbors: int = 15
) -> EmbeddingMap:
    """Lay out the embeddings that a net has of molecules.

    Args:
        model: a net or its model file, or its `LayerStates` of the rows.
        rows: SMILES; those that are no molecules are left out.
        method: `pca`, which is linear and the same at every call, or `umap`, which shows neighbourhoods and needs the
            extra `maps`.
        seed: of UMAP.
        neighbors: of UMAP.

    Raises:
        ConfigError: another method, or a net without embeddings.
        DataError: fewer than three molecules.
        MissingExtra: UMAP is not installed.

    Source: McInnes, Healy and Melville, arXiv:1802.03426, for UMAP.
    """
    if method not in METHODS:
        raise ConfigError(f"map '{method}': choose from {', '.join(METHODS)}")
    umap = _umap() if method == "umap" else None
    states = model if isinstance(model, LayerStates) else layer_states(model, rows)
    places = np.flatnonzero(np.isfinite(states.last).all(1))
    if len(places) < 3:
        raise DataError(f"a map of {len(places)} molecules: expected three at least")
    x = states.last[places]
    texts = [rows[k] for k in places.tolist()]
    if umap is None:
        xy, shares = principal_components(x)
        return EmbeddingMap(texts, places, xy, method, tuple(shares.tolist()))
    layout = umap.UMAP(n_neighbors=min(neighbors, len(x) - 1), random_state=seed, n_jobs=1)
    return EmbeddingMap(texts, places, np.asarray(layout.fit_transform(x), dtype=np.float64), method)


def _umap() -> Any:
    try:
        import umap
    except ImportError:
        raise MissingExtra("umap-learn", "maps", "a UMAP map") from None
    return umap
