"""MIST: a molecular language model, pretrained by predicting tokens that are hidden from it."""

from collections.abc import Iterable
from typing import Any, Self

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.graphs.spec import GraphSpec
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models.base import Net
from geomlib.models.mist.encoder import Encoder, first_token, initialise, mean_token, preset
from geomlib.models.mist.head import TokenHead
from geomlib.nn.descriptors import DescriptorNormalizer

__all__ = ["MIST", "POOLS", "check_pool", "token_spec"]

POOLS = {"first": first_token, "mean": mean_token}
"""How the hidden states of a molecule become one."""


def token_spec(form: str, template: bool, max_tokens: int, truncate: bool) -> GraphSpec:
    """The structure that molecular encoders need.

    Args:
        form: of the SMILES: `kekule`, `canonical` or `as-is`.
        template: whether `[CLS]` and `[SEP]` are added.
        max_tokens: of a molecule.
        truncate: cut longer molecules instead of refusing them.

    Raises:
        ConfigError: another form.
    """
    return GraphSpec((SmilesTokens(form, template, max_tokens, truncate),))


def check_pool(pool: str) -> str:
    """`pool`, if there is such a one.

    Raises:
        ConfigError: there is none.
    """
    if pool not in POOLS:
        raise ConfigError(f"pool '{pool}' is unknown; choose from {', '.join(POOLS)}")
    return pool


class MIST(Net):
    """Encoder of SMILES tokens with a head that says which token stands at each place.

    The head's decoder is the encoder's own table of tokens; its bias is separate. With `descriptors` a second head
    predicts these descriptors of each molecule, standardised, from its pooled hidden states.

    Args:
        vocabulary: number of token ids.
        layers: N.
        width: H.
        heads: A, a divisor of H.
        feedforward: F.
        positions: rows of the position table, P.
        dropout: probability on the embedding and both branches of a block.
        attention_dropout: probability on attention weights; `dropout` if not given. Zero lets a CPU use its fast
            attention in training.
        position_offset: row of a molecule's first token.
        compat_pad_token_id: for published checkpoints, see `Encoder`.
        epsilon: of LayerNorms.
        form: what is written before it is cut into tokens: `kekule`, `canonical`, `as-is` or `selfies`.
        template: put `[CLS]` before and `[SEP]` behind a molecule.
        truncate: cut molecules that have more tokens than there are positions, instead of refusing them.
        pool: hidden state that stands for a molecule, of its `first` token or the `mean`.
        descriptors: names of descriptors that are predicted too; see `geomlib.data.descriptors`.
        recompute: blocks remember their input only (less memory, a third more work); changes no result.

    Inputs (batch fields): token_id [tokens], token_component [tokens], component_graph [components]; the spec makes the
        tokens of `smiles`
    Returns: token_state [tokens, width], token_logit [tokens, vocabulary]; with `descriptors` also descriptors
        [components, names]

    Raises:
        ConfigError: an argument out of its range.

    Source: MIST, arXiv 2510.18900; the encoder is RoBERTa-PreLayerNorm.
    """

    family = "mist"
    family_version = 1
    inputs: tuple[str, ...] = ("smiles", "character_component", "component_graph")
    outputs: tuple[str, ...] = ("token_state", "token_logit")

    def __init__(
        self,
        *,
        vocabulary: int = 165,
        layers: int = 4,
        width: int = 128,
        heads: int = 4,
        feedforward: int = 512,
        positions: int = 256,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        position_offset: int = 0,
        compat_pad_token_id: int | None = None,
        epsilon: float = 1e-12,
        form: str = "kekule",
        template: bool = False,
        truncate: bool = False,
        pool: str = "first",
        descriptors: list[str] | None = None,
        recompute: bool = False,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {**arguments, "descriptors": list(descriptors) if descriptors else None}
        self.pool, self.descriptor_names = check_pool(pool), tuple(descriptors or ())
        self.encoder = Encoder(
            vocabulary,
            layers,
            width,
            heads,
            feedforward,
            positions,
            dropout=dropout,
            attention_dropout=attention_dropout,
            position_offset=position_offset,
            compat_pad_token_id=compat_pad_token_id,
            epsilon=epsilon,
            recompute=recompute,
        )
        self.head = TokenHead(width, vocabulary, epsilon)
        self.spec = token_spec(form, template, self.encoder.room, truncate)
        self.descriptor_head: nn.Module | None = None
        if self.descriptor_names:
            self.outputs = (*type(self).outputs, "descriptors")
            self.normalizer = DescriptorNormalizer(len(self.descriptor_names))
            self.descriptor_head = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(self.descriptor_names))
            ).apply(initialise)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """A net of a named size: tiny, small, 28M or 1.8B.

        Raises:
            ConfigError: an unknown preset.
        """
        return cls(**{**preset(name), **overrides})

    def encode(self, batch: GraphData) -> Float[Tensor, "tokens width"]:
        """Hidden states of all tokens."""
        return self.encoder(batch.token_id, batch.token_component, batch.count("component"))

    def pooled(self, hidden: Float[Tensor, "tokens width"], batch: GraphData) -> Float[Tensor, "components width"]:
        """One vector for each molecule."""
        return POOLS[self.pool](hidden, batch.token_component, batch.count("component"))

    def logits(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """Logits over the ids, of hidden states of all tokens or some."""
        return self.head(hidden, self.encoder.embedding.token.weight)

    def described(
        self, hidden: Float[Tensor, "tokens width"], batch: GraphData
    ) -> Float[Tensor, "components descriptors"]:
        """Predicted descriptors, standardised.

        Raises:
            ConfigError: the net predicts none.
        """
        if self.descriptor_head is None:
            raise ConfigError("this MIST predicts no descriptors: set its argument 'descriptors'")
        return self.descriptor_head(self.pooled(hidden, batch))

    def forward(self, batch: GraphData) -> dict[str, Tensor]:
        """Hidden states and logits of every token."""
        hidden = self.encode(batch)
        out = {"token_state": hidden, "token_logit": self.logits(hidden)}
        if self.descriptor_head is not None:
            out["descriptors"] = self.normalizer.inverse(self.described(hidden, batch))
        return out

    def surprise(self, batch: GraphData) -> Float[Tensor, " tokens"]:
        """−ln p of every token as it stands, nothing hidden."""
        logits = self.logits(self.encode(batch))
        return F.cross_entropy(logits, batch.token_id, reduction="none")

    def fit_statistics(self, graphs: Iterable[GraphData]) -> None:
        """Mean and deviation of the descriptors, from graphs that carry them.

        Raises:
            DataError: no graph does.
        """
        if self.descriptor_names:
            self.normalizer.fit(graph.descriptors for graph in graphs if "descriptors" in graph)
