"""Options of a DPA3 model of deepmd-kit in the words of `DPA3`, and back: one table for both directions."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from geomlib.errors import FileFormatError, GeomlibWarning

__all__ = ["model_section", "net_options"]

_Convert = Callable[[Any], Any] | Mapping[Any, str]
_REQUIRED = object()


def _single(value: Any) -> int:
    return int(value[0] if isinstance(value, list) and len(value) == 1 else value)


def _charge_spin(value: Any) -> list[int] | None:
    return None if value is None else [int(item) for item in value]


def _widths(value: Any) -> list[int]:
    return [int(width) for width in value]


def _activation(name: Any) -> str:
    return str(name).lower().replace("custom_silu", "silut")


_REPFLOW: dict[str, tuple[str, Any, _Convert]] = {
    "n_dim": ("node_dim", 128, int),
    "e_dim": ("edge_dim", 64, int),
    "a_dim": ("angle_dim", 64, int),
    "nlayers": ("layers", 6, int),
    "e_rcut": ("cutoff", _REQUIRED, float),
    "e_rcut_smth": ("cutoff_smooth", _REQUIRED, float),
    "e_sel": ("max_neighbors", _REQUIRED, _single),
    "a_rcut": ("angle_cutoff", _REQUIRED, float),
    "a_rcut_smth": ("angle_cutoff_smooth", _REQUIRED, float),
    "a_sel": ("max_angle_neighbors", _REQUIRED, _single),
    "axis_neuron": ("symmetrization_axes", 4, int),
    "n_multi_edge_message": ("edge_messages", 1, int),
    "a_compress_rate": ("angle_compression", 0, int),
    "a_compress_e_rate": ("angle_edge_compression", 1, int),
    "a_compress_use_split": ("split_compression", False, bool),
    "update_angle": ("update_angles", True, bool),
    "update_style": (
        "update_style",
        "res_residual",
        {"res_residual": "residual", "res_avg": "average", "res_incr": "increment"},
    ),
    "update_residual": ("residual_scale", 0.1, float),
    "update_residual_init": ("residual_init", "const", {"const": "constant", "norm": "normal"}),
    "fix_stat_std": ("environment_scale", 0.3, float),
    "smooth_edge_update": ("smooth_edge_update", False, bool),
    "edge_init_use_dist": ("edge_init", False, {True: "distance", False: "inverse_distance"}),
    "use_exp_switch": ("switch", False, {True: "exponential", False: "quintic"}),
    "use_dynamic_sel": ("selection", False, {True: "dynamic", False: "fixed"}),
    "sel_reduce_factor": ("selection_reduction", 10.0, float),
    "sequential_update": ("update_order", False, {True: "sequential", False: "parallel"}),
}
_DESCRIPTOR: dict[str, tuple[str, Any, _Convert]] = {
    "activation_function": ("activation", "silu", _activation),
    "concat_output_tebd": ("concat_type_embedding", False, bool),
    "use_econf_tebd": ("type_embedding", False, {True: "electron_configuration", False: "table"}),
    "use_tebd_bias": ("type_embedding_bias", False, bool),
    "env_protection": ("environment_protection", 0.0, float),
    "add_chg_spin_ebd": ("charge_spin_embedding", False, bool),
    "default_chg_spin": ("default_charge_spin", None, _charge_spin),
}
_FITTING: dict[str, tuple[str, Any, _Convert]] = {
    "neuron": ("fitting_layers", [128, 128, 128], _widths),
    "resnet_dt": ("fitting_timestep", True, bool),
    "activation_function": ("fitting_activation", "tanh", _activation),
    "numb_fparam": ("frame_parameters", 0, int),
    "numb_aparam": ("atom_parameters", 0, int),
    "dim_case_embd": ("dataset_encoding", 0, int),
}
"""Option → (argument of `DPA3`, default of deepmd-kit, conversion or the words of both)."""

_OLD_SPELLINGS = {"edge_use_dist": "edge_init_use_dist", "use_env_envelope": "use_exp_switch"}
_WITHOUT_MEANING = {
    "repflow": {"optim_update", "skip_stat"},
    "descriptor": {
        *("@class", "@version", "type", "ntypes", "repflow", "repflow_variable", "type_map", "trainable", "seed"),
        *("use_loc_mapping", "type_embedding", "chg_embedding", "spin_embedding", "mix_cs_mlp"),
        *("precision", "exclude_types"),
    },
    "fitting_net": {
        *("@class", "@version", "@variables", "type", "ntypes", "dim_descrpt", "nets", "type_map", "trainable", "seed"),
        *("rcond", "atom_ener", "layer_name", "embedding_width", "dim_out", "var_name", "exclude_types", "bias_atom_e"),
        *("precision", "default_fparam", "mixed_types", "use_aparam_as_mask", "tot_ener_zero", "spin"),
    },
    "model": {
        *("@class", "@version", "@variables", "type", "type_map", "descriptor", "fitting_net", "rcond", "info"),
        *("preset_out_bias", "data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "srtab_add_bias"),
        *("model_branch_alias", "bridging_r_inner", "bridging_r_outer", "finetune_head", "finetune_multi_task"),
        *("resuming", "new_type_map", "bias_adjust_mode", "_comment", "seed", "type_embedding"),
    },
}
"""Options that change no number of a trained model, or that are read elsewhere."""

_PRECISIONS = {
    "default": "float64",
    "double": "float64",
    "float64": "float64",
    "float32": "float32",
    "single": "float32",
}


def net_options(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of `DPA3` for the model section of a deepmd-kit model.

    Args:
        section: with `type_map`, `descriptor` (and `repflow` inside it) and `fitting_net`.
        where: what to call the file in messages.

    Raises:
        FileFormatError: another kind of model, an option that is missing, unknown or not supported.
    """
    types = section.get("type_map")
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise FileFormatError(f"{where}: its type_map is {types!r}, expected a list of chemical symbols")
    _refuse_other_models(section, where)
    descriptor, fitting = section["descriptor"], section["fitting_net"]
    _refuse_other_fittings(fitting, where)
    repflow = descriptor.get("repflow")
    if not isinstance(repflow, Mapping):
        raise FileFormatError(f"{where}: its descriptor has no section 'repflow'")
    repflow = {_OLD_SPELLINGS.get(str(key), str(key)): value for key, value in repflow.items()}
    if repflow.get("skip_stat"):
        repflow["fix_stat_std"] = 0.3
    precision = _precision(descriptor.get("precision", "default"), where)
    fitting_precision = _precision(fitting.get("precision", "default"), where)
    return {
        "elements": list(types),
        **_arguments(repflow, _REPFLOW, "repflow", where),
        **_arguments(descriptor, _DESCRIPTOR, "descriptor", where),
        "excluded_pairs": _excluded_pairs(section, descriptor, types, where),
        "excluded_elements": _excluded_elements(section, fitting, types, where),
        **_arguments(fitting, _FITTING, "fitting_net", where),
        "precision": precision,
        "fitting_precision": None if fitting_precision == precision else fitting_precision,
        "initialization": "published",
    }


def model_section(config: Mapping[str, Any], precision: str, fitting_precision: str) -> dict[str, Any]:
    """The model section of a deepmd-kit input for a net; what `net_options` reads back.

    Args:
        config: arguments of `DPA3`.
        precision: of the descriptor's weights, `float32` or `float64`.
        fitting_precision: of the fitting net's weights.
    """
    index = config["elements"].index
    return {
        "type_map": list(config["elements"]),
        "atom_exclude_types": [index(name) for name in config["excluded_elements"] or []],
        "descriptor": {
            "type": "dpa3",
            "repflow": _options(config, _REPFLOW),
            **_options(config, _DESCRIPTOR),
            "precision": precision,
            "exclude_types": [[index(a), index(b)] for a, b in config["excluded_pairs"] or []],
        },
        "fitting_net": {"type": "ener", **_options(config, _FITTING), "precision": fitting_precision},
    }


def _options(config: Mapping[str, Any], table: Mapping[str, tuple[str, Any, _Convert]]) -> dict[str, Any]:
    """The arguments of a table in the words of deepmd-kit."""
    options = {}
    for key, (name, _, convert) in table.items():
        words = {ours: theirs for theirs, ours in convert.items()} if isinstance(convert, Mapping) else None
        options[key] = config[name] if words is None else words[config[name]]
    return options


def _refuse_other_models(section: Mapping[str, Any], where: str) -> None:
    for key in ("descriptor", "fitting_net"):
        if not isinstance(section.get(key), Mapping):
            raise FileFormatError(f"{where}: its model has no '{key}', so it is not an energy model with DPA3")
    kinds = {
        "model": (section.get("type", "standard"), ("standard", None)),
        "descriptor": (section["descriptor"].get("type"), ("dpa3",)),
        "fitting net": (section["fitting_net"].get("type", "ener"), ("ener",)),
        "fitted quantity": (section["fitting_net"].get("var_name", "energy"), ("energy",)),
        "bridging method": (section.get("bridging_method", "None"), ("None", None)),
    }
    for part, (found, expected) in kinds.items():
        if found not in expected:
            raise FileFormatError(f"{where}: its {part} is '{found}'; only '{expected[0]}' can be imported")
    odd = [
        key
        for key, value in section.items()
        if key not in _WITHOUT_MEANING["model"] and not key.endswith("exclude_types") and _says_something(value)
    ]
    if odd and odd != ["bridging_method"]:
        raise FileFormatError(f"{where}: its model section has the option '{odd[0]}', which can't be imported")


def _says_something(value: Any) -> bool:
    plain = value is None or isinstance(value, bool | int | float | str | list | dict)
    return not plain or (bool(value) and value != "None")


def _refuse_other_fittings(section: Mapping[str, Any], where: str) -> None:
    for key in ("use_aparam_as_mask", "tot_ener_zero", "spin"):
        if section.get(key):
            raise FileFormatError(f"{where}: its fitting_net uses '{key}', which can't be imported")
    if section.get("mixed_types") is False:
        raise FileFormatError(f"{where}: its fitting net has one net per type, which can't be imported")
    if section.get("default_fparam"):
        warnings.warn(
            f"{where}: default_fparam={section['default_fparam']} is not kept; give 'frame_parameters' with each graph",
            GeomlibWarning,
            stacklevel=4,
        )


def _arguments(
    section: Mapping[str, Any], table: Mapping[str, tuple[str, Any, _Convert]], part: str, where: str
) -> dict[str, Any]:
    """The options of a table in the words of `DPA3`."""
    for key, value in section.items():
        known = key in table or key in _WITHOUT_MEANING[part] or key.startswith("_")
        if not known and _says_something(value):
            raise FileFormatError(f"{where}: its {part} has the option '{key}', which is unknown here")
    arguments = {}
    for key, (name, default, convert) in table.items():
        value = section.get(key, default)
        if value is _REQUIRED or (value is None and default is not None):
            raise FileFormatError(f"{where}: its {part} lacks the option '{key}'")
        try:
            arguments[name] = convert[value] if isinstance(convert, Mapping) else convert(value)
        except (KeyError, TypeError, ValueError):
            raise FileFormatError(f"{where}: its {part} has {key}={value!r}, which is not understood") from None
    return arguments


def _precision(name: Any, where: str) -> str:
    if name in ("float16", "bfloat16", "half"):
        warnings.warn(f"{where}: {name} weights are taken over to float32", GeomlibWarning, stacklevel=4)
        return "float32"
    if name not in _PRECISIONS:
        raise FileFormatError(f"{where}: its precision is {name!r}; known: {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name]


def _excluded_pairs(
    section: Mapping[str, Any], descriptor: Mapping[str, Any], types: list[str], where: str
) -> list[list[str]] | None:
    pairs = [*(descriptor.get("exclude_types") or []), *(section.get("pair_exclude_types") or [])]
    try:
        names = sorted({tuple(sorted((int(a), int(b)))) for a, b in pairs})
        return [[types[a], types[b]] for a, b in names] or None
    except (IndexError, TypeError, ValueError):
        raise FileFormatError(f"{where}: excluded pairs {pairs} are not pairs of type indices") from None


def _excluded_elements(
    section: Mapping[str, Any], fitting: Mapping[str, Any], types: list[str], where: str
) -> list[str] | None:
    of_model, of_fitting = section.get("atom_exclude_types") or [], fitting.get("exclude_types") or []
    if of_fitting and sorted(of_fitting) != sorted(of_model):
        raise FileFormatError(
            f"{where}: excluded types of the model {of_model} and of its fitting net {of_fitting} differ"
        )
    try:
        return [types[int(index)] for index in sorted(set(of_model))] or None
    except (IndexError, TypeError, ValueError):
        raise FileFormatError(f"{where}: excluded types {of_model} are not type indices") from None
