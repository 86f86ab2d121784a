"""Tokens of the molecules of a graph, from their SMILES."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from geomlib.data.graph import GraphData
from geomlib.data.molecular_tokenizer import MolecularTokenizer
from geomlib.data.molecules import canonical_smiles, kekule_smiles, parse_molecule, to_smiles
from geomlib.data.selfies_tokens import SelfiesTokenizer, selfies_to_smiles, smiles_to_selfies
from geomlib.data.tokens import SmirkTokenizer
from geomlib.errors import ConfigError, DataError
from geomlib.graphs.builder import Builder

__all__ = ["FORMS", "SmilesTokens"]

FORMS = ("kekule", "canonical", "as-is", "selfies", "selfies-as-is")
"""How a molecule is written before it is taken apart."""


@dataclass(frozen=True)
class SmilesTokens(Builder):
    """Ids of the tokens of every molecule.

    Args:
        form: `kekule` writes double bonds where aromatic atoms would stand, as published encoders were pretrained;
            `canonical` is RDKit's own writing, `as-is` the text as given, which is not parsed. `selfies` writes the
            kekulised molecule as SELFIES, `selfies-as-is` the SMILES as given; tokens are then symbols of SELFIES.
        template: put `[CLS]` before and `[SEP]` after each molecule.
        max_tokens: longest molecule; 0 sets no limit.
        truncate: cut longer molecules instead of refusing them.

    Raises:
        ConfigError: another `form`, or a negative limit.
    """

    kind: ClassVar[str] = "smiles_tokens"
    provides: ClassVar[tuple[str, ...]] = ("token_id", "token_component")

    form: str = "kekule"
    template: bool = False
    max_tokens: int = 0
    truncate: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"form is '{self.form}'; choose from {', '.join(FORMS)}")
        if self.max_tokens < 0:
            raise ConfigError(f"max_tokens is {self.max_tokens}; expected 0 for no limit, or more")

    def build(self, graph: GraphData) -> None:
        """Set the fields in `provides` from `smiles`, for a graph or a batch.

        Raises:
            DataError: a SMILES that is no molecule or holds what the vocabulary lacks, or a molecule that is too long.
        """
        given = to_smiles(graph)
        written = [self.write(text) for text in given]
        ids, lengths = self.tokenizer.encode_packed(written, strict=True)
        if self.max_tokens and len(lengths) and int(lengths.max()) > self.max_tokens:
            if not self.truncate:
                longest = int(lengths.argmax())
                raise DataError(
                    f"SMILES '{given[longest][:60]}' has {lengths[longest]} tokens, more than the {self.max_tokens} "
                    "that the encoder has positions for"
                )
            ids, lengths = _truncated(ids, lengths, self.max_tokens)
        device = graph.smiles.device
        graph.token_id = torch.from_numpy(ids.astype(np.int64)).to(device)
        component = np.repeat(np.arange(len(lengths)), lengths)
        graph.token_component = torch.from_numpy(component).to(device)

    def write(self, smiles: str) -> str:
        """The molecule in the builder's form."""
        if self.form == "as-is":
            return smiles
        if self.form == "selfies-as-is":
            return smiles_to_selfies(smiles)
        molecule = parse_molecule(smiles)
        if self.form == "selfies":
            return smiles_to_selfies(kekule_smiles(molecule))
        return kekule_smiles(molecule) if self.form == "kekule" else canonical_smiles(molecule)

    @property
    def form_as_is(self) -> str:
        """The form for SMILES that are written already."""
        return "selfies-as-is" if self.form.startswith("selfies") else "as-is"

    def read(self, ids: Iterable[int]) -> str:
        """SMILES of the ids of a molecule."""
        text = self.tokenizer.decode(ids)
        return selfies_to_smiles(text) if self.form.startswith("selfies") else text

    @property
    def tokenizer(self) -> MolecularTokenizer:
        """What makes ids of the molecule as it is written."""
        return _tokenizer(self.form.startswith("selfies"), self.template)


@lru_cache(maxsize=4)
def _tokenizer(selfies: bool, template: bool) -> MolecularTokenizer:
    return SelfiesTokenizer(template) if selfies else SmirkTokenizer(template)


def _truncated(ids: np.ndarray, lengths: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    begins = np.cumsum(lengths) - lengths
    place = np.arange(len(ids)) - np.repeat(begins, lengths)
    return ids[place < most], np.minimum(lengths, most)
