"""What each atom of a molecule contributes to a predicted property."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomlib.apply.predict import Predictor, built_batch, molecule_batches
from geomlib.apply.token_atoms import WrittenMolecule, write_molecule
from geomlib.data.graph import GraphData
from geomlib.data.molecular_tokenizer import MolecularTokenizer
from geomlib.data.molecules import parse_molecule, to_smiles
from geomlib.errors import ConfigError, GeomlibError
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models.mist.encoder import Embedding
from geomlib.models.property import PropertyNet
from geomlib.nn.targets import Target

__all__ = ["METHODS", "Attribution", "attribute", "scale_words"]

METHODS = ("integrated", "gradient", "occlusion")

_MASK = MolecularTokenizer.mask_token_id
_FEATURES = ("node_features", "edge_features")
_BATCH = 2048
"""Characters of a batch; gradients need several times the memory of a prediction."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Contributions to one prediction, on the scale of `scale_words`.

    Attributes:
        smiles: of the molecule.
        value: of the molecule.
        baseline: of the same molecule with nothing known of its tokens, atoms and bonds; NaN for `occlusion`.
        atoms: contribution of each atom, in RDKit's order of `smiles`.
        rest: of tokens that speak of no atom (branches, dots, special tokens).
        tokens: the text's tokens; empty for a net without tokens.
        token_values: contribution of each token.
        error: why there is none, or None.
    """

    smiles: str
    value: float = math.nan
    baseline: float = math.nan
    atoms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rest: float = 0.0
    tokens: tuple[str, ...] = ()
    token_values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    error: str | None = None

    @property
    def gap(self) -> float:
        """Sum of all contributions − (value − baseline); what the rule of integration leaves out."""
        return float(self.atoms.sum()) + self.rest - (self.value - self.baseline)

    @property
    def size(self) -> float:
        """Sum of the magnitudes of the contributions."""
        return float(np.abs(self.atoms).sum()) + abs(self.rest)


def scale_words(target: Target) -> str:
    """The scale on which contributions to a target add up, in words."""
    if target.kind == "binary":
        return "log-odds"
    if target.normalizer == "log":
        return f"ln({target.name})"
    if target.normalizer == "power":
        return "Yeo-Johnson scale"
    return target.unit


def attribute(
    model: Any,
    rows: Sequence[str],
    target: str | int = 0,
    method: str = "integrated",
    steps: int = 16,
    tolerance: float = 0.01,
) -> list[Attribution]:
    """Contributions of the atoms of molecules to a predicted property.

    `integrated` are integrated gradients, Σ (x − x₀) ∫ ∂f/∂x(x₀ + α (x − x₀)) dα, over the embeddings of the tokens of
    a language model and the features of atoms and bonds of a graph net; x₀ are the embedding of `[MASK]` at the same
    places, and zero features. They sum to f(x) − f(x₀), which `Attribution.gap` checks. The integral is a
    Gauss-Legendre sum whose points are doubled, twice at most, until the gap is small. `gradient` is the same with the
    gradient at x alone. `occlusion` is how far f falls when tokens or features of an atom alone are hidden.

    A token's contribution goes to its atom, that of a bond half to either end. Descriptors of the molecule are kept as
    they are, so what a net reads from them is attributed to no atom. A committee gives the mean of its members.

    Args:
        model: a `Predictor`, or what makes one: model files or nets.
        rows: SMILES of molecules; not of mixtures.
        target: name or number of the property.
        method: `integrated`, `gradient` or `occlusion`.
        steps: points of the integral.
        tolerance: of the gap, as a fraction of the sum of the magnitudes of the contributions.

    Raises:
        ConfigError: another method, no such target, or a net that reads neither tokens nor atoms.

    Source: Sundararajan, Taly and Yan, arXiv:1703.01365 (integrated gradients).
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    names = [row.name for row in predictor.targets]
    if method not in METHODS or steps < 1:
        raise ConfigError(f"method '{method}', steps {steps}: expected one of {', '.join(METHODS)}, and at least 1")
    if isinstance(target, str) and target not in names:
        raise ConfigError(f"target '{target}': the model has {', '.join(names)}")
    column = names.index(target) if isinstance(target, str) else target
    errors: list[str | None] = [None] * len(rows)
    found: list[Attribution | None] = [None] * len(rows)
    for batch in molecule_batches(rows, errors, _BATCH):
        for index, graph in _followed(predictor.nets, batch, errors) if method == "occlusion" else ():
            found[index] = _mean([_occluded(net, graph, column) for net in predictor.nets])
        if method != "occlusion":
            usable = list(_followed(predictor.nets, batch, errors))
            graphs = [graph for _, graph in usable]
            members = [_refined(net, graphs, column, method, steps, tolerance) for net in predictor.nets if graphs]
            for place, (index, _) in enumerate(usable):
                found[index] = _mean([member[place] for member in members])
    return [row or Attribution(rows[k], error=errors[k] or "can't be attributed") for k, row in enumerate(found)]


def _followed(
    nets: Sequence[PropertyNet], batch: list[tuple[int, GraphData]], errors: list[str | None]
) -> Iterator[tuple[int, GraphData]]:
    """Rows whose structure every net can build."""
    for index, graph in batch:
        try:
            for net in nets:
                net.spec.prepare(graph.clone())
                if (builder := net.spec.find(SmilesTokens)) is not None:
                    write_molecule(to_smiles(graph)[0], builder)
            yield index, graph
        except GeomlibError as error:
            errors[index] = str(error)


def _mean(rows: Sequence[Attribution]) -> Attribution:
    first = rows[0]
    if len(rows) == 1:
        return first
    alike = all(row.tokens == first.tokens for row in rows)
    return Attribution(
        first.smiles,
        float(np.mean([row.value for row in rows])),
        float(np.mean([row.baseline for row in rows])),
        np.mean([row.atoms for row in rows], axis=0),
        float(np.mean([row.rest for row in rows])),
        first.tokens if alike else (),
        np.mean([row.token_values for row in rows], axis=0) if alike else np.zeros(0),
    )


def _values(net: PropertyNet, batch: GraphData, column: int) -> Tensor:
    """The target before the last, curved step of its scale: what contributions can add up to."""
    raw = net(batch)["target_raw"][:, column]
    return raw * net.normalizer.deviation[column].to(raw) + net.normalizer.mean[column].to(raw)


# -------------------------------------------------------------------- gradients


class _Path:
    """A batch on the straight way from the baseline (α = 0) to itself (α = 1), and the gradients there."""

    def __init__(self, net: PropertyNet, batch: GraphData) -> None:
        self.net, self.batch = net, batch.to_dtype(next(net.parameters()).dtype)
        self.embeddings = [part for part in net.modules() if isinstance(part, Embedding)]
        self.features = {name: self.batch[name] for name in _FEATURES if name in self.batch}
        if not self.embeddings and not self.features:
            raise ConfigError(
                f"a net of the family '{net.family}' reads neither tokens nor atoms: nothing to attribute to"
            )

    def at(self, alpha: float, column: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Values, and gradient · (x − x₀) of each token and of each row of features."""
        leaves: list[Tensor] = []
        steps: list[Tensor] = []
        orders: list[Tensor] = []

        def note_order(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            orders.append(arguments[1].order)

        def replace(module: Any, arguments: tuple[Any, ...], out: Tensor) -> Tensor:
            ids, full = arguments[0], out.detach()
            special = (ids > 158) & (ids < 165)
            base = torch.where(special.unsqueeze(1), full, module.weight.detach()[_MASK])
            leaves.append((base + alpha * (full - base)).requires_grad_())
            steps.append(full - base)
            return leaves[-1]

        batch = copy(self.batch)
        with ExitStack() as stack, torch.enable_grad():
            for part in self.embeddings:
                stack.enter_context(_removed(part.register_forward_pre_hook(note_order)))
                stack.enter_context(_removed(part.token.register_forward_hook(replace)))
            for name, value in self.features.items():
                batch[name] = (alpha * value).requires_grad_()
            values = _values(self.net, batch, column)
            inputs = [*leaves, *(batch[name] for name in self.features)]
            gradients = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
        products = [
            torch.zeros(len(step), dtype=step.dtype, device=step.device) if slope is None else (slope * step).sum(1)
            for slope, step in zip(gradients, [*steps, *self.features.values()], strict=True)
        ]
        tokens = values.new_zeros(len(self.batch.token_id) if self.embeddings else 0)
        for order, product in zip(orders, products, strict=False):
            tokens = tokens.index_add(0, order, product.to(tokens))
        rows = dict(zip(self.features, products[len(leaves) :], strict=True))
        return values.detach(), tokens.detach(), rows


class _removed:
    """A hook that is taken away at the end."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        """Nothing to do: it is registered."""

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.handle.remove()


def _refined(
    net: PropertyNet, graphs: Sequence[GraphData], column: int, method: str, steps: int, tolerance: float
) -> list[Attribution]:
    path = _Path(net, built_batch(net, graphs))
    ends = [path.at(alpha, column)[0].double().cpu().numpy() for alpha in (0.0, 1.0)]
    for points in (1,) if method == "gradient" else (steps, 2 * steps, 4 * steps):
        nodes, weights = np.polynomial.legendre.leggauss(points)
        nodes, weights = (np.ones(1), np.ones(1)) if method == "gradient" else (0.5 * (nodes + 1), 0.5 * weights)
        tokens, rows = torch.zeros(0), dict[str, Tensor]()
        for alpha, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            _, one, others = path.at(alpha, column)
            tokens = weight * one.double() + (tokens if len(tokens) else 0.0)
            rows = {name: weight * value.double() + rows.get(name, 0.0) for name, value in others.items()}
        found = _collected(path, graphs, ends, tokens, rows)
        if all(abs(row.gap) <= tolerance * row.size + 1e-6 * (1 + abs(row.value)) for row in found):
            break
    return found


def _collected(
    path: _Path,
    graphs: Sequence[GraphData],
    ends: Sequence[NDArray[np.float64]],
    tokens: Tensor,
    rows: dict[str, Tensor],
) -> list[Attribution]:
    """Contributions of a batch, by molecule and atom."""
    batch, builder = path.batch, path.net.spec.find(SmilesTokens)
    token_values, token_owner = tokens.cpu().numpy(), _numpy(batch, "token_component")
    node_values, node_owner = _by_node(batch, rows), _numpy(batch, "node_component")
    found = []
    for k, graph in enumerate(graphs):
        smiles = to_smiles(graph)[0]
        atoms, rest = np.zeros(parse_molecule(smiles).GetNumAtoms()), 0.0
        written, own = None, np.zeros(0)
        if builder is not None and path.embeddings:
            written, own = write_molecule(smiles, builder), token_values[token_owner == k]
            on_atoms, rest = written.on_atoms(own)
            atoms += on_atoms
        if len(node_values):
            atoms += node_values[node_owner == k][: len(atoms)]
        texts = tuple(written.tokens[: len(own)]) if written is not None else ()
        found.append(Attribution(smiles, float(ends[1][k]), float(ends[0][k]), atoms, rest, texts, own))
    return found


def _numpy(batch: GraphData, name: str) -> NDArray[Any]:
    return batch[name].cpu().numpy() if name in batch else np.zeros(0, dtype=np.int64)


def _by_node(batch: GraphData, rows: dict[str, Tensor]) -> NDArray[np.float64]:
    """Contributions of features on atoms, those of a bond half on either end, those of hydrogens on their neighbour."""
    if "node_features" not in rows:
        return np.zeros(0)
    values = rows["node_features"].cpu().numpy().copy()
    source, target = batch.edge_index.cpu().numpy()
    bonds = rows["edge_features"].cpu().numpy()
    np.add.at(values, source, 0.5 * bonds)
    np.add.at(values, target, 0.5 * bonds)
    owner = _numpy(batch, "node_component")
    sizes = np.array([parse_molecule(text).GetNumAtoms() for text in to_smiles(batch)])
    first = np.searchsorted(owner, np.arange(len(sizes)))
    hydrogen = np.arange(len(owner)) - first[owner] >= sizes[owner]  # RDKit puts them behind all other atoms
    moved = hydrogen[source] & ~hydrogen[target]
    np.add.at(values, target[moved], values[source[moved]])
    values[hydrogen] = 0.0
    return values


# -------------------------------------------------------------------- occlusion


@torch.no_grad()
def _occluded(net: PropertyNet, graph: GraphData, column: int) -> Attribution:
    smiles = to_smiles(graph)[0]
    size = parse_molecule(smiles).GetNumAtoms()
    builder = net.spec.find(SmilesTokens)
    written = write_molecule(smiles, builder) if builder is not None else None
    whole = float(_values(net, built_batch(net, [graph]).to_dtype(next(net.parameters()).dtype), column)[0])
    atoms, several = np.zeros(size), max(1, _BATCH * 4 // max(len(graph.smiles), 1))
    for begin in range(0, size, several):
        hidden = range(begin, min(begin + several, size))
        batch = built_batch(net, [graph], len(hidden)).to_dtype(next(net.parameters()).dtype)
        for copy_number, atom in enumerate(hidden):
            _hide(batch, copy_number, atom, written)
        atoms[begin : begin + len(hidden)] = whole - _values(net, batch, column).double().cpu().numpy()
    return Attribution(smiles, whole, math.nan, atoms)


def _hide(batch: GraphData, copy_number: int, atom: int, written: WrittenMolecule | None) -> None:
    """Hide the tokens of an atom alone, its features and those of its bonds, in one of the copies of a molecule."""
    if written is not None and "token_id" in batch:
        places = (batch.token_component == copy_number).nonzero().squeeze(1)
        own = [k for k, owners in enumerate(written.atoms[: len(places)]) if owners == (atom,)]
        batch.token_id[places[own]] = _MASK
    if "node_features" in batch:
        node = int((batch.node_component == copy_number).nonzero()[0, 0]) + atom
        batch.node_features[node] = 0.0
        batch.edge_features[(batch.edge_index == node).any(0)] = 0.0
