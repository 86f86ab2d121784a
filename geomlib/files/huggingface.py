"""Folders in the layout of Hugging Face: written so that stock `transformers` loads them, and read."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from geomlib.data.molecular_tokenizer import MolecularTokenizer
from geomlib.errors import FileFormatError, GeomlibWarning
from geomlib.files.atomic import write_atomically
from geomlib.files.manifest import bare_net
from geomlib.graphs.tokens import SmilesTokens
from geomlib.models.mist.net import MIST

__all__ = ["MODEL_TYPE", "SPECIAL_IDS", "export_huggingface", "import_huggingface", "tensor_names"]

MODEL_TYPE = "roberta-prelayernorm"

SPECIAL_IDS: Mapping[str, int] = {
    f"{name}_token_id": getattr(MolecularTokenizer, f"{name}_token_id")
    for name in ("bos", "eos", "sep", "pad", "cls", "mask")
}
"""Ids of the special tokens, as a config.json names them."""

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
_TABLES = {"encoder.embedding.token", "encoder.embedding.position", "encoder.embedding.segment"}
_POSITIONS = f"{_ROOT}embeddings.position_embeddings.weight"
_TOKENS = f"{_ROOT}embeddings.word_embeddings.weight"

_SIZES = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feedforward": "intermediate_size",
    "positions": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "epsilon": "layer_norm_eps",
}
"""Argument of `MIST` → key of a config.json."""

_FIXED: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}
"""What an encoder of ours can't be other than."""

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def tensor_names(layers: int) -> Mapping[str, str]:
    """Name of each tensor of `MIST` → its name in a RoBERTa-PreLayerNorm checkpoint.

    The decoder of the masked-token head is the table of tokens and is not stored. The descriptor head has no name.
    """
    parts = {f"encoder.{own}": _ROOT + theirs for own, theirs in _ENCODER.items()} | _HEAD
    for layer in range(layers):
        for own, theirs in _BLOCK.items():
            parts[f"encoder.blocks.{layer}.{own}"] = f"{_ROOT}encoder.layer.{layer}.{theirs}"
    names = {}
    for own, theirs in parts.items():
        for kind in ("weight",) if own in _TABLES else ("weight", "bias"):
            names[f"{own}.{kind}"] = f"{theirs}.{kind}"
    return names | {"head.bias": "lm_head.bias"}


def export_huggingface(net: nn.Module, folder: str | Path) -> Path:
    """Write `config.json`, `model.safetensors` and the tokenizer's files, which stock `transformers` loads.

    RoBERTa counts positions from the padding id + 1. So an encoder that counts from 0 gets that many rows of zeros
    before its table, which nothing ever reads. An encoder with `compat_pad_token_id` is written with that padding id.

    Args:
        net: a `MIST`. What its descriptor head has learned has no place there and is left out.
        folder: made if it is not there.

    Returns: the folder.

    Raises:
        FileFormatError: a net that is no MIST, or a folder that already holds a model.
    """
    inner, _ = bare_net(net)
    if not isinstance(inner, MIST):
        raise FileFormatError(
            f"the Hugging Face layout holds molecular encoders (family mist), not a net of the family {inner.family}"
        )
    target = Path(folder)
    if (target / _WEIGHTS).exists() or target.is_file():
        raise FileFormatError(f"{target}: already holds a model; name another folder")
    config, tokens = inner.config, inner.spec.find(SmilesTokens)
    assert tokens is not None
    tensors = {theirs: inner.state_dict()[own].cpu() for own, theirs in tensor_names(config["layers"]).items()}
    pad = SPECIAL_IDS["pad_token_id"] if config["compat_pad_token_id"] is None else config["compat_pad_token_id"]
    if config["compat_pad_token_id"] is None:
        used = tensors[_POSITIONS][config["position_offset"] :]
        tensors[_POSITIONS] = torch.cat([used.new_zeros(pad + 1, used.shape[1]), used])
    dropout = config["dropout"]
    described = {
        "architectures": ["RobertaPreLayerNormForMaskedLM"],
        "model_type": MODEL_TYPE,
        **{theirs: config[own] for own, theirs in _SIZES.items()},
        "attention_probs_dropout_prob": dropout if config["attention_dropout"] is None else config["attention_dropout"],
        "max_position_embeddings": len(tensors[_POSITIONS]),
        **_FIXED,
        **SPECIAL_IDS,
        "pad_token_id": pad,
        "dtype": str(tensors[_TOKENS].dtype).removeprefix("torch."),
        "tokenizer_class": type(tokens.tokenizer).__name__,
        "geomlib": {key: config[key] for key in ("form", "template", "truncate", "pool")},
    }
    target.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(target / _WEIGHTS, safetensors.torch.save(contiguous, {"format": "pt"}))
    text = json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(target / "config.json", text.encode())
    tokens.tokenizer.save_pretrained(target)
    return target


def import_huggingface(folder: str | Path, compat_pad_token_id: int | None = None) -> MIST:
    """Make a `MIST` of a folder with a RoBERTa-PreLayerNorm encoder, with or without its masked-token head.

    Rows of the position table up to the padding id are never read and are dropped; positions then count from 0.
    Where the padding id is that of a glyph, as in the published checkpoints (1, `#`), it becomes
    `compat_pad_token_id`, so that hidden states are those the checkpoint was trained with. Nothing in the folder is
    executed.

    Args:
        folder: holds `config.json` and `model.safetensors` (or its shards).
        compat_pad_token_id: padding id that the encoder was trained with, where its config.json says another one.

    Raises:
        FileFormatError: another architecture, pickled weights, or tensors that don't fit the config.
    """
    source = Path(folder)
    config = _read_json(source / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise FileFormatError(
            f"{source / 'config.json'}: model_type is '{config.get('model_type')}'; only '{MODEL_TYPE}' can be read"
        )
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise FileFormatError(f"{source / 'config.json'}: {key} is {config[key]!r}; an encoder here has {wanted!r}")
    tensors = _prefixed(_read_weights(source))
    pad = config.get("pad_token_id", 1) if compat_pad_token_id is None else compat_pad_token_id
    arguments: dict[str, Any] = {own: config[theirs] for own, theirs in _SIZES.items() if theirs in config}
    if 0 <= pad < SPECIAL_IDS["bos_token_id"]:
        arguments["compat_pad_token_id"] = pad
    elif _POSITIONS in tensors:
        tensors[_POSITIONS] = tensors[_POSITIONS][pad + 1 :]
        arguments["positions"] = len(tensors[_POSITIONS])
    kept = config.get("geomlib", {})
    net = MIST(**arguments, **{key: kept[key] for key in ("form", "template", "truncate", "pool") if key in kept})
    return _fill(net, tensors, source)


def _fill(net: MIST, tensors: dict[str, Tensor], source: Path) -> MIST:
    names = tensor_names(net.config["layers"])
    decoder = tensors.pop("lm_head.decoder.weight", None)
    tensors.pop("lm_head.decoder.bias", None)  # the same tensor as lm_head.bias
    if decoder is not None and not torch.equal(decoder, tensors.get(_TOKENS, decoder)):
        raise FileFormatError(f"{source}: the decoder of the masked-token head is not tied to the table of tokens")
    has_head = any(name.startswith("lm_head.") for name in tensors)
    wanted = {own: theirs for own, theirs in names.items() if has_head or not own.startswith("head.")}
    ignored = {name for name in tensors if name.endswith((".position_ids", ".token_type_ids")) or ".pooler." in name}
    if strange := sorted(set(tensors) - set(wanted.values()) - ignored):
        raise FileFormatError(f"{source}: tensor '{strange[0]}' has no place in an encoder with a masked-token head")
    state = net.state_dict()
    for own, theirs in wanted.items():
        if theirs not in tensors:
            raise FileFormatError(f"{source}: tensor '{theirs}' is missing")
        if tensors[theirs].shape != state[own].shape:
            raise FileFormatError(
                f"{source}: tensor '{theirs}' has the shape {list(tensors[theirs].shape)}, "
                f"config.json asks for {list(state[own].shape)}"
            )
    if not has_head:
        warnings.warn(f"{source}: has no masked-token head; the net gets a fresh one", GeomlibWarning, stacklevel=3)
    net.to(tensors[_TOKENS].dtype)
    net.load_state_dict({own: tensors[theirs] for own, theirs in wanted.items()}, strict=has_head)
    return net.eval().requires_grad_(False)


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a checkpoint with head, for one of the encoder alone."""
    if any(name.startswith(_ROOT) for name in tensors):
        return tensors
    return {_ROOT + name: tensor for name, tensor in tensors.items()}


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / _WEIGHTS).is_file():
        files = [folder / _WEIGHTS]
    elif (folder / _INDEX).is_file():
        shards = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        files = [folder / Path(name).name for name in shards]
    else:
        pickled = next((name for name in _PICKLED if (folder / name).exists()), None)
        if pickled is not None:
            raise FileFormatError(
                f"{folder}: holds its weights as {pickled}, a format that is not read here (pickled files run code): "
                "load the folder with transformers where you trust it and save_pretrained() it as safetensors"
            )
        raise FileFormatError(f"{folder}: holds no {_WEIGHTS}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                tensors |= {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FileFormatError(f"{file}: can't be read: {error}") from None
    return tensors


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileFormatError(
            f"{file.parent}: is no folder in the Hugging Face layout (it has no {file.name})"
        ) from None
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{file}: can't be read: {error}") from None
    if not isinstance(content, dict):
        raise FileFormatError(f"{file}: expected an object with named values")
    return content
