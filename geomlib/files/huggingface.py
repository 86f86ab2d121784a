"""Folders in the layout of Hugging Face: written so that stock `transformers` loads them, and read."""

from collections.abc import Mapping

__all__ = ["tensor_names"]

_ROOT = "roberta_prelayernorm."

_ENCODER = {
    "embedding.token": "embeddings.word_embeddings",
    "embedding.position": "embeddings.position_embeddings",
    "embedding.segment": "embeddings.token_type_embeddings",
    "embedding.norm": "embeddings.LayerNorm",
    "norm": "LayerNorm",
}
_BLOCK = {
    "attention_norm": "attention.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "feedforward_norm": "intermediate.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
}
_HEAD = {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm"}


def tensor_names(layers: int) -> Mapping[str, str]:
    """Name of each tensor of `MIST` → its name in a RoBERTa-PreLayerNorm checkpoint.

    The decoder of the masked-token head is the table of tokens and is not stored. The descriptor head has no name.
    """
    parts = {f"encoder.{own}": _ROOT + theirs for own, theirs in _ENCODER.items()} | _HEAD
    for layer in range(layers):
        for own, theirs in _BLOCK.items():
            parts[f"encoder.blocks.{layer}.{own}"] = f"{_ROOT}encoder.layer.{layer}.{theirs}"
    tables = {"encoder.embedding.token", "encoder.embedding.position", "encoder.embedding.segment"}
    names = {}
    for own, theirs in parts.items():
        for kind in ("weight",) if own in tables else ("weight", "bias"):
            names[f"{own}.{kind}"] = f"{theirs}.{kind}"
    return names | {"head.bias": "lm_head.bias"}
