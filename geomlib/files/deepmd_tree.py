"""Serialized deepmd-kit models, `.dp` (HDF5) and `.yaml`, as plain values and arrays: read and written.

Neither reader executes anything, follows links out of the file or allocates more than the file can hold.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from torch import Tensor

from geomlib.errors import FileFormatError

__all__ = ["array_names", "dp_bytes", "read_dp", "read_yaml", "yaml_bytes"]

_MAX_BYTES = 2**32
_VARIABLE = re.compile(r"/variable_\d+")
_PER_LAYER_VECTORS = ("n_residual", "e_residual", "a_residual")

_RENAMED = {
    "repflow_variable": "repflows",
    "repflow_layers": "layers",
    "w": "matrix",
    "b": "bias",
    "davg": "mean",
    "dstd": "stddev",
    "fitting": "fitting_net",
    "nets": "filter_layers",
}
"""Word of a tree → word of a training checkpoint, whose array names are used for both."""

_EMBEDDINGS = ("type_embedding", "chg_embedding", "spin_embedding")


def read_dp(file: Path) -> dict[str, Any]:
    """Tree of a `.dp` file with its arrays in place.

    Raises:
        FileFormatError: no such tree, a damaged file, an array that is missing, foreign or used by nobody.
    """
    try:
        with h5py.File(file, "r") as opened:
            text = opened.attrs.get("json")
            if not isinstance(text, str | bytes):
                raise FileFormatError(f"{file}: is HDF5 without the attribute 'json', so no model of deepmd-kit")
            tree = json.loads(text)
            arrays = _read_datasets(file, opened)
    except (OSError, RuntimeError, KeyError) as error:
        raise FileFormatError(f"{file}: is no HDF5 file or is truncated or damaged: {error}") from None
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file}: its attribute 'json' is no JSON: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise FileFormatError(f"{file}: its attribute 'json' holds no 'model'")
    unused = set(arrays)
    tree["model"] = _with_datasets(tree["model"], arrays, unused, file)
    if unused:
        raise FileFormatError(f"{file}: holds arrays that its tree does not name: {sorted(unused)[:5]}")
    return tree


def read_yaml(file: Path) -> dict[str, Any]:
    """Tree of a `.yaml` file with its arrays in place.

    Raises:
        FileFormatError: no such tree, or values that make no array.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # plain values only; the C one is 20 times as fast
    try:
        loader = safe(text)
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"{file}: is no readable YAML: {reason}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise FileFormatError(f"{file}: holds no 'model', so no model of deepmd-kit")
    try:
        if _count(tree["model"], len(text)) > len(text):  # aliases can make few lines into any number of values
            raise FileFormatError(f"{file}: holds more values than letters")
        tree["model"] = _with_listed_arrays(tree["model"], file)
    except RecursionError:
        raise FileFormatError(f"{file}: its tree refers to itself") from None
    return tree


def dp_bytes(tree: dict[str, Any]) -> bytes:
    """Content of a `.dp` file with a tree whose arrays are tensors."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:

        def store(value: Tensor) -> str:
            name = f"/variable_{len(file):04d}"
            file.create_dataset(name, data=value.detach().cpu().numpy())
            return name

        file.attrs["json"] = json.dumps(_with_stored(tree, store), separators=(",", ":"))
    return content.getvalue()


def yaml_bytes(tree: dict[str, Any]) -> bytes:
    """Content of a `.yaml` file with a tree whose arrays are tensors."""

    def store(value: Tensor) -> dict[str, Any]:
        dtype = str(value.dtype).removeprefix("torch.")
        return {"@class": "np.ndarray", "@is_variable": True, "@version": 1, "dtype": dtype, "value": value.tolist()}

    safe = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(_with_stored(tree, store), Dumper=safe, default_flow_style=None)
    return text.encode()


def _with_stored(value: Any, store: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _with_stored(item, store) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_stored(item, store) for item in value]
    return store(value) if isinstance(value, Tensor) else value


def array_names(tree: Any) -> dict[str, Tensor]:
    """Arrays of a model tree under the names that a training checkpoint gives them.

    E.g. `descriptor/repflow_variable/repflow_layers/0/node_self_mlp/@variables/w` is
    `descriptor.repflows.layers.0.node_self_mlp.matrix`.
    """
    return {_checkpoint_name(path): value for path, value in _walk(tree, ())}


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "env_mat":
                yield from _walk(item, (*path, str(key)))
    elif isinstance(value, list):
        # the first descriptor version keeps the residual vectors as plain lists in the layer
        plain = path and path[-1] in _PER_LAYER_VECTORS and all(_is_vector(item) for item in value)
        for position, item in enumerate(value):
            yield from _walk(torch.tensor(item, dtype=torch.float64) if plain else item, (*path, str(position)))


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, int | float) for item in value)


def _checkpoint_name(path: tuple[str, ...]) -> str:
    words = [_RENAMED.get(word, word) for word in path if word != "@variables"]
    if len(words) > 2 and words[1] in _EMBEDDINGS and words[2] == "embedding":
        words.insert(3, "embedding_net")
    return ".".join(words)


def _read_datasets(file: Path, opened: h5py.File) -> dict[str, Tensor]:
    datasets = {}
    for name in opened:
        link = opened.get(name, getlink=True)
        dataset = opened[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
            raise FileFormatError(f"{file}: '{name}' is no plain array of this file and is not read")
        if dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize > 8:
            raise FileFormatError(f"{file}: array '{name}' is {dataset.dtype}, expected numbers")
        datasets[f"/{name}"] = dataset
    if sum(math.prod(dataset.shape) * dataset.dtype.itemsize for dataset in datasets.values()) > _MAX_BYTES:
        raise FileFormatError(f"{file}: its arrays would take more than {_MAX_BYTES / 2**30:.0f} GiB")
    return {name: _tensor(dataset[()]) for name, dataset in datasets.items()}


def _tensor(values: Any) -> Tensor:
    array = np.array(values)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _with_datasets(value: Any, arrays: dict[str, Tensor], unused: set[str], file: Path) -> Any:
    if isinstance(value, dict):
        return {key: _with_datasets(item, arrays, unused, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_datasets(item, arrays, unused, file) for item in value]
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        if value not in arrays:
            raise FileFormatError(f"{file}: its tree names the array '{value}', which is missing")
        unused.discard(value)
        return arrays[value]
    return value


def _with_listed_arrays(value: Any, file: Path) -> Any:
    if isinstance(value, dict):
        if value.get("@class") == "np.ndarray":
            return _listed_array(value, file)
        return {key: _with_listed_arrays(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_listed_arrays(item, file) for item in value]
    return value


def _listed_array(entry: dict[str, Any], file: Path) -> Tensor:
    try:
        values = np.array(entry["value"], dtype=np.dtype(entry.get("dtype", "float64")))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{file}: an array can't be read: {error}") from None
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        raise FileFormatError(f"{file}: an array is {values.dtype}, expected numbers")
    return _tensor(values)


def _count(value: Any, limit: int) -> int:
    """Number of values in a tree; stops where it is beyond `limit`."""
    total = 1
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        total += _count(item, limit - total)
        if total > limit:
            break
    return total
