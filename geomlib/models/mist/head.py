"""The masked-token head: which id a hidden state stands for."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geomlib.models.mist.encoder import initialise

__all__ = ["TokenHead"]


class TokenHead(nn.Module):
    """logits = LN(gelu(W·h + c)) · E_tokenᵀ + b, with the encoder's own table of tokens E_token and a bias of its own.

    Args:
        width: H.
        vocabulary: number of ids.
        epsilon: of the LayerNorm.
    """

    def __init__(self, width: int, vocabulary: int, epsilon: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.apply(initialise)

    def forward(
        self, hidden: Float[Tensor, "tokens width"], table: Float[Tensor, "vocabulary width"]
    ) -> Float[Tensor, "tokens vocabulary"]:
        """Logits over the ids.

        Args:
            hidden: hidden states of the encoder.
            table: embeddings of the ids.
        """
        return F.linear(self.norm(F.gelu(self.dense(hidden))), table, self.bias)
