"""The molecular encoder: RoBERTa with the normalisation before each branch, on packed tokens."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geomlib.errors import ConfigError, DataError, nearest
from geomlib.models.mist.presets import PRESETS
from geomlib.nn.attention import PackedSequences, attend, pack
from geomlib.nn.reduce import segment_sum

__all__ = ["Block", "Embedding", "Encoder", "first_token", "mean_token"]


class Embedding(nn.Module):
    """Dropout(LayerNorm(E_token[id] + E_position[p] + E_segment[0])).

    Args:
        vocabulary: number of token ids.
        width: H.
        positions: rows of the position table.
        position_offset: row of the first token of a sequence.
        compat_pad_token_id: see `Encoder`.
        dropout: probability.
        epsilon: of the LayerNorm.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        position_offset: int,
        compat_pad_token_id: int | None,
        dropout: float,
        epsilon: float,
    ) -> None:
        super().__init__()
        self.position_offset, self.compat_pad_token_id = position_offset, compat_pad_token_id
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_id: Int[Tensor, " tokens"], packed: PackedSequences) -> Float[Tensor, "tokens width"]:
        """Embedded tokens, in the order of `packed`.

        Raises:
            DataError: a sequence is longer than the table of positions.
        """
        room = self.position.num_embeddings - self.position_offset
        if self.compat_pad_token_id is not None:
            room = self.position.num_embeddings - self.compat_pad_token_id - 1
        if packed.longest > room:
            raise DataError(
                f"a sequence of {packed.longest} tokens: the encoder has positions for {room}; leave the molecule out "
                "or cut it (max_tokens of the tokens' builder), or use an encoder with more positions"
            )
        rows = self._rows(token_id, packed)
        ids, rows = token_id.index_select(0, packed.order), rows.index_select(0, packed.order)
        summed = self.token(ids) + self.position(rows) + self.segment.weight[0]
        return self.dropout(self.norm(summed))

    def _rows(self, token_id: Tensor, packed: PackedSequences) -> Int[Tensor, " tokens"]:
        pad = self.compat_pad_token_id
        if pad is None:
            return packed.position + self.position_offset
        counted = (token_id != pad).long()
        running = counted.cumsum(0)
        first = torch.arange(len(token_id), device=token_id.device) - packed.position  # first token of the sequence
        before = (running - counted).index_select(0, first)
        return pad + (running - before) * counted


class Block(nn.Module):
    """x ← x + W_o·attention(LN(x)); x ← x + W_2·gelu(W_1·LN(x)), with dropout on weights and on both branches.

    Args:
        width: H.
        heads: A, a divisor of H.
        feedforward: F.
        dropout: probability on the branches.
        attention_dropout: probability on attention weights.
        epsilon: of both LayerNorms.
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, dropout: float, attention_dropout: float, epsilon: float
    ) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.feedforward_norm = nn.LayerNorm(width, eps=epsilon)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "tokens width"], packed: PackedSequences) -> Float[Tensor, "tokens width"]:
        """Both branches, on tokens in the order of `packed`."""
        normed = self.attention_norm(x)
        split = (len(x), self.heads, -1)
        q, k, v = (part(normed).view(split) for part in (self.query, self.key, self.value))
        mixed = attend(q, k, v, packed, self.attention_dropout if self.training else 0.0)
        x = x + self.dropout(self.output(mixed.flatten(1)))
        return x + self.dropout(self.contract(F.gelu(self.expand(self.feedforward_norm(x)))))


class Encoder(nn.Module):
    """Bidirectional transformer on packed tokens: hidden states of every token from all tokens of its molecule.

    Embedding, `layers` blocks, a last LayerNorm. Molecules do not see each other and nothing is padded: tokens are
    sorted by the length of their molecule, molecules of one length are attended to together. The result equals that
    of the padded evaluation with an attention mask but for rounding.

    New encoders count positions from 0. RoBERTa counts from the padding id + 1, which `position_offset` = padding id
    + 1 reproduces. Published checkpoints were trained with the padding id 1, that of `#`: with
    `compat_pad_token_id=1` every `#` has position 1 and is not counted.

    Args:
        vocabulary: number of token ids.
        layers: N.
        width: H.
        heads: A, a divisor of H.
        feedforward: F.
        positions: rows of the position table, P.
        dropout: probability on the embedding and both branches of a block.
        attention_dropout: probability on attention weights; that of `dropout` if not given. Zero lets a CPU use its
            fast attention in training.
        position_offset: row of a molecule's first token.
        compat_pad_token_id: padding id that a checkpoint was trained with, where it is the id of a glyph.
        epsilon: of LayerNorms.
        rounding: how lengths are grouped, see `geomlib.nn.attention.pack`; `auto` is 1 on a CPU and one padded
            rectangle elsewhere.
        recompute: blocks remember their input only and are evaluated again in the backward pass.

    Raises:
        ConfigError: sizes that make no encoder.

    Source: Liu et al., arXiv 1907.11692 (RoBERTa) with pre-normalisation; MIST, arXiv 2510.18900.
    """

    def __init__(
        self,
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
        rounding: int | str | None = "auto",
        recompute: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads}
        sizes |= {"feedforward": feedforward, "positions": positions}
        for name, size in sizes.items():
            if not 0 < size <= 1_000_000:
                raise ConfigError(f"encoder {name} is {size}: expected a positive number of sensible size")
        if width % heads:
            raise ConfigError(f"encoder width {width} can't be divided among {heads} heads")
        if not 0.0 <= dropout < 1.0 or not 0.0 <= (attention_dropout or 0.0) < 1.0:
            raise ConfigError(f"encoder dropout {dropout}, {attention_dropout}: expected probabilities below 1")
        if position_offset < 0 or position_offset >= positions:
            raise ConfigError(f"encoder position_offset is {position_offset}: expected a row of {positions} positions")
        if compat_pad_token_id is not None and not 0 <= compat_pad_token_id < positions - 1:
            raise ConfigError(f"encoder compat_pad_token_id is {compat_pad_token_id}: no position would be left")
        if compat_pad_token_id is not None and position_offset:
            raise ConfigError("encoder: give position_offset or compat_pad_token_id, not both")
        if isinstance(rounding, str) and rounding != "auto":
            raise ConfigError(f"encoder rounding is '{rounding}': expected auto, a number, or None")
        self.vocabulary, self.width, self.rounding, self.recompute = vocabulary, width, rounding, recompute
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.embedding = Embedding(vocabulary, width, positions, position_offset, compat_pad_token_id, dropout, epsilon)
        self.blocks = nn.ModuleList(
            Block(width, heads, feedforward, dropout, attention_dropout, epsilon) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.apply(initialise)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """An encoder of a named size: tiny, small, 28M or 1.8B.

        Raises:
            ConfigError: an unknown preset.
        """
        return cls(**{**preset(name), **overrides})

    @property
    def room(self) -> int:
        """Tokens that the longest molecule may have."""
        pad = self.embedding.compat_pad_token_id
        used = self.embedding.position_offset if pad is None else pad + 1
        return self.embedding.position.num_embeddings - used

    def forward(
        self, token_id: Int[Tensor, " tokens"], token_component: Int[Tensor, " tokens"], components: int
    ) -> Float[Tensor, "tokens width"]:
        """Hidden states of all tokens, after the last LayerNorm.

        Args:
            token_id: ids, molecule after molecule.
            token_component: molecule of each token, ascending.
            components: number of molecules.

        Raises:
            DataError: a molecule has more tokens than there are positions.
        """
        packed, x = self._embed(token_id, token_component, components)
        for block in self.blocks:
            x = self._block(block, x, packed)
        return self.norm(x).index_select(0, packed.restore)

    def states(
        self, token_id: Int[Tensor, " tokens"], token_component: Int[Tensor, " tokens"], components: int
    ) -> list[Float[Tensor, "tokens width"]]:
        """The embedding, the output of every block, and the hidden states that `forward` returns."""
        packed, x = self._embed(token_id, token_component, components)
        found = [x]
        for block in self.blocks:
            x = self._block(block, x, packed)
            found.append(x)
        return [state.index_select(0, packed.restore) for state in (*found, self.norm(x))]

    def _embed(self, token_id: Tensor, token_component: Tensor, components: int) -> tuple[PackedSequences, Tensor]:
        rounding = self.rounding
        if isinstance(rounding, str):
            rounding = 1 if token_id.device.type == "cpu" else None
        packed = pack(token_component, components, rounding)
        return packed, self.embedding(token_id, packed)

    def _block(self, block: nn.Module, x: Tensor, packed: PackedSequences) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, x, packed, use_reentrant=False)
        return block(x, packed)


def initialise(module: nn.Module) -> None:
    """Normal(0, 0.02) weights of linear maps and embeddings, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def preset(name: str) -> dict[str, int]:
    """Constructor arguments of a named size.

    Raises:
        ConfigError: it is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"encoder preset '{name}' is unknown{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def first_token(
    hidden: Float[Tensor, "tokens width"], token_component: Int[Tensor, " tokens"], components: int
) -> Float[Tensor, "components width"]:
    """Hidden state of the first token of each molecule; zeros for a molecule without tokens."""
    lengths = torch.bincount(token_component, minlength=components)
    first = (lengths.cumsum(0) - lengths).clamp_max(max(len(hidden) - 1, 0))
    if not len(hidden):
        return hidden.new_zeros(components, hidden.shape[1])
    return hidden.index_select(0, first) * (lengths > 0).to(hidden).unsqueeze(1)


def mean_token(
    hidden: Float[Tensor, "tokens width"], token_component: Int[Tensor, " tokens"], components: int
) -> Float[Tensor, "components width"]:
    """Mean of the hidden states of each molecule; zeros for a molecule without tokens."""
    lengths = torch.bincount(token_component, minlength=components).clamp_min(1)
    return segment_sum(hidden, token_component, components) / lengths.to(hidden).unsqueeze(1)
