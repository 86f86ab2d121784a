"""Export of DPA3 to deepmd-kit: the serialized model (`.dp`, `.yaml`) that it loads, converts and hands to LAMMPS."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geomlib.errors import ConfigError, FileFormatError
from geomlib.files.atomic import write_atomically
from geomlib.files.deepmd_options import model_section
from geomlib.files.deepmd_tree import dp_bytes, yaml_bytes
from geomlib.files.deepmd_weights import net_arrays
from geomlib.files.manifest import bare_net
from geomlib.models.dpa3 import DPA3
from geomlib.models.dpa3.transfer import without_dataset_biases

__all__ = ["deepmd_tree", "export_deepmd"]

_WRITERS = {".dp": dp_bytes, ".yaml": yaml_bytes, ".yml": yaml_bytes}
_VERSION = "3.2.0"
"""Release of deepmd-kit whose layout is written."""

_NOT_IN_LAYERS = {"nlayers", "fix_stat_std", "edge_init_use_dist", "use_exp_switch"}


def export_deepmd(net: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a DPA3 net as a model of deepmd-kit, in one step; `import_deepmd` gives the same net back bit for bit.

    Biases of a data set (`dataset_biases`), which deepmd-kit does not have, become part of the plain ones.

    Args:
        net: a DPA3, bare or wrapped in `Derivatives`.
        path: ends in `.dp` (HDF5), or `.yaml` (the same as text, ten times as large).

    Returns: the path.

    Raises:
        FileFormatError: a path with another ending.
        ConfigError: a net that deepmd-kit has no word for.
    """
    file = Path(path)
    if file.suffix not in _WRITERS:
        raise FileFormatError(f"{file}: a model of deepmd-kit is written as {' or '.join(_WRITERS)}")
    write_atomically(file, _WRITERS[file.suffix](deepmd_tree(net)))
    return file


def deepmd_tree(net: nn.Module) -> dict[str, Any]:
    """The serialized model of deepmd-kit 3.2: plain values, with tensors below keys `@variables`.

    Raises:
        ConfigError: a net that deepmd-kit has no word for.
    """
    inner, _ = bare_net(net)
    if inner.heads:
        raise ConfigError(f"a net with the heads {', '.join(inner.heads)} can't be exported to deepmd-kit; choose one")
    if type(inner) is not DPA3:
        raise ConfigError(f"{type(inner).__name__} can't be exported to deepmd-kit, which knows DPA3 only")
    inner = without_dataset_biases(inner)
    section = model_section(inner.config, _precision(inner, "type_embedding"), _precision(inner, "fitting"))
    if not inner.config["fitting_layers"]:
        raise ConfigError("a net without hidden fitting layers can't be exported: deepmd-kit asks for one at least")
    return {
        "software": "deepmd-kit",
        "version": _VERSION,
        "time": str(datetime.now(UTC)),
        "backend": "PyTorch",
        "model": _model(section, net_arrays(inner)),
        "model_def_script": section,
        "@variables": {},
    }


def _precision(net: DPA3, part: str) -> str:
    """Precision of the weights as they are, which is not that of the config if the net was loaded in another."""
    (dtype,) = {parameter.dtype for parameter in net.get_submodule(part).parameters()}
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"{dtype} weights can't be exported to deepmd-kit; load the net with dtype='float32'")
    return str(dtype).removeprefix("torch.")


def _model(section: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    model = {
        "type_map": section["type_map"],
        "atom_exclude_types": section["atom_exclude_types"],
        "pair_exclude_types": [],
        "rcond": None,
        "preset_out_bias": None,
        "@variables": {name: arrays.pop(name) for name in ("out_bias", "out_std")},
        "@class": "Model",
        "@version": 2,
        "type": "standard",
        "descriptor": _descriptor(section, arrays),
        "fitting": _fitting(section, arrays),
    }
    assert not arrays, f"not written: {sorted(arrays)}"
    return model


def _descriptor(section: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    options = dict(section["descriptor"])
    types, precision = section["type_map"], options["precision"]
    repflow = {**options.pop("repflow"), "optim_update": True}
    prefix = "descriptor.repflows"
    tree = {
        "@class": "Descriptor",
        "@version": 2,
        "ntypes": len(types),
        "repflow_args": repflow,
        **options,
        "trainable": True,
        "use_loc_mapping": True,
        "type_map": types,
        "type_embedding": {
            **_embedding("descriptor.type_embedding", precision, arrays),
            "ntypes": len(types),
            "use_econf_tebd": options["use_econf_tebd"],
            "use_tebd_bias": options["use_tebd_bias"],
            "type_map": types,
        },
    }
    if options["add_chg_spin_ebd"]:
        for name in ("chg_embedding", "spin_embedding"):
            tree[name] = _embedding(f"descriptor.{name}", precision, arrays)
        tree["mix_cs_mlp"] = _layer("descriptor.mix_cs_mlp", precision, arrays)
    shared = {key: value for key, value in repflow.items() if key not in _NOT_IN_LAYERS} | {
        "e_sel": [repflow["e_sel"]],
        "ntypes": len(types),
        "activation_function": options["activation_function"],
        "precision": precision,
    }
    tree["repflow_variable"] = {
        "edge_embd": _layer(f"{prefix}.edge_embd", precision, arrays),
        "angle_embd": _layer(f"{prefix}.angle_embd", precision, arrays),
        "repflow_layers": [
            {"@class": "RepFlowLayer", "@version": 2, **shared, **_block(f"{prefix}.layers.{k}.", precision, arrays)}
            for k in range(repflow["nlayers"])
        ],
        # what deepmd-kit itself writes here, whatever the switch is; it reads the options above
        "env_mat": {
            "rcut": repflow["e_rcut"],
            "rcut_smth": repflow["e_rcut_smth"],
            "protection": 0.0,
            "use_exp_switch": False,
        },
        "@variables": {"davg": arrays.pop(f"{prefix}.mean"), "dstd": arrays.pop(f"{prefix}.stddev")},
    }
    return tree


def _block(prefix: str, precision: str, arrays: dict[str, Tensor]) -> dict[str, Any]:
    names = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
    linears = dict.fromkeys(name.split(".")[0] for name in names if name.endswith((".matrix", ".bias")))
    vectors: dict[str, list[Tensor]] = {}
    for name in names:
        if name.split(".")[0] not in linears:
            vectors.setdefault(name.split(".")[0], []).append(arrays.pop(prefix + name))
    tree: dict[str, Any] = {name: _layer(prefix + name, precision, arrays) for name in linears}
    if vectors:
        tree["@variables"] = {"a_residual": [], **vectors}
    return tree


def _embedding(name: str, precision: str, arrays: dict[str, Tensor]) -> dict[str, Any]:
    layer = _layer(f"{name}.embedding.embedding_net.layers.0", precision, arrays, activation="Linear", resnet=True)
    rows, width = layer["@variables"]["w"].shape
    shared = {"neuron": [width], "resnet_dt": False, "precision": precision, "activation_function": "Linear"}
    return {
        "@class": "TypeEmbedNet",
        "@version": 2,
        "ntypes": rows,
        **shared,
        "trainable": True,
        "padding": True,
        "use_econf_tebd": False,
        "use_tebd_bias": False,
        "type_map": None,
        "embedding": {
            "@class": "EmbeddingNetwork",
            "@version": 2,
            "in_dim": rows,
            **shared,
            "bias": layer["bias"],
            "layers": [layer],
        },
    }


def _layer(
    name: str, precision: str, arrays: dict[str, Tensor], activation: str = "none", *, resnet: bool = False
) -> dict[str, Any]:
    bias, timestep = arrays.pop(f"{name}.bias", None), arrays.pop(f"{name}.idt", None)
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": bias is not None,
        "use_timestep": timestep is not None,
        "activation_function": activation,
        "resnet": resnet,
        "precision": precision,
        "trainable": True,
        "@variables": {"w": arrays.pop(f"{name}.matrix"), "b": bias, "idt": timestep},
    }


def _fitting(section: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    options, types = section["fitting_net"], section["type_map"]
    precision, activation, neuron = options["precision"], options["activation_function"], options["neuron"]
    prefix = "fitting_net.filter_layers.networks.0.layers."
    layers = [_layer(f"{prefix}{k}", precision, arrays, activation=activation, resnet=True) for k in range(len(neuron))]
    layers.append(_layer(f"{prefix}{len(neuron)}", precision, arrays))
    rows = layers[0]["@variables"]["w"].shape[0]
    extra = options["numb_fparam"] + options["numb_aparam"] + options["dim_case_embd"]
    names = ("bias_atom_e", "case_embd", "fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")
    return {
        "@class": "Fitting",
        "@version": 4,
        **options,
        "var_name": "energy",
        "ntypes": len(types),
        "dim_descrpt": rows - extra,
        "default_fparam": None,
        "mixed_types": True,
        "nets": {
            "@class": "NetworkCollection",
            "@version": 1,
            "ndim": 0,
            "ntypes": len(types),
            "network_type": "fitting_network",
            "networks": [
                {
                    "@class": "FittingNetwork",
                    "@version": 1,
                    "in_dim": rows,
                    "out_dim": 1,
                    "neuron": neuron,
                    "activation_function": activation,
                    "resnet_dt": options["resnet_dt"],
                    "precision": precision,
                    "bias_out": True,
                    "layers": layers,
                }
            ],
        },
        "rcond": None,
        "exclude_types": section["atom_exclude_types"],
        "@variables": {name: arrays.pop(f"fitting_net.{name}", None) for name in names},
        "type_map": types,
        "tot_ener_zero": False,
        "trainable": [True] * (len(neuron) + 1),
        "layer_name": None,
        "use_aparam_as_mask": False,
        "spin": None,
        "dim_out": 1,
        "atom_ener": None,
    }
