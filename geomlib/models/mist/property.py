"""MISTProperty: properties of molecules and mixtures from the molecular encoder."""

import copy
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from geomlib.data.graph import GraphData
from geomlib.errors import ConfigError
from geomlib.models.base import Net
from geomlib.models.mist.encoder import Encoder, preset
from geomlib.models.mist.net import MIST, POOLS, check_pool, token_spec
from geomlib.models.property import PropertyNet
from geomlib.nn.lora import adapt, merge
from geomlib.nn.mixture import mix

__all__ = ["MISTProperty"]


class MISTProperty(PropertyNet):
    """Properties from the pooled hidden states of a pretrained encoder.

        target = head(Σ_i x_i · pool(encoder(tokens of molecule i)))

    with mole fractions x. The encoder's parameters have the names that they have in `MIST`, so a file of the
    pretraining is where to start from. One molecule alone is its own mixture; the result does not depend on the order
    of the components.

    Args:
        targets: names, or rows of name, unit, kind and normalizer; see `geomlib.nn.targets.Target`.
        vocabulary: number of token ids.
        layers: N.
        width: H.
        heads: A, a divisor of H.
        feedforward: F.
        positions: rows of the position table, P.
        encoder_dropout: probability in the encoder.
        attention_dropout: probability on attention weights; `encoder_dropout` if not given.
        position_offset: row of a molecule's first token.
        compat_pad_token_id: for published checkpoints, see `Encoder`.
        epsilon: of LayerNorms.
        form: what is written before it is cut into tokens: `kekule`, `canonical`, `as-is` or `selfies`.
        template: put `[CLS]` before and `[SEP]` behind a molecule.
        truncate: cut molecules that have more tokens than there are positions, instead of refusing them.
        pool: hidden state that stands for a molecule, of its `first` token or the `mean`.
        dropout: in the head.
        head_layers: hidden widths of the head.
        head: `residual` (as published: hidden layers of the width of the encoder with skips), or `plain`.
        lora: low-rank adaptation: the encoder stays as it is but for factors beside some of its maps. `rank` (8),
            `alpha` (16), `dropout` (0.1) and `parts` (`query` and `value`); `{}` takes these. A model file holds the
            sum, an ordinary encoder.

    Inputs (batch fields): token_id [tokens], token_component [tokens], component_graph [components]; mole_fraction
        [components] of mixtures
    Returns: target [graphs, targets] in natural units or as probabilities, target_raw [graphs, targets]

    Raises:
        ConfigError: an argument out of its range.

    Source: MIST, arXiv 2510.18900; the mean over tokens leaves no padding to be averaged.
    """

    family = "mist-property"
    family_version = 1
    inputs: tuple[str, ...] = ("smiles", "character_component", "component_graph")
    outputs: tuple[str, ...] = ("target", "target_raw")

    def __init__(
        self,
        targets: list[str | dict[str, Any]],
        *,
        vocabulary: int = 165,
        layers: int = 4,
        width: int = 128,
        heads: int = 4,
        feedforward: int = 512,
        positions: int = 256,
        encoder_dropout: float = 0.1,
        attention_dropout: float | None = None,
        position_offset: int = 0,
        compat_pad_token_id: int | None = None,
        epsilon: float = 1e-12,
        form: str = "kekule",
        template: bool = False,
        truncate: bool = False,
        pool: str = "mean",
        dropout: float = 0.1,
        head_layers: list[int] | None = None,
        head: str = "residual",
        lora: dict[str, Any] | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config = {name: copy.deepcopy(value) for name, value in arguments.items()}
        self.pool = check_pool(pool)
        self.encoder = Encoder(
            vocabulary,
            layers,
            width,
            heads,
            feedforward,
            positions,
            dropout=encoder_dropout,
            attention_dropout=attention_dropout,
            position_offset=position_offset,
            compat_pad_token_id=compat_pad_token_id,
            epsilon=epsilon,
        )
        self.spec = token_spec(form, template, self.encoder.room, truncate)
        if lora is not None:
            if unknown := sorted(set(lora) - {"rank", "alpha", "dropout", "parts"}):
                raise ConfigError(f"lora has no {', '.join(unknown)}; it has rank, alpha, dropout and parts")
            adapt(self.encoder, **{"parts": ("query", "value"), **lora})
        self.set_head(width, targets, head_layers=head_layers, dropout=dropout, head=head)

    @classmethod
    def from_preset(cls, name: str, targets: list[str | dict[str, Any]], **overrides: Any) -> Self:
        """A net whose encoder has a named size: tiny, small, 28M or 1.8B.

        Raises:
            ConfigError: an unknown preset.
        """
        return cls(targets, **{**preset(name), **overrides})

    @classmethod
    def from_mist(cls, net: MIST, targets: list[str | dict[str, Any]], **overrides: Any) -> Self:
        """A net with the encoder of a pretrained one, weights included, and a fresh head.

        Args:
            net: the pretrained one.
            targets: what to predict.
            **overrides: arguments of this class.
        """
        dropped = ("dropout", "descriptors", "recompute")
        taken = {name: value for name, value in net.config.items() if name not in dropped}
        made = cls(targets, **{**taken, "encoder_dropout": net.config["dropout"], **overrides})
        made.encoder.load_state_dict(net.encoder.state_dict())
        return made

    def embed(self, batch: GraphData) -> Float[Tensor, "graphs width"]:
        """Pooled hidden states, weighed by the mole fractions."""
        components = batch.count("component")
        hidden = self.encoder(batch.token_id, batch.token_component, components)
        return mix(POOLS[self.pool](hidden, batch.token_component, components), batch)

    def for_file(self) -> Net:
        """With low-rank factors added to the maps that they stand beside."""
        if self.config["lora"] is None:
            return self
        made = type(self)(**{**self.config, "lora": None}).to(next(self.parameters()))
        merged = copy.deepcopy(self.encoder)
        merge(merged)
        state = {f"encoder.{name}": value for name, value in merged.state_dict().items()}
        made.load_state_dict({**self.state_dict(), **state}, strict=False)
        return made.train(self.training)

    def thaw_stages(self) -> list[list[str]]:
        """The head, the embedding, then the blocks from the last to the first."""
        blocks = [f"encoder.blocks.{layer}" for layer in reversed(range(len(self.encoder.blocks)))]
        return [["head"], ["encoder.embedding"], ["encoder.norm", blocks[0]], *([name] for name in blocks[1:])]
