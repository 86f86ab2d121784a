"""Import of DPA3 models of deepmd-kit: which file holds what, and the net that comes of it.

Read are serialized models (`.dp`, `.yaml`) and training checkpoints (`.pt`, single and multi-task). Nothing in a
file is executed; every array must be used exactly once and every option understood.
"""

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomlib.errors import ConfigError, FileFormatError, GeomlibError, GeomlibWarning, nearest
from geomlib.files.checkpoint import archive_members, read_checkpoint
from geomlib.files.construct import parse_dtype
from geomlib.files.deepmd_options import net_options
from geomlib.files.deepmd_tree import array_names, read_dp, read_yaml
from geomlib.files.deepmd_weights import net_state
from geomlib.files.header import existing_file
from geomlib.models.dpa3 import DPA3

__all__ = ["DeepmdModel", "build_deepmd", "import_deepmd", "read_deepmd", "read_deepmd_heads"]

_ADVICE = "convert it with deepmd-kit ('dp convert-backend MODEL model.dp') and import the .dp file"
_FOREIGN = {
    ".pb": "a frozen TensorFlow graph",
    ".savedmodel": "a frozen JAX model",
    ".hlo": "a frozen JAX model",
    ".json": "a frozen Paddle model",
    ".pdmodel": "a frozen Paddle model",
    ".pd": "a Paddle checkpoint",
    ".so": "a compiled library",
}


@dataclass(frozen=True)
class DeepmdModel:
    """A model of deepmd-kit as read, independent of the kind of file.

    Args:
        where: file, and head if it has several, for messages.
        section: the model section, with the sub-sections `descriptor` (`repflow` inside) and `fitting_net`.
        arrays: by the names of a training checkpoint below `atomic_model.`
        source: for the manifest: software, version, file, sha256, head.
    """

    where: str
    section: dict[str, Any]
    arrays: dict[str, Tensor]
    source: dict[str, Any] = field(default_factory=dict)


def import_deepmd(
    path: str | os.PathLike[str], head: str | None = None, dtype: str | torch.dtype | None = None
) -> DPA3:
    """The net of a DPA3 model of deepmd-kit.

    Args:
        path: `.dp`, `.yaml` or a training checkpoint `.pt`.
        head: which head of a multi-task checkpoint.
        dtype: precision of the net; that of the file if not given.

    Returns: the bare energy net in evaluation mode; `geomlib.save` writes it as a model file that gives forces.

    Raises:
        FileFormatError: a file of another kind, damaged, or with options or arrays that are not understood.
        DataError: statistics that no geomlib net has.
        ConfigError: the head is missing or unknown.
        UnknownElement: a type that is no chemical element.
    """
    return build_deepmd(read_deepmd(path, head), dtype)


def read_deepmd(path: str | os.PathLike[str], head: str | None = None) -> DeepmdModel:
    """Options and arrays of a model of deepmd-kit.

    Raises:
        FileFormatError: a file of another kind, or damaged.
        ConfigError: the head is missing or unknown.
    """
    if Path(path).suffix in _FOREIGN:
        raise FileFormatError(f"{path}: is {_FOREIGN[Path(path).suffix]}, which can't be imported; {_ADVICE}")
    file = existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        model = _from_tree(file, read_dp(file), head)
    elif start[:2] == b"PK" or start[:1] == b"\x80":
        _refuse_frozen(file)
        model = _from_checkpoint(file, read_checkpoint(file), head)
    elif file.suffix in (".yaml", ".yml"):
        model = _from_tree(file, read_yaml(file), head)
    else:
        raise FileFormatError(f"{file}: is no model of deepmd-kit that can be read (.dp, .yaml, training .pt)")
    with file.open("rb") as stream:
        model.source["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return model


def read_deepmd_heads(path: str | os.PathLike[str]) -> dict[str, DeepmdModel]:
    """All heads of a multi-task checkpoint; nothing for any other file.

    Raises:
        FileFormatError: a damaged file, or one that is not opened.
    """
    file = existing_file(path)
    with file.open("rb") as stream:
        start = stream.read(2)
    if start[:2] != b"PK" and start[:1] != b"\x80":
        return {}
    _refuse_frozen(file)
    content = read_checkpoint(file)
    heads = _parameters(file, content).get("model_dict", {})
    models = {head: _from_checkpoint(file, content, head) for head in heads}
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    for model in models.values():
        model.source["sha256"] = digest
    return models


def build_deepmd(model: DeepmdModel, dtype: str | torch.dtype | None = None) -> DPA3:
    """The net of a model that was read; see `import_deepmd`."""
    options = net_options(model.section, model.where)
    if dtype is not None:
        options["precision"] = str(parse_dtype(dtype)).removeprefix("torch.")
        options["fitting_precision"] = None
    try:
        with torch.random.fork_rng(devices=[]):
            net = DPA3(**options)
    except GeomlibError as error:
        raise type(error)(f"{model.where}: {error}") from None
    net.load_state_dict(net_state(net, model.arrays, model.where), strict=True)
    return net.eval()


def _from_tree(file: Path, tree: Mapping[str, Any], head: str | None) -> DeepmdModel:
    if head is not None:
        raise ConfigError(f"{file}: holds one model without heads; leave --head out")
    section = dict(tree["model"])
    for key in ("descriptor", "fitting"):
        if not isinstance(section.get(key), dict):
            raise FileFormatError(f"{file}: its model has no '{key}': type '{section.get('type')}' can't be imported")
    arrays = array_names(section)
    descriptor = dict(section["descriptor"])
    descriptor["repflow"] = descriptor.pop("repflow_args", {})
    section["descriptor"], section["fitting_net"] = descriptor, section.pop("fitting")
    return DeepmdModel(str(file), section, arrays, _source(file, tree.get("version")))


def _from_checkpoint(file: Path, content: Mapping[str, Any], head: str | None) -> DeepmdModel:
    state = content.get("model", content)
    parameters = _parameters(file, content)
    if "ema" in content:
        warnings.warn(
            f"{file} also holds averaged (EMA) weights; the last ones are imported. deepmd-kit writes the averaged "
            "ones to a checkpoint of its own, '..._ema.pt'",
            GeomlibWarning,
            stacklevel=3,
        )
    source = _source(file, None)
    where, branch = str(file), "Default"
    if "model_dict" in parameters:
        branch = _choose_head(file, parameters["model_dict"], head)
        parameters = parameters["model_dict"][branch]
        where, source["head"] = f"{file}, head {branch}", branch
    elif head is not None:
        raise ConfigError(f"{file}: holds one model without heads; leave --head out")
    prefix = f"model.{branch}."
    arrays = {
        name.removeprefix(prefix).removeprefix("atomic_model."): value
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
    if not arrays:
        raise FileFormatError(f"{where}: no array is called '{prefix}…'")
    return DeepmdModel(where, dict(parameters), _without_repeats(arrays, where), source)


def _parameters(file: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model section of a training checkpoint, of all heads if it has several."""
    state = content.get("model", content)
    extra = state.get("_extra_state") if isinstance(state, Mapping) else None
    parameters = extra.get("model_params") if isinstance(extra, Mapping) else None
    if not isinstance(parameters, Mapping):
        hint = "; geomlib opens its own .ckpt directly" if "geomlib" in content else ""
        raise FileFormatError(f"{file}: is no training checkpoint of deepmd-kit: it has no 'model_params'{hint}")
    return parameters


def _choose_head(file: Path, heads: Mapping[str, Any], head: str | None) -> str:
    known = f"it has {', '.join(sorted(heads))}"
    if head is None:
        raise ConfigError(f"{file}: holds several heads, choose one with --head; {known}")
    if head not in heads:
        raise ConfigError(f"{file}: has no head '{head}'{nearest(head, heads)}; {known}")
    return head


def _without_repeats(arrays: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Drop the second copy of the fitting net that older files have, after comparing it."""
    kept = {}
    for name, value in arrays.items():
        plain = name.replace(".filter_layers._networks.", ".filter_layers.networks.")
        if plain in arrays and not torch.equal(arrays[plain], value):
            raise FileFormatError(f"{where}: '{name}' differs from its copy '{plain}'")
        kept[plain] = value
    return kept


def _refuse_frozen(file: Path) -> None:
    names = archive_members(file)
    if any("aotinductor" in name or name.endswith((".so", ".cubin")) for name in names):
        raise FileFormatError(f"{file}: is a compiled model (AOTInductor), which can't be imported; {_ADVICE}")
    if any(name == "constants.pkl" or name.startswith("code/") for name in names):
        raise FileFormatError(f"{file}: is a frozen TorchScript model, which holds code and is not opened; {_ADVICE}")


def _source(file: Path, version: Any) -> dict[str, Any]:
    source: dict[str, Any] = {"software": "deepmd-kit", "file": file.name}
    if version is not None:
        source["version"] = str(version)
    return source
