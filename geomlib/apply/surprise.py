"""How surprising each token of a molecule is to a language model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from geomlib.apply.predict import molecule_batches
from geomlib.apply.token_atoms import write_molecule
from geomlib.data.molecular_tokenizer import SPECIALS, MolecularTokenizer
from geomlib.data.molecules import to_smiles
from geomlib.errors import ConfigError, GeomlibError
from geomlib.files.manifest import bare_net
from geomlib.files.modelfile import load
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models.mist.net import MIST

__all__ = ["Surprise", "token_surprise"]


@dataclass(frozen=True, slots=True)
class Surprise:
    """Surprise of the tokens of a molecule [nats].

    Attributes:
        smiles: of the molecule.
        tokens: as the net reads them; special tokens are left out.
        nats: −ln p of each.
        atoms: the same on the atoms, in RDKit's order of `smiles`.
        error: why there is none, or None.
    """

    smiles: str
    tokens: tuple[str, ...] = ()
    nats: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    atoms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    error: str | None = None

    @property
    def mean(self) -> float:
        """Mean over the tokens; exp of it is the pseudo-perplexity."""
        return float(self.nats.mean()) if len(self.nats) else math.nan


@torch.no_grad()
def token_surprise(model: Any, rows: Sequence[str], max_tokens: int = 16384) -> list[Surprise]:
    """−ln p of every token when it, and no other, is hidden behind `[MASK]`; none of the rows raises.

    A molecule of n tokens is evaluated n times, all of them packed into batches. On the atoms a bond counts half at
    either end; branches and dots are on none.

    Args:
        model: a `MIST`, or its model file or checkpoint.
        rows: SMILES.
        max_tokens: of a batch.

    Raises:
        ConfigError: a net that is no language model.

    Source: Salazar et al., arXiv:1910.14659 (pseudo-log-likelihood); on molecules MIST, arXiv:2510.18900.
    """
    net = bare_net(model if isinstance(model, torch.nn.Module) else load(model))[0]
    builder = net.spec.find(SmilesTokens)
    if not isinstance(net, MIST) or builder is None:
        raise ConfigError(
            f"a net of the family '{net.family}' predicts no tokens: surprise needs one of the family mist"
        )
    net.eval()
    errors: list[str | None] = [None] * len(rows)
    found: list[Surprise | None] = [None] * len(rows)
    for batch in molecule_batches(rows, errors):
        for index, graph in batch:
            try:
                built = net.spec.build(graph.clone())
                written = write_molecule(to_smiles(graph)[0], builder)
            except GeomlibError as error:
                errors[index] = str(error)
                continue
            ids = built.token_id.to(next(net.parameters()).device)
            nats = _hidden_one_by_one(net, ids, max_tokens)
            shown = [k for k, token in enumerate(written.tokens[: len(ids)]) if token not in SPECIALS]
            tokens = tuple(written.tokens[k] for k in shown)
            found[index] = Surprise(rows[index], tokens, nats[shown], written.on_atoms(nats)[0])
    return [row or Surprise(rows[k], error=errors[k] or "can't be read") for k, row in enumerate(found)]


def _hidden_one_by_one(net: MIST, ids: torch.Tensor, max_tokens: int) -> NDArray[np.float64]:
    """−ln p of each id, from copies of the molecule in which one token each is hidden."""
    length = len(ids)
    several = max(1, max_tokens // max(length, 1))
    found = []
    for begin in range(0, length, several):
        hidden = torch.arange(begin, min(begin + several, length), device=ids.device)
        copies = torch.arange(len(hidden), device=ids.device)
        rows = ids.repeat(len(hidden), 1)
        rows[copies, hidden] = MolecularTokenizer.mask_token_id
        states = net.encoder(rows.flatten(), torch.repeat_interleave(copies, length), len(hidden))
        logits = net.logits(states[copies * length + hidden])
        found.append(F.cross_entropy(logits.double(), ids[hidden], reduction="none").cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0)
