"""`Predictor`: properties of SMILES by a model or a committee, row by row, whatever the rows are."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomlib.data.graph import GraphData, collate
from geomlib.data.molecules import from_smiles, parse_molecule, to_smiles
from geomlib.errors import ConfigError, GeomlibError
from geomlib.files.committee import expand_committees
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.models.base import Net
from geomlib.models.property import PropertyNet
from geomlib.nn.targets import Target

__all__ = ["Predictions", "Predictor", "Row", "built_batch", "molecule_batches"]

Row = str | GraphData
"""A SMILES, or a graph of text (a mixture, say) as `from_smiles` makes it."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What came of rows.

    Attributes:
        columns: names of the columns.
        values: [rows, columns]; NaN where there is an error.
        errors: why a row has no values, or None.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    errors: list[str | None]


class Predictor:
    """Predicts properties of molecules and mixtures.

    Rows are sorted by their length and put into batches of about equal numbers of characters; what comes back is in
    the order of the rows. A row that can't be predicted has an error in its place. Several models, or passes with
    dropout, make a committee: the mean is predicted, and the standard deviation beside it as `NAME_std`.

    Args:
        models: model file, checkpoint or file of a committee, or a net, or several of these with the same targets.
        device: where to calculate; the CPU if not given.
        dtype: floating precision, by name or as a torch dtype; that of the file if not given.
        max_tokens: characters of a batch.
        dropout_samples: passes with dropout of each model (Monte Carlo dropout); 0 has none.
        seed: of the dropout.

    Raises:
        ConfigError: no model, one that predicts no properties, or models with different targets.
        FileFormatError: a file that can't be read.

    Source: Gal and Ghahramani, arXiv:1506.02142, for dropout.
    """

    def __init__(
        self,
        models: str | os.PathLike[str] | nn.Module | Sequence[str | os.PathLike[str] | nn.Module],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_tokens: int = 16384,
        dropout_samples: int = 0,
        seed: int = 0,
    ) -> None:
        given = [models] if isinstance(models, str | os.PathLike | nn.Module) else list(models)
        if not given or max_tokens < 1 or dropout_samples < 0:
            raise ConfigError(
                f"{len(given)} models, max_tokens {max_tokens}, dropout_samples {dropout_samples}: expected at least "
                "one, one and none"
            )
        self.max_tokens, self.dropout_samples, self.seed = max_tokens, dropout_samples, seed
        self.nets: list[PropertyNet] = []
        for model in given:
            if isinstance(model, nn.Module):
                self._add(model.to(device=device) if device is not None else model, type(model).__name__)
                continue
            for file in expand_committees([model]):
                self._add(load(file, device, dtype), str(file))
        members = len(self.nets) * max(1, dropout_samples)
        names = [target.name for target in self.targets]
        self.columns = (*names, *(f"{name}_std" for name in names)) if members > 1 else tuple(names)

    def _add(self, model: nn.Module, name: str) -> None:
        net = bare_net(model)[0]
        if not isinstance(net, PropertyNet) or net.head is None or "target" not in net.outputs:
            raise ConfigError(f"{name}: predicts no properties of molecules (it is of the family '{net.family}')")
        if self.nets and [row.name for row in net.targets] != [row.name for row in self.targets]:
            raise ConfigError(
                f"{name}: predicts {', '.join(row.name for row in net.targets)}, the models before it "
                f"{', '.join(row.name for row in self.targets)}: a committee agrees in its targets"
            )
        if self.dropout_samples and not any(isinstance(part, nn.Dropout) and part.p > 0 for part in net.modules()):
            raise ConfigError(f"{name}: has no dropout, so dropout_samples would all be the same")
        self.nets.append(net.eval())

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is predicted."""
        return self.nets[0].targets

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Predict rows; none of them raises.

        Args:
            rows: SMILES, or graphs of text.
        """
        values = np.full((len(rows), len(self.columns)), np.nan)
        errors: list[str | None] = [None] * len(rows)
        for batch in molecule_batches(rows, errors, self.max_tokens):
            for where, found in self._evaluated(batch, errors):
                mean, spread = found.mean(0), found.std(0)
                values[where] = np.concatenate([mean, spread], axis=1)[:, : len(self.columns)]
        for row in np.flatnonzero(~np.isfinite(values).all(1)):
            values[row] = np.nan
            errors[row] = errors[row] or "the prediction is not finite"
        return Predictions(self.columns, values, errors)

    def embed(self, rows: Sequence[Row]) -> Predictions:
        """What the first model makes its predictions of, as columns `embedding_0`, `embedding_1` and so on."""
        width = self.nets[0].embedding_width
        values = np.full((len(rows), width), np.nan)
        errors: list[str | None] = [None] * len(rows)
        for batch in molecule_batches(rows, errors, self.max_tokens):
            for where, found in self._evaluated(batch, errors, embedding=True):
                values[where] = found[0]
        return Predictions(tuple(f"embedding_{k}" for k in range(width)), values, errors)

    def _evaluated(
        self, batch: list[tuple[int, GraphData]], errors: list[str | None], *, embedding: bool = False
    ) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
        """Rows of a batch and what the members say of them [members, rows, columns]; halves it to find bad rows."""
        try:
            found = self._members([graph for _, graph in batch], embedding=embedding)
        except GeomlibError as error:
            if len(batch) == 1:
                errors[batch[0][0]] = str(error)
                return
            middle = len(batch) // 2
            yield from self._evaluated(batch[:middle], errors, embedding=embedding)
            yield from self._evaluated(batch[middle:], errors, embedding=embedding)
            return
        yield [index for index, _ in batch], found

    @torch.no_grad()
    def _members(self, graphs: list[GraphData], *, embedding: bool) -> NDArray[np.float64]:
        built: dict[str, GraphData] = {}
        found: list[Tensor] = []
        for number, net in enumerate(self.nets[:1] if embedding else self.nets):
            key = net.spec.hash
            if key not in built:
                built[key] = built_batch(net, graphs)
            batch = built[key].to_dtype(next(net.parameters()).dtype)
            if embedding:
                found.append(net.embed(batch))
                continue
            if not self.dropout_samples:
                found.append(net(batch)["target"])
                continue
            with _with_dropout(net, self.seed + number):
                found += [net(batch)["target"] for _ in range(self.dropout_samples)]
        return torch.stack([values.double().cpu() for values in found]).numpy()


def molecule_batches(
    rows: Sequence[Row], errors: list[str | None], max_tokens: int = 16384
) -> Iterator[list[tuple[int, GraphData]]]:
    """Rows that are molecules, with their places, in batches of similar length.

    Args:
        rows: SMILES, or graphs of text.
        errors: one for each row; set where a row is no molecule.
        max_tokens: characters of a batch.
    """
    read: list[tuple[int, GraphData]] = []
    for index, row in enumerate(rows):
        try:
            graph = from_smiles(row) if isinstance(row, str) else row
            for text in to_smiles(graph):
                parse_molecule(text)
            read.append((index, graph))
        except GeomlibError as error:
            errors[index] = str(error)
    read.sort(key=lambda pair: len(pair[1].smiles))
    batch: list[tuple[int, GraphData]] = []
    count = 0
    for index, graph in read:
        if batch and count + len(graph.smiles) > max_tokens:
            yield batch
            batch, count = [], 0
        batch.append((index, graph))
        count += len(graph.smiles)
    if batch:
        yield batch


def built_batch(net: Net, graphs: Sequence[GraphData], copies: int = 1) -> GraphData:
    """A batch of graphs of text with the structure that `net` needs, without labels, on the net's device.

    Args:
        net: of molecules.
        graphs: of text.
        copies: of each, one after the other.
    """
    prepared = [_bare(net.spec.prepare(graph.clone())) for graph in graphs]
    batch = net.spec.complete(collate([graph for graph in prepared for _ in range(copies)]))
    return batch.to(next(net.parameters()).device)


def _bare(graph: GraphData) -> GraphData:
    """Without labels, which not all rows may have."""
    for name in ("target", "sample_id"):
        if name in graph:
            del graph[name]
    return graph


@contextmanager
def _with_dropout(net: nn.Module, seed: int) -> Iterator[None]:
    """Dropout as in training, everything else as in evaluation; the global generator is left as it was."""
    dropping = [part for part in net.modules() if isinstance(part, nn.Dropout) or hasattr(part, "attention_dropout")]
    device = next(net.parameters()).device
    devices = [device] if device.type == "cuda" else []
    for part in dropping:
        part.training = True
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        for part in dropping:
            part.training = False
